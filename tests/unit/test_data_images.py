"""Photographs in memory: sizes, scales, masks, and the temporary file."""

import cv2
import numpy as np
import pytest

from nerfcore.data.images import ImageStore, scaled_size
from nerfcore.data.records import ImageSet
from nerfcore.errors import DataError

SIZES = [(40, 30), (64, 48), (33, 21)]


def make_set(folder, sizes=SIZES, masks=()):
    rng = np.random.default_rng(1)
    paths, mask_paths = [], []
    for index, (width, height) in enumerate(sizes):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        paths.append(path)
        mask_paths.append(None)
        if index in masks:
            mask = np.full((height, width), 255, np.uint8)
            mask[:5] = 0
            mask_paths[-1] = folder / f"{index}_valid.png"
            cv2.imwrite(str(mask_paths[-1]), mask)
    return ImageSet(
        tuple(path.name for path in paths),
        tuple(paths),
        tuple(mask_paths),
        np.tile(np.eye(3, 4, dtype=np.float32), (len(sizes), 1, 1)),
        np.array([[50.0, 51.0, w / 2, h / 2] for w, h in sizes], np.float32),
        np.array([w for w, _ in sizes], np.int32),
        np.array([h for _, h in sizes], np.int32),
    )


def test_images_of_different_sizes(tmp_path):
    """Each image lies in one buffer at its offset, in RGB order."""
    images = make_set(tmp_path)
    store = ImageStore(images)
    assert len(store) == 3 and store.pixels.shape == (sum(w * h for w, h in SIZES), 3)
    for index, path in enumerate(images.paths):
        want = cv2.imread(str(path))[..., ::-1]
        assert np.array_equal(store.image(index), want)
        first = store.offsets[index]
        width = store.widths[index]
        assert np.array_equal(store.pixels[first + 2 * width + 7], want[2, 7])
    assert store.valid is None and store.valid_mask(1).all()


def test_several_sets_are_joined(tmp_path):
    """Sets are joined in order."""
    images = make_set(tmp_path)
    store = ImageStore([images.subset([2]), images.subset([0, 1])])
    assert store.names == ("2.png", "0.png", "1.png")
    assert np.array_equal(store.image(0), ImageStore(images).image(2))


@pytest.mark.parametrize("downscale", [0.5, 0.25, 0.3])
def test_downscaling(tmp_path, downscale):
    """Sizes are rounded, intrinsics follow the true ratio, pixels are area averages."""
    images = make_set(tmp_path)
    store = ImageStore(images, downscale)
    for index, (width, height) in enumerate(SIZES):
        small = scaled_size(width, height, downscale)
        assert store.image(index).shape == (small[1], small[0], 3)
        ratios = np.array([small[0] / width, small[1] / height] * 2)
        assert np.allclose(store.intrinsics[index], images.intrinsics[index] * ratios)
    if downscale == 0.5:
        full = ImageStore(images).image(0).astype(float)
        blocks = full.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
        assert np.abs(store.image(0) - blocks).max() <= 0.51


def test_reduced_masks_are_strict(tmp_path):
    """A reduced pixel is valid only when all pixels it averages are."""
    store = ImageStore(make_set(tmp_path, masks=(1,)), 0.5)
    assert store.valid is not None and store.valid_mask(0).all()
    assert not store.valid_mask(1)[:3].any() and store.valid_mask(1)[3:].all()


def test_over_budget_uses_a_file(tmp_path):
    """Above the budget the same pixels lie in a mapped temporary file; closing drops them."""
    images = make_set(tmp_path)
    with ImageStore(images, budget_bytes=100) as store:
        assert isinstance(store.pixels, np.memmap)
        assert np.array_equal(store.pixels, ImageStore(images).pixels)
    assert len(store.pixels) == 0


def test_progress_is_reported(tmp_path):
    """The callback hears of every image."""
    heard = []
    ImageStore(make_set(tmp_path), on_progress=lambda *numbers: heard.append(numbers))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_refusals(tmp_path):
    """A downscale out of range, another size than listed, and a broken mask are refused."""
    images = make_set(tmp_path, masks=(0,))
    with pytest.raises(DataError, match=r"downscale: 1\.5"):
        ImageStore(images, 1.5)
    cv2.imwrite(str(images.paths[1]), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"1\.png: 9x9 px, listed 64x48"):
        ImageStore(images)
    images.valid_paths[0].write_text("x")
    with pytest.raises(DataError, match="unreadable mask"):
        ImageStore(images.subset([0]))


def test_no_images(tmp_path):
    """An empty set gives an empty store."""
    store = ImageStore(make_set(tmp_path).subset([]))
    assert len(store) == 0 and store.pixels.shape == (0, 3)
