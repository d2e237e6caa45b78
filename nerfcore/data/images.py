"""Owns photographs in memory: decoding, downscaling, and one flat pixel buffer over all of them.

Pixels are uint8 sRGB in RGB order, row-major. EXIF orientation is ignored, as COLMAP ignores it:
its intrinsics belong to the stored rows and columns. Pixel centres lie at +0.5.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.data.array_file import ArrayFile, Scalar
from nerfcore.data.borders import border_mask
from nerfcore.data.photo_damage import damage
from nerfcore.data.records import ImageSet
from nerfcore.data.storage import REMAKE, check_content
from nerfcore.errors import DataError
from nerfcore.machine import usable_cores

DEFAULT_BUDGET_BYTES = 1024**3
_READ_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class PhotographError(DataError):
    """A photograph that gives no picture, or a wrong one.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str, mend: str = "restore the file") -> None:
        super().__init__(f"{path}: {reason}; {mend}")
        self.path, self.reason = path, reason


def _unreadable(path: Path, why: str) -> PhotographError:
    return PhotographError(path, f"unreadable photograph ({why})")


def _is_cut_off(content: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end (decoders fill the rest with grey, silently)."""
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-64:]
    if not content.startswith(b"\xff\xd8"):
        return False
    position = 2
    while position + 4 <= len(content) and content[position + 1] != 0xDA:
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return content.find(b"\xff\xd9", position) < 0


def decode_photograph(content: bytes, origin: Path) -> NDArray[np.uint8]:
    """Decode an image file's bytes to RGB u8[H, W, 3].

    Args:
        content: the file's bytes.
        origin: its path, for the error.

    Raises:
        PhotographError: empty, cut off, or not an image.
    """
    image = None
    if content and not _is_cut_off(content):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), _READ_RGB)
    if image is None:
        state = "empty" if not content else "cut off" if _is_cut_off(content) else "not an image"
        raise _unreadable(origin, f"{state}, {len(content)} bytes")
    return np.asarray(image, np.uint8)


def decode_undamaged(content: bytes, origin: Path) -> NDArray[np.uint8]:
    """As `decode_photograph`, for files without a recorded checksum: damage is refused too.

    Raises:
        PhotographError: empty, cut off, not an image, or damaged (see `damage`).
    """
    picture = decode_photograph(content, origin)
    if (found := damage(content)) is not None:
        raise _unreadable(origin, found)
    return picture


def read_photograph(path: Path, checksum: str | None = None) -> NDArray[np.uint8]:
    """Read an image file as RGB u8[H, W, 3].

    Args:
        path: the file.
        checksum: its SHA-256 (hex) as recorded; None = there is none, so damage is looked for.

    Raises:
        DataError: missing, empty, cut off, damaged, not an image, or not what was recorded.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or "cannot be read") from error
    if checksum is None:
        return decode_undamaged(content, path)
    check_content(path, content, checksum)
    return decode_photograph(content, path)


def read_mask(path: Path, checksum: str | None = None) -> NDArray[np.uint8]:
    """Read a validity mask u8[H, W] (255 = valid).

    Args:
        path: the file.
        checksum: its SHA-256 (hex) as recorded, None = there is none.

    Raises:
        DataError: missing, unreadable, or not what was recorded.
    """
    content = path.read_bytes() if path.is_file() else b""
    if checksum is not None:
        check_content(path, content, checksum)
    mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
    if mask is None:
        raise DataError(f"{path}: unreadable mask; {REMAKE}")
    return np.asarray(mask, np.uint8)


def scaled_size(width_px: int, height_px: int, downscale: float) -> tuple[int, int]:
    """Return the size of an image multiplied by `downscale` (rounded, at least 1 px)."""
    return max(1, round(width_px * downscale)), max(1, round(height_px * downscale))


