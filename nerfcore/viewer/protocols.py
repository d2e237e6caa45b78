"""Owns what the viewer asks of the engine: a scene that renders and an adapter that steps.

The viewer knows the engine only through these shapes, so that it can be tested with an analytic
scene. World frame DRB (scaled), cameras RUB, as in `nerfcore.geometry.camera`.
"""

from collections.abc import Callable
from typing import Protocol

from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera, Rendered


class SceneLike(Protocol):
    """A scene that renders pinhole pictures, slice by slice."""

    @property
    def frame(self) -> SceneFrame:
        """How world coordinates relate to metres and to the Earth."""
        ...

    def render(
        self,
        camera: Camera,
        *,
        max_samples: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        """Render a camera's picture.

        Args:
            camera: the view.
            max_samples: most samples a ray, None = the scene's own setting.
            cancelled: asked between chunks of rays; the caller may block in it to let others use
                the model. True ends the render.

        Returns:
            The picture, or None when cancelled.
        """
        ...


class StepResultLike(Protocol):
    """What one adaptation step reports."""

    @property
    def step(self) -> int:
        """Steps taken so far."""
        ...

    @property
    def loss(self) -> float:
        """Loss of this step's batch."""
        ...

    @property
    def psnr(self) -> float:
        """PSNR of this step's batch, dB."""
        ...

    @property
    def seconds(self) -> float:
        """Time spent in all steps so far, s."""
        ...


class AdapterLike(Protocol):
    """Test-time optimisation of the shown model, in place.

    It is made while renders go on, so making it must leave the parameters as they are; `step` and
    `reset` have the model to themselves.
    """

    def step(self) -> StepResultLike:
        """Take one optimiser step."""
        ...

    def reset(self) -> object:
        """Put the model back to what it was before the first step."""
        ...
