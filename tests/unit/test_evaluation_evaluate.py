"""Scoring images of a store: the right cameras, scores, pictures, progress and stopping."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.errors import DataError, NonFiniteError
from nerfcore.evaluation import AdaptationState, EvaluationPictures, MetricRow, score_images
from nerfcore.evaluation.evaluate import camera_of
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.metrics import LpipsUnavailable

STATE = AdaptationState(tto=16, adapt_seconds=2.5, rays=4096, seed=3, checkpoint="step200")
NO_LPIPS = LpipsUnavailable("lpips unavailable: no file")
SIZES = ((24, 32), (30, 20), (24, 32))  # (height, width)


class FlatScene:
    """Renders one grey level; records the cameras it was asked for."""

    def __init__(self, level: float, cancel_at: int | None = None) -> None:
        self.level = level
        self.cancel_at = cancel_at
        self.cameras: list[Camera] = []

    def render(
        self,
        camera: Camera,
        *,
        max_samples: int | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        if self.cancel_at == len(self.cameras):
            return None
        self.cameras.append(camera)
        shape = (camera.height_px, camera.width_px)
        rgb = np.full((*shape, 3), self.level, np.float32)
        return Rendered(rgb, np.ones(shape, np.float32), np.ones(shape, np.float32))


def make_store(folder: Path, masks: dict[int, np.ndarray] | None = None) -> ImageStore:
    """Three flat grey photographs (levels 51, 102, 153) of two sizes, as a store."""
    paths, valid_paths = [], []
    for index, (height_px, width_px) in enumerate(SIZES):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), np.full((height_px, width_px, 3), 51 * (index + 1), np.uint8))
        paths.append(path)
        mask = (masks or {}).get(index)
        valid_paths.append(None if mask is None else folder / f"{index}-valid.png")
        if mask is not None:
            cv2.imwrite(str(valid_paths[-1]), mask)
    poses = np.tile(np.eye(4, dtype=np.float32)[:3], (3, 1, 1))
    poses[:, 0, 3] = [1, 2, 3]
    return ImageStore(
        ImageSet(
            ("a.jpg", "b.jpg", "c.jpg"),
            tuple(paths),
            tuple(valid_paths),
            poses,
            np.array([[40, 41, w / 2, h / 2] for h, w in SIZES], np.float32),
            np.array([w for _, w in SIZES], np.int32),
            np.array([h for h, _ in SIZES], np.int32),
        )
    )


def test_scores_cameras_and_pictures(tmp_path: Path) -> None:
    """Each image asked for is rendered from its own camera, scored and written, in order."""
    store = make_store(tmp_path)
    scene, seen = FlatScene(0.5), []
    job = tmp_path / "job"
    scored = score_images(
        scene,
        store,
        [1, 0],
        "new_heldout",
        STATE,
        lpips=NO_LPIPS,
        pictures=EvaluationPictures(job),
        on_progress=lambda done, total, row: seen.append((done, total, row.image)),
    )
    assert not scored.stopped
    assert seen == [(1, 2, "b.jpg"), (2, 2, "a.jpg")]
    assert [(c.width_px, c.height_px, float(c.c2w[0, 3])) for c in scene.cameras] == [
        (20, 30, 2.0),
        (32, 24, 1.0),
    ]
    first = scored.rows[0]
    assert (first.tto, first.split, first.image) == (16, "new_heldout", "b.jpg")
    assert (first.rays, first.seed, first.checkpoint) == (4096, 3, "step200")
    assert first.adapt_seconds == 2.5
    # Grey 0.5 against 0.4 is 20 dB; against 0.2 it is -20 log10(0.3) dB.
    assert first.psnr == pytest.approx(20.0, abs=1e-4)
    assert scored.rows[1].psnr == pytest.approx(-20 * math.log10(0.3), abs=1e-4)
    assert first.psnr_linear != pytest.approx(first.psnr, abs=0.5)
    assert math.isnan(first.lpips)
    assert first.lpips_note == NO_LPIPS.reason
    assert first.render_seconds >= 0.0
    assert sorted(p.name for p in (job / "pred" / "16").iterdir()) == [
        "new_heldout__a.png",
        "new_heldout__b.png",
    ]


def test_only_valid_pixels_count(tmp_path: Path) -> None:
    """A mask halves what is scored and leaves the score of a flat picture as it was."""
    mask = np.full((24, 32), 255, np.uint8)
    mask[:, :16] = 0
    store = make_store(tmp_path, {0: mask})
    store.image(0)[:, :16] = 255
    scored = score_images(FlatScene(0.2), store, [0], "old_val", STATE, lpips=NO_LPIPS)
    assert scored.rows[0].psnr == 100.0
    assert scored.rows[0].ssim == pytest.approx(1.0)


def test_image_without_valid_pixels_is_refused_first(tmp_path: Path) -> None:
    """An image that cannot be scored is named before anything is rendered."""
    store, scene = make_store(tmp_path, {1: np.zeros((30, 20), np.uint8)}), FlatScene(0.5)
    with pytest.raises(DataError, match=r"image b\.jpg: 0 valid pixels"):
        score_images(scene, store, [0, 1], "old_val", STATE, lpips=NO_LPIPS)
    assert scene.cameras == []


def test_non_finite_rendering_names_the_image(tmp_path: Path) -> None:
    """A NaN picture is no score: the error names image and steps."""
    store = make_store(tmp_path)
    with pytest.raises(NonFiniteError, match=r"image a\.jpg after 16 steps: prediction"):
        score_images(FlatScene(math.nan), store, [0], "old_val", STATE, lpips=NO_LPIPS)


def test_stops_between_images(tmp_path: Path) -> None:
    """Asked to stop, scoring keeps the rows it has and says that it stopped."""
    rows: list[MetricRow] = []
    scored = score_images(
        FlatScene(0.5),
        make_store(tmp_path),
        [0, 1, 2],
        "adapted",
        STATE,
        lpips=NO_LPIPS,
        on_progress=lambda done, total, row: rows.append(row),
        should_stop=lambda: len(rows) == 2,
    )
    assert scored.stopped
    assert scored.rows == tuple(rows)
    assert len(rows) == 2


def test_stops_inside_an_image(tmp_path: Path) -> None:
    """A rendering that was cut off leaves no row."""
    scene = FlatScene(0.5, cancel_at=1)
    scored = score_images(scene, make_store(tmp_path), [0, 1, 2], "adapted", STATE, lpips=NO_LPIPS)
    assert scored.stopped
    assert [row.image for row in scored.rows] == ["a.jpg"]


def test_camera_of_uses_the_scaled_intrinsics(tmp_path: Path) -> None:
    """The camera has the store's size and intrinsics as plain numbers."""
    camera = camera_of(make_store(tmp_path), 1)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (40.0, 41.0, 10.0, 15.0)
    assert isinstance(camera.width_px, int)
