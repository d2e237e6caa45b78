"""A tiny scene, photographs of what it shows, and later ones with one corner painted over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from engine_scenes import tiny_scene

from nerfcore.adaptation.looks import look
from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.scene import SceneModel
from nerfcore.training.learner import Rates

SIZE_PX = 48
FAST = Rates(0.02, 0.005, 0.005, 0.005)
Stores = tuple[SceneModel, ImageStore, ImageStore]
"""The scene, its old photographs and the new ones."""


@contextmanager
def painted_stores(folder: Path) -> Iterator[Stores]:
    """Make the scene and its photographs in a folder, and open them."""
    scene = tiny_scene(2, 2, table_scale=2e3)
    poses = []
    for dy, dz in ((-0.2, -0.2), (0.2, -0.2), (-0.2, 0.2), (0.2, 0.2)):
        pose = np.array([[0, 0, -1, -2], [1, 0, 0, dy], [0, -1, 0, dz]], np.float32)
        poses.append(pose)
    old = _photographs(folder / "old", scene, poses, painted=False)
    new = _photographs(folder / "new", scene, poses, painted=True)
    with ImageStore(old) as old_store, ImageStore(new) as new_store:
        yield scene, old_store, new_store


def _photographs(folder: Path, scene: SceneModel, poses: list, *, painted: bool) -> ImageSet:  # type: ignore[type-arg]
    folder.mkdir()
    size = np.full(len(poses), SIZE_PX, np.int32)
    intrinsics = np.tile(np.array([SIZE_PX, SIZE_PX, SIZE_PX / 2, SIZE_PX / 2], np.float32), (4, 1))
    paths = tuple(folder / f"{i}.png" for i in range(len(poses)))
    blank = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    for path in paths:
        cv2.imwrite(str(path), blank)
    images = ImageSet(
        tuple(p.name for p in paths), paths, (None,) * len(paths), np.stack(poses), intrinsics,
        size, size,
    )  # fmt: skip
    with ImageStore(images) as store:
        for i, path in enumerate(paths):
            seen = look(scene, store, i)
            picture = seen.shown.copy()
            if painted:
                there = (seen.points[..., 1] < -0.3) & (seen.points[..., 2] < -0.3)
                picture[there] = 1.0 - picture[there]
            pixels = np.rint(picture * 255).astype(np.uint8)
            cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return images
