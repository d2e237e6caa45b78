"""Compiles the CPU kernels, so that the first job need not: `python -m nerfcore.precompile`.

The compiled code is cached beside the modules (or in NUMBA_CACHE_DIR).
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from nerfcore.city.precompile import compile_kernels
from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import ImageSet, SceneFrame
from nerfcore.geometry.camera import Camera
from nerfcore.scene import SceneModel, new_scene
from nerfcore.settings import HashGridSettings, ModelSettings, SamplingSettings
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import PixelSampler, RayBatch


def tiny_scene() -> SceneModel:
    """One expert in a cube of 20 m, tiny table."""
    low, high = np.full((1, 3), -1.0, np.float32), np.full((1, 3), 1.0, np.float32)
    partition = Partition(
        "tiny", np.zeros((1, 3), np.float32), low, high, np.concatenate([low, high]), True, 1.05,
        (1, 1),
    )  # fmt: skip
    frame = SceneFrame(10.0, np.zeros(3), None, (-10.0, 10.0))
    grid = HashGridSettings(log2_size=10, max_resolution=64)
    return new_scene(
        frame, partition, ModelSettings(grid=grid), SamplingSettings(), cell_m=5.0, device="cpu"
    )


def main() -> None:
    """Run every kernel once on a tiny scene."""
    compile_kernels()
    scene = tiny_scene()
    c2w = np.eye(3, 4, dtype=np.float32)
    c2w[:, 3] = (0.0, 0.0, 2.0)
    camera = Camera(c2w, 8.0, 8.0, 4.0, 4.0, 8, 8)
    scene.render(camera)
    origins, directions = camera.rays()
    batch = RayBatch(origins, directions, np.full((64, 3), 0.5, np.float32), np.zeros(64, np.int64))
    learner = Learner(scene, np.random.default_rng(0))
    learner.step(batch, Rates())
    scene.occupancy.update(scene.densities, 1.0, 64, learner.rng)
    _compile_pixels()


def _compile_pixels() -> None:

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.png"
        cv2.imwrite(str(path), np.full((8, 8, 3), 128, np.uint8))
        images = ImageSet(
            ("grey.png",), (path,), (None,), np.eye(3, 4, dtype=np.float32)[None],
            np.array([[8.0, 8.0, 4.0, 4.0]], np.float32), np.array([8], np.int32),
            np.array([8], np.int32),
        )  # fmt: skip
        with ImageStore(images) as store:
            PixelSampler(store, np.random.default_rng(0)).draw(4)


if __name__ == "__main__":
    main()
