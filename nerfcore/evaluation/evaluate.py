"""Owns scoring: each image of a store is rendered from its own camera and compared with it.

Scores are taken at the store's resolution, over valid pixels, in sRGB (linear light as a second
column). The scene is anything that renders a camera; nothing here changes it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nerfcore.adaptation.exposure import Gains, exposed, no_exposure
from nerfcore.colour import bytes_to_srgb
from nerfcore.data.images import ImageStore
from nerfcore.errors import DataError, NonFiniteError
from nerfcore.evaluation.frame import MetricRow, Split
from nerfcore.evaluation.pictures import EvaluationPictures, check_names
from nerfcore.evaluation.weights import ExpertShares
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.metrics.lpips import Lpips, LpipsUnavailable
from nerfcore.metrics.psnr import psnr, psnr_linear
from nerfcore.metrics.ssim import ssim


class Scene(Protocol):
    """What scoring needs of a scene model."""

    def render(
        self,
        camera: Camera,
        *,
        max_samples: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        """Render one picture, or return None if cancelled."""
        ...


@dataclass(frozen=True)
class AdaptationState:
    """How the scene came to be what is scored.

    Attributes:
        tto: optimisation steps taken, 0 or more.
        adapt_seconds: wall seconds they took, ray building included.
        rays: rays they used.
        seed: of the job.
        checkpoint: name of the starting point.
    """

    tto: int
    adapt_seconds: float
    rays: int
    seed: int
    checkpoint: str


@dataclass(frozen=True)
class Scored:
    """What scoring gave.

    Attributes:
        rows: one for each image scored, in the order asked.
        stopped: True when `should_stop` ended it before the last image.
    """

    rows: tuple[MetricRow, ...]
    stopped: bool


def score_images(
    scene: Scene,
    store: ImageStore,
    indices: Sequence[int],
    split: Split,
    state: AdaptationState,
    *,
    lpips: Lpips | LpipsUnavailable,
    pictures: EvaluationPictures | None = None,
    exposure_of: Callable[[int], Gains] | None = None,
    shares: ExpertShares | None = None,
    on_rendered: Callable[[int, Rendered], None] | None = None,
    on_progress: Callable[[int, int, MetricRow], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Scored:
    """Render and score images of a store.

    Args:
        scene: renders cameras.
        store: the images.
        indices: which of them, in this order.
        split: what they are to the adaptation.
        state: what was done to the scene before.
        lpips: from `nerfcore.metrics.load_lpips`; loaded once for a job.
        pictures: where pictures go, or None for no pictures.
        exposure_of: gains that an image's rendering is shown with; None = as the model is.
        shares: says which experts an image shows; None leaves that out.
        on_rendered: given each image's index and its rendering as it is scored.
        on_progress: called after each image with (images done, images in all, its row).
        should_stop: asked before each image and between chunks of rays.

    Returns:
        The rows, and whether it was stopped; an image cut off in the middle has no row.

    Raises:
        DataError: an image has no valid pixel, or two would share a picture name (both checked
            before anything is rendered).
        NonFiniteError: a rendering holds NaN or infinity; the image is named.
    """
    check_images(store, indices, split)
    rows: list[MetricRow] = []
    for index in indices:
        if should_stop is not None and should_stop():
            return Scored(tuple(rows), stopped=True)
        started_s = time.perf_counter()
        rendered = scene.render(camera_of(store, index), cancelled=should_stop)
        if rendered is None:
            return Scored(tuple(rows), stopped=True)
        render_s = time.perf_counter() - started_s
        gains = no_exposure() if exposure_of is None else exposure_of(index)
        if gains.any():
            rendered = replace(rendered, rgb=exposed(rendered.rgb, gains))
        truth, valid = store.image(index), store.valid_mask(index)
        row = _row(rendered.rgb, truth, valid, store.names[index], split, state, lpips, render_s)
        row = replace(
            row,
            expert_weights="" if shares is None else shares.of(camera_of(store, index), rendered),
            exposure_red=float(gains[0]),
            exposure_green=float(gains[1]),
            exposure_blue=float(gains[2]),
        )
        if pictures is not None:
            pictures.write(row, rendered.rgb, truth, valid, rendered.depth_m)
        if on_rendered is not None:
            on_rendered(index, rendered)
        rows.append(row)
        if on_progress is not None:
            on_progress(len(rows), len(indices), row)
    return Scored(tuple(rows), stopped=False)


def camera_of(store: ImageStore, index: int) -> Camera:
    """Return the camera that took image `index`, at the store's resolution."""
    fx, fy, cx, cy = (float(value) for value in store.intrinsics[index])
    return Camera(
        store.c2w[index], fx, fy, cx, cy, int(store.widths[index]), int(store.heights[index])
    )


def check_images(store: ImageStore, indices: Sequence[int], split: Split) -> None:
    """Refuse images that cannot be scored: without a valid pixel, or with pictures of one name.

    Raises:
        DataError: names the image and the mend.
    """
    check_names(split, [store.names[index] for index in indices])
    for index in indices:
        if not store.valid_mask(index).any():
            raise DataError(
                f"image {store.names[index]}: 0 valid pixels, at least 1 is needed to score it; "
                "mend its mask or leave it out"
            )


def _row(
    prediction: NDArray[np.float32],
    truth_bytes: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    image: str,
    split: Split,
    state: AdaptationState,
    lpips: Lpips | LpipsUnavailable,
    render_s: float,
) -> MetricRow:
    truth = bytes_to_srgb(truth_bytes)
    try:
        distance = lpips.measure(prediction, truth, valid)
        return MetricRow(
            tto=state.tto,
            split=split,
            image=image,
            psnr=psnr(prediction, truth, valid),
            ssim=ssim(prediction, truth, valid),
            lpips=distance.value,
            lpips_note=distance.note,
            psnr_linear=psnr_linear(prediction, truth, valid),
            adapt_seconds=state.adapt_seconds,
            render_seconds=render_s,
            rays=state.rays,
            seed=state.seed,
            checkpoint=state.checkpoint,
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"image {image} after {state.tto} steps: {error}") from error
