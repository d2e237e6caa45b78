"""Photographs in memory: sizes, scales, masks, and the temporary file."""

import errno
import os

import cv2
import numpy as np
import pytest

from nerfcore.data.array_file import ArrayFile
from nerfcore.data.images import ImageStore, scaled_size
from nerfcore.data.records import ImageSet
from nerfcore.errors import DataError
from nerfcore.training.pixels import PixelSampler

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
    """Above the budget the same pixels and masks lie in files, read alike; closing drops them."""
    images = make_set(tmp_path, masks=(1,))
    rng = np.random.default_rng(0)
    with ImageStore(images, budget_bytes=100) as store, ImageStore(images) as held:
        assert isinstance(store.pixels, ArrayFile) and isinstance(store.valid, ArrayFile)
        assert isinstance(held.pixels, np.ndarray) and isinstance(held.valid, np.ndarray)
        assert len(store.pixels) == len(held.pixels) == len(store.valid)
        flat = rng.integers(0, len(held.pixels), 500)
        assert np.array_equal(store.pixels[flat], held.pixels[flat])
        assert np.array_equal(store.valid[flat], held.valid[flat])
        for index in range(len(images)):
            assert np.array_equal(store.image(index), held.image(index))
            assert np.array_equal(store.valid_mask(index), held.valid_mask(index))
        drawn = PixelSampler(store, np.random.default_rng(4)).draw(300)
        same = PixelSampler(held, np.random.default_rng(4)).draw(300)
        assert np.array_equal(drawn.rgbs, same.rgbs)
    assert len(store.pixels) == 0 and store.valid is None


def test_masks_count_towards_the_budget(tmp_path):
    """A store whose pixels alone would fit, but not with their masks, goes to files."""
    pixels = sum(w * h for w, h in SIZES)
    plain = make_set(tmp_path)
    assert isinstance(ImageStore(plain, budget_bytes=3 * pixels).pixels, np.ndarray)
    masked = make_set(tmp_path, masks=(0,))
    with ImageStore(masked, budget_bytes=3 * pixels) as store:
        assert isinstance(store.pixels, ArrayFile)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 2)])
def test_array_file_reads_what_was_written(shape, dtype):
    """Rows and spans come back as an array's, for any row shape."""
    want = np.random.default_rng(2).integers(0, 2, shape).astype(dtype)
    kept = ArrayFile(shape, dtype)
    kept[0:3], kept[3:7] = want[:3], want[3:]
    rows = np.array([6, 0, 0, 3], np.int32)
    assert np.array_equal(kept[rows], want[rows]) and kept[rows].dtype == dtype
    assert np.array_equal(kept[2:5], want[2:5]) and kept[5:2].shape == (0, *shape[1:])
    assert kept[np.empty(0, np.int64)].shape == (0, *shape[1:])
    kept.close()


def test_array_file_refuses_what_it_cannot_read():
    """Rows out of range or unwritten, masks as indices, strides and misfits are errors."""
    kept = ArrayFile((5, 3), np.uint8)
    kept[0:1] = np.zeros((1, 3), np.uint8)
    with pytest.raises(IndexError, match="1 of 2 rows"):
        kept[np.array([0, 4])]
    for wrong in (np.array([-1]), np.array([5])):
        with pytest.raises(IndexError, match=r"outside 0\.\.4"):
            kept[wrong]
    with pytest.raises(IndexError, match="not all written"):
        kept[0:5]
    with pytest.raises(IndexError, match="type bool"):
        kept[np.ones(5, np.bool_)]
    with pytest.raises(IndexError, match="step 2"):
        kept[0:4:2]
    with pytest.raises(IndexError, match="do not fit"):
        kept[0:2] = np.zeros((3, 3), np.uint8)
    kept.close()


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    """When the temporary folder is full the error names it and what to do."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left on device.*set TMPDIR"):
        ImageStore(make_set(tmp_path), budget_bytes=100)


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
