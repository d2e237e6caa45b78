"""What tracing rays through the experts means, whatever computes it.

For every ray: place samples where matter may be (`sampling.march`), evaluate the experts that own
each sample and blend them (sigma = sum_k w_k sigma_k, colour = sum_k w_k c_k), composite front to
back, stop where less than `sampling.min_transmittance` of the light remains, and put
the background behind. Distances are world units unless a name says metres, densities per metre;
colours are composited in the model's `colour_space`; losses are taken in sRGB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import Parameters
from nerfcore.sampling.march import MarchScene, Samples
from nerfcore.settings import ModelSettings, SamplingSettings
from nerfcore.variants import Variants


@dataclass(frozen=True)
class TracedScene:
    """Everything but the parameters.

    Attributes:
        march: boxes, routing and occupancy.
        sampling: step lengths and bounds, metres.
        settings: architecture, colour space, background.
        scale_m: metres per world unit.
        variants: copies of experts that answer in some ground cells, or None.
    """

    march: MarchScene
    sampling: SamplingSettings
    settings: ModelSettings
    scale_m: float
    variants: Variants | None = None

    def box(self, expert: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Corners f32[3] of the box that an expert, or the expert it is a copy of, fills."""
        base = expert if self.variants is None else int(self.variants.bases[expert])
        return self.march.box_mins[base], self.march.box_maxs[base]


@dataclass(frozen=True)
class Rays:
    """Rays to trace.

    Attributes:
        origins, directions: f32[R, 3], world; directions of unit length.
        jitter: f32[R] in [0, 1), position of a sample within its step (0.5: the middle).
    """

    origins: NDArray[np.float32]
    directions: NDArray[np.float32]
    jitter: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.origins)


@dataclass(frozen=True)
class TracedRays:
    """What rays see.

    Attributes:
        rgb: f32[R, 3], background included, in the compositing space (not clamped).
        opacity: f32[R]; depth: f32[R], sum of weight * t (divide by opacity for a distance).
    """

    rgb: NDArray[np.float32]
    opacity: NDArray[np.float32]
    depth: NDArray[np.float32]


@dataclass(frozen=True)
class Gradients:
    """Buffers that gradients are added to.

    Attributes:
        experts: buffers by expert index; an expert that is not in it gets none.
        background: the background's buffers, or None for no gradient.
        splats: where an expert's table has no buffer, its gradient is appended here (only for
            tracers that say `makes_splats`).
    """

    experts: Mapping[int, Parameters]
    background: Parameters | None
    splats: dict[int, list[Splats]] = field(default_factory=dict)


@dataclass(frozen=True)
class LossReport:
    """What a gradient pass saw.

    Attributes:
        mse: mean squared error in sRGB over rays and channels.
        shaded: samples that were lit, hence coloured and given a gradient.
        touched: experts that got a gradient.
        rays: the rays given, perhaps in another order.
        samples: all their samples; sigmas: f32[S] per metre, blended, at them.
    """

    mse: float
    shaded: int
    touched: frozenset[int]
    rays: Rays
    samples: Samples
    sigmas: NDArray[np.float32]


class Tracer(Protocol):
    """Traces rays for one architecture on one device.

    `makes_splats`: whether table gradients may go to `Gradients.splats`.
    """

    makes_splats: bool

    def densities(
        self, parameters: Parameters, positions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """One expert's densities f32[N] per metre at points f32[N, 3] of its unit cube."""
        ...

    def render(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        background: Parameters,
        rays: Rays,
        max_samples: int | None = None,
    ) -> TracedRays:
        """Trace rays without gradient; `max_samples` may lower the scene's limit.

        Samples whose weight is below `RENDER_MIN_WEIGHT` may be left without colour.
        """
        ...

    def loss_gradient(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        background: Parameters,
        rays: Rays,
        truth: NDArray[np.float32],
        gradients: Gradients,
    ) -> LossReport:
        """Add the gradient of the mean squared error in sRGB to the buffers.

        Args:
            truth: f32[R, 3], sRGB in [0, 1].
            gradients: untouched when the error is not finite (`LossReport.mse` tells).
        """
        ...