class ImageStore:
    """All pixels of some image sets at one scale, images of different sizes allowed.

    Pixel (row, column) of image i is `pixels[offsets[i] + row * widths[i] + column]`.

    Attributes:
        names: image names.
        pixels: u8[total, 3], sRGB; above the budget an `ArrayFile`, which is read as an array is.
        valid: the same of bool[total], or None when every pixel is valid.
        offsets: i64[N], first pixel of each image.
        widths, heights: i32[N], px after downscaling.
        intrinsics: f32[N, 4], fx, fy, cx, cy in px after downscaling.
        c2w: f32[N, 3, 4], camera (RUB) to world.
    """

    def __init__(
        self,
        images: ImageSet | Iterable[ImageSet],
        downscale: float = 1.0,
        *,
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Decode the images on all cores.

        Args:
            images: one or several sets, joined in order.
            downscale: factor the size is multiplied by, 0 < x <= 1 (area averaging).
            budget_bytes: above this, pixels and masks lie in unnamed temporary files.
            on_progress: called with (images done, images in all).

        Raises:
            DataError: a photograph is unreadable, not of its listed size, or not the file that was
                recorded; downscale out of range; the temporary folder is full.
        """
        if not 0.0 < downscale <= 1.0:
            raise DataError(f"downscale: {downscale} is outside 0 < downscale <= 1")
        every = ImageSet.joined([images] if isinstance(images, ImageSet) else images)
        self.names = every.names
        self.c2w = every.c2w
        sizes = np.array(
            [
                scaled_size(int(w), int(h), downscale)
                for w, h in zip(every.widths_px, every.heights_px, strict=True)
            ],
            np.int32,
        ).reshape(-1, 2)
        self.widths, self.heights = sizes[:, 0].copy(), sizes[:, 1].copy()
        factors = sizes / np.stack([every.widths_px, every.heights_px], axis=1)
        self.intrinsics = (every.intrinsics * np.tile(factors, 2)).astype(np.float32)
        counts = sizes.astype(np.int64).prod(axis=1)
        self.offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)[: len(counts)]
        total = int(counts.sum())
        masked = every.find_borders or any(path is not None for path in every.valid_paths)
        in_files = total * (4 if masked else 3) > budget_bytes
        self.pixels = _buffer((total, 3), np.uint8, in_files)
        self.valid = _buffer((total,), np.bool_, in_files) if masked else None
        self._fill(every, on_progress)

    def _fill(self, every: ImageSet, on_progress: Callable[[int, int], None] | None) -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            jobs = [pool.submit(self._load, every, i) for i in range(len(every))]
            try:
                for done, job in enumerate(jobs, start=1):
                    job.result()
                    if on_progress is not None:
                        on_progress(done, len(jobs))
            finally:
                for job in jobs:
                    job.cancel()

    def _load(self, every: ImageSet, index: int) -> None:
        path, mask_path = every.paths[index], every.valid_paths[index]
        listed = (int(every.heights_px[index]), int(every.widths_px[index]))
        picture = read_photograph(path, every.checksum(index))
        _check_size(path, picture.shape[:2], listed)
        size = (int(self.widths[index]), int(self.heights[index]))
        self.pixels[self._span(index)] = _shrunk(picture, size).reshape(-1, 3)
        if self.valid is not None:
            border = border_mask(picture) if every.find_borders and mask_path is None else None
            mask = None
            if mask_path is not None:
                mask = read_mask(mask_path, every.valid_checksum(index))
                _check_size(mask_path, mask.shape, listed)
            elif border is not None:
                mask = np.where(border, 0, 255).astype(np.uint8)
            self.valid[self._span(index)] = _valid_pixels(mask, size)

    def __len__(self) -> int:
        return len(self.names)

    def _span(self, index: int) -> slice:
        start = int(self.offsets[index])
        return slice(start, start + int(self.widths[index]) * int(self.heights[index]))

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image `index` u8[H, W, 3]: a view, or a copy when pixels lie in a file."""
        shape = (int(self.heights[index]), int(self.widths[index]), 3)
        return self.pixels[self._span(index)].reshape(shape)

    def valid_mask(self, index: int) -> NDArray[np.bool_]:
        """Return which pixels of image `index` are valid, bool[H, W] (view or copy)."""
        shape = (int(self.heights[index]), int(self.widths[index]))
        if self.valid is None:
            return np.ones(shape, np.bool_)
        return self.valid[self._span(index)].reshape(shape)

    def close(self) -> None:
        """Give the pixels' memory or temporary file back; the store is empty afterwards."""
        for buffer in (self.pixels, self.valid):
            if isinstance(buffer, ArrayFile):
                buffer.close()
        self.pixels = np.empty((0, 3), np.uint8)
        self.valid = None

    def __enter__(self) -> "ImageStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _buffer(
    shape: tuple[int, ...], dtype: type[Scalar], in_file: bool
) -> NDArray[Scalar] | ArrayFile[Scalar]:
    return ArrayFile(shape, dtype) if in_file else np.empty(shape, dtype)


def _valid_pixels(mask: NDArray[np.uint8] | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels of a reduced image are valid, bool[H * W]; all of them without a mask."""
    if mask is None:
        return np.ones(size[0] * size[1], np.bool_)
    # A reduced pixel counts only when all it averages is valid.
    return (_shrunk(mask, size) == 255).reshape(-1)


def _shrunk(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _check_size(path: Path, found: tuple[int, ...], listed: tuple[int, int]) -> None:
    if tuple(found) != listed:
        raise DataError(
            f"{path}: {found[1]}x{found[0]} px, listed {listed[1]}x{listed[0]}; prepare the "
            "dataset again with --overwrite"
        )
