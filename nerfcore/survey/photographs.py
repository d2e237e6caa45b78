"""Owns measuring the photographs' pixels: sharpness, exposure, fingerprints, thumbnails.

Photographs are decoded at a reduced size (at most about `SCAN_PX` wide) by several threads, a few
at a time, so memory does not grow with their number. Brightness is sRGB luma 0..255; exposure steps
are in stops (factors of two) of linear light.
"""

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.data.images import read_mask
from nerfcore.data.photo_damage import damage
from nerfcore.data.records import ImageSet
from nerfcore.errors import DataError
from nerfcore.machine import usable_cores

SCAN_PX: Final = 1024
THUMBNAIL_PX: Final = 200
DARK, BURNT = 16, 250  # luma: nothing to see below or above
_FINGERPRINT: Final = (32, 24)
_REDUCTIONS: Final = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4),
                      (2, cv2.IMREAD_REDUCED_COLOR_2))  # fmt: skip
_BLUR_WINDOW: Final = 9  # px, as in the paper
_AHEAD: Final = 2  # photographs in flight per thread

OnProgress = Callable[[int, int], None]
OnPicture = Callable[[int, NDArray[np.uint8]], None]


@dataclass(frozen=True, eq=False)
class PhotoFacts:
    """What the pixels of one photograph tell.

    Attributes:
        blur: 0 (sharp) .. 1 (blurred), see `blur_of`.
        brightness: mean luma, 0..255.
        low, high: 5th and 95th percentile of luma.
        dark_share, burnt_share: share of pixels below `DARK` and above `BURNT`, 0..1.
        light: mean linear light, 0..1.
        fingerprint: f32[768], mean 0 and length 1 (all 0 for a picture of one colour).
        digest: SHA-256 of the file.
        thumbnail: data URI of a small JPEG.
    """

    blur: float
    brightness: float
    low: float
    high: float
    dark_share: float
    burnt_share: float
    light: float
    fingerprint: NDArray[np.float32]
    digest: str
    thumbnail: str


@dataclass(frozen=True)
class Unreadable:
    """A photograph that could not be measured.

    Attributes:
        reason: why.
        is_changed: it is not the file that was prepared, or its mask is not.
    """

    reason: str
    is_changed: bool = False


def scan_photographs(
    images: ImageSet,
    on_progress: OnProgress,
    on_picture: OnPicture = lambda *_: None,
) -> list[PhotoFacts | Unreadable]:
    """Measure all photographs.

    Args:
        images: the photographs.
        on_progress: called with (done, total).
        on_picture: called in order, from one thread, with each readable photograph's index and its
            reduced picture u8[H, W, 3] RGB.

    Returns:
        One entry per photograph, in order.
    """
    found: list[PhotoFacts | Unreadable] = []
    for index, (facts, picture) in enumerate(_scanned(images)):
        found.append(facts)
        if picture is not None:
            on_picture(index, picture)
        on_progress(len(found), len(images))
    return found


_Scanned = tuple[PhotoFacts | Unreadable, NDArray[np.uint8] | None]


