"""Compiles the CPU kernels, so that the first job need not: `python -m nerfcore.precompile`.

The compiled code is cached on disk (see `compiled`), one file for each kernel and types of
arguments; so the tiny run here takes the ways of a job: a photograph with a mask, held in memory
and in a file, training, validation, adaptation, rendering with and without occupancy.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.city.precompile import compile_kernels
from nerfcore.compiled import remove_stale
from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import ImageSet, SceneFrame
from nerfcore.data.routing import point_owners, ray_owners
from nerfcore.geometry.camera import Camera
from nerfcore.sampling.occupancy import restrict_to_points
from nerfcore.scene import SceneModel, new_scene
from nerfcore.settings import HashGridSettings, ModelSettings, SamplingSettings
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import PixelSampler

RAYS = 64
STEPS = 4  # the occupancy learns from every few steps
SIDE_PX = 8


def tiny_scene(experts: int = 2) -> SceneModel:
    """Experts side by side in a cube of 20 m, tiny tables."""
    edges = np.linspace(-1.0, 1.0, experts + 1, dtype=np.float32)
    low, high = np.full((experts, 3), -1.0, np.float32), np.full((experts, 3), 1.0, np.float32)
    low[:, 1], high[:, 1] = edges[:-1], edges[1:]
    centroids = ((low + high) / 2.0).astype(np.float32)
    aabb = np.array([[-1.0] * 3, [1.0] * 3], np.float32)
    partition = Partition("tiny", centroids, low, high, aabb, True, 1.05, (experts, 1))
    frame = SceneFrame(10.0, np.zeros(3), None, (-10.0, 10.0))
    grid = HashGridSettings(log2_size=10, max_resolution=64)
    return new_scene(
        frame, partition, ModelSettings(grid=grid), SamplingSettings(), cell_m=5.0, device="cpu"
    )


def tiny_images(folder: Path) -> ImageSet:
    """Write one grey photograph and its mask, seen from above the tiny scene."""
    picture, mask = folder / "grey.png", folder / "mask.png"
    cv2.imwrite(str(picture), np.full((SIDE_PX, SIDE_PX, 3), 128, np.uint8))
    cv2.imwrite(str(mask), np.full((SIDE_PX, SIDE_PX), 255, np.uint8))
    c2w = np.eye(3, 4, dtype=np.float32)
    c2w[:, 3] = (0.0, 0.0, 2.0)
    size = np.array([SIDE_PX], np.int32)
    intrinsics = np.array([[8.0, 8.0, SIDE_PX / 2, SIDE_PX / 2]], np.float32)
    return ImageSet(("grey.png",), (picture,), (mask,), c2w[None], intrinsics, size, size)


def main() -> None:
    """Run every kernel once on tiny scenes."""
    remove_stale()
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder:
        images = tiny_images(Path(folder))
        for budget_bytes in (1 << 20, 0):  # in memory, and in a file
            with ImageStore(images, budget_bytes=budget_bytes) as store:
                for experts in (1, 2):
                    _use(tiny_scene(experts), store)


def _use(scene: SceneModel, store: ImageStore) -> None:
    """Train, adapt and render a scene as jobs do."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.9, 0.9, (RAYS, 3)).astype(np.float32)
    restrict_to_points(scene.occupancy, points, 0.5)
    learner, pixels = Learner(scene, rng), PixelSampler(store, rng)
    for _ in range(STEPS):
        learner.step(pixels.draw(RAYS), Rates())
    scene.occupancy.update(scene.densities, 1.0, RAYS, rng)
    adapter = Adapter(scene, store, AdaptSettings(rays=RAYS, replay=0.5), old=store)
    adapter.step()
    adapter.reset()
    local = AdaptSettings(rays=RAYS, exposure=True, local=True)
    Adapter(scene, store, local, old=store).step()
    camera = Camera(store.c2w[0], 8.0, 8.0, SIDE_PX / 2, SIDE_PX / 2, SIDE_PX, SIDE_PX)
    scene.render(camera)
    scene.with_sampling(SamplingSettings(use_occupancy=False)).render(camera)
    origins, directions = camera.rays()
    ray_owners(origins, directions, scene.partition, 4)
    p = scene.partition
    point_owners(points, p.centroids, boundary_margin=1.05, cluster_2d=p.cluster_2d)


if __name__ == "__main__":
    main()