def _scanned(images: ImageSet) -> Iterator[_Scanned]:
    """Measure in parallel, in order, holding a few pictures at most."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Scanned]] = deque()
        try:
            for index in range(len(images)):
                waiting.append(pool.submit(_scan, images, index))
                if len(waiting) > _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for job in waiting:
                job.cancel()


def _scan(images: ImageSet, index: int) -> _Scanned:
    path = images.paths[index]
    try:
        content = path.read_bytes()
    except OSError as error:
        return Unreadable(error.strerror or "cannot be read"), None
    digest, valid_path = hashlib.sha256(content).hexdigest(), images.valid_paths[index]
    listed = images.checksum(index)
    if listed is not None and listed != digest:
        return Unreadable(f"SHA-256 {digest[:12]}..., listed {listed[:12]}...", True), None
    picture = _decoded(content, images, index) if content else None
    if listed is None and (found := damage(content)) is not None:
        return Unreadable(found), None
    if picture is None:
        return Unreadable(f"{'not an image' if content else 'empty'}, {len(content)} bytes"), None
    width, height = int(images.widths_px[index]), int(images.heights_px[index])
    if abs(picture.shape[0] * width - picture.shape[1] * height) > 2 * max(width, height):
        return Unreadable(f"another shape than the {width}x{height} px listed"), None
    try:
        valid = _valid_pixels(valid_path, images.valid_checksum(index), picture.shape[:2])
    except DataError as error:
        return Unreadable(str(error), is_changed=True), None
    return _measured(digest, picture, valid), picture


def _decoded(content: bytes, images: ImageSet, index: int) -> NDArray[np.uint8] | None:
    """Decode at the size nearest above `SCAN_PX` that costs least, then reduce to it."""
    width = max(int(images.widths_px[index]), int(images.heights_px[index]))
    flag = next((flag for by, flag in _REDUCTIONS if width // by >= SCAN_PX), cv2.IMREAD_COLOR)
    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        return None
    factor = SCAN_PX / max(bgr.shape[:2])
    if factor < 1.0:
        bgr = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _valid_pixels(
    path: Path | None, checksum: str | None, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which pixels hold a true measurement, bool[H, W]; all where there is no mask."""
    everything = np.ones(shape, np.bool_)
    if path is None:
        return everything
    reduced = cv2.resize(
        read_mask(path, checksum), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST
    )
    return reduced > 127 if (reduced > 127).any() else everything


def _measured(digest: str, picture: NDArray[np.uint8], valid: NDArray[np.bool_]) -> PhotoFacts:
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    counts = np.bincount(grey[valid], minlength=256).astype(np.float64)
    shares = counts / counts.sum()
    cumulative = np.cumsum(shares)
    levels = np.arange(256.0)
    return PhotoFacts(
        blur=blur_of(grey),
        brightness=float(shares @ levels),
        low=float(np.searchsorted(cumulative, 0.05)),
        high=float(np.searchsorted(cumulative, 0.95)),
        dark_share=float(shares[:DARK].sum()),
        burnt_share=float(shares[BURNT:].sum()),
        light=float(shares @ (levels / 255.0) ** 2.2),
        fingerprint=_fingerprint(grey),
        digest=digest,
        thumbnail=_thumbnail(picture),
    )


def blur_of(grey: NDArray[np.uint8]) -> float:
    """Return how blurred a picture is, 0 (sharp) to 1.

    The picture is blurred again: a sharp one loses much of its differences between neighbouring
    pixels, a blurred one little. The worse of the two directions counts, so a shaken photograph is
    found too. About 0.2..0.3 is usual, 0.4 is a blur of 1.5 px, 0.7 one of 3 px.

    Args:
        grey: u8[H, W].

    Source:
        Crete, Dolmiere, Ladret, Nicolas, "The Blur Effect: Perception and Estimation with a New
        No-Reference Perceptual Blur Metric", 2007, equations 1-7.
    """
    values = grey.astype(np.float32)
    scores = []
    for axis, window in ((1, (_BLUR_WINDOW, 1)), (0, (1, _BLUR_WINDOW))):
        again = cv2.blur(values, window)
        before = np.abs(np.diff(values, axis=axis))
        lost = np.maximum(0.0, before - np.abs(np.diff(again, axis=axis)))
        total = float(before.sum(dtype=np.float64))
        scores.append(1.0 if total == 0.0 else 1.0 - float(lost.sum(dtype=np.float64)) / total)
    return max(scores)


def _fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = cv2.resize(grey, _FINGERPRINT, interpolation=cv2.INTER_AREA).astype(np.float32)
    centred = small.ravel() - small.mean()
    length = float(np.linalg.norm(centred))
    return (centred / length if length > 1.0 else np.zeros_like(centred)).astype(np.float32)


def _thumbnail(picture: NDArray[np.uint8]) -> str:
    factor = min(1.0, THUMBNAIL_PX / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 72])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
