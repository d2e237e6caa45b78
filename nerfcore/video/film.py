"""Owns rendering a camera path to an MP4 file: picture by picture, complete or not at all.

The file holds VP9, which browsers, VLC and phones play and which OpenCV's wheel can write (its
H.264 encoders are left out for their licences). Pictures are sRGB.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.errors import SettingsError

FOURCC: Final = "vp09"
SMALLEST_SIDE_PX: Final = 16
LARGEST_SIDE_PX: Final = 4096
MOST_BYTES_PER_PIXEL: Final = 0.25  # roughly; most films need far less


class FilmError(OSError):
    """The encoder failed, mostly for lack of space; nothing is left behind."""


def check_size(width_px: int, height_px: int) -> None:
    """Check that a film may have this size.

    Raises:
        SettingsError: a side is odd (the encoder halves colours), too small or too large.
    """
    for name, side in (("width_px", width_px), ("height_px", height_px)):
        if side % 2 or not SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX:
            raise SettingsError(
                f"{name} {side}: must be even, {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX}"
            )


def check_room(folder: Path, count: int, size_px: tuple[int, int]) -> None:
    """Check, before anything is rendered, that the disk has room for a film (a rough bound).

    Args:
        folder: the film goes to it or below.
        count: pictures.
        size_px: width and height.

    Raises:
        FilmError: it has not.
    """
    wanted = count * size_px[0] * size_px[1] * MOST_BYTES_PER_PIXEL
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise FilmError(
            f"{folder}: {free / 1e6:.0f} MB are free, {count} pictures of "
            f"{size_px[0]} x {size_px[1]} px may need {wanted / 1e6:.0f} MB; free some room, or "
            "choose a smaller size or fewer pictures"
        )


@contextlib.contextmanager
def new_film(file: Path, width_px: int, height_px: int, fps: float) -> Iterator["FilmWriter"]:
    """Give a writer whose film becomes `file` when the block ends without an error.

    Raises:
        SettingsError: see `check_size`.
        FilmError: it cannot be encoded or written.
    """
    check_size(width_px, height_px)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{atomic.TEMPORARY_PREFIX}{os.getpid()}-{file.name}")
    try:
        writer = FilmWriter(temporary, width_px, height_px, fps)
        try:
            yield writer
        finally:
            writer.release()
        writer.check()
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(file)
        atomic.fsync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


class FilmWriter:
    """Encodes pictures of one size.

    Args:
        file: ends in .mp4.
        width_px, height_px: of every picture.
        fps: pictures a second.

    Raises:
        FilmError: the encoder does not start.
    """

    def __init__(self, file: Path, width_px: int, height_px: int, fps: float) -> None:
        self._file = file
        self._shape = (height_px, width_px, 3)
        self.count = 0
        fourcc = cv2.VideoWriter.fourcc(*FOURCC)
        self._encoder = cv2.VideoWriter(
            str(file), cv2.CAP_FFMPEG, fourcc, fps, (width_px, height_px)
        )
        if not self._encoder.isOpened():
            raise FilmError(f"{file.name}: OpenCV cannot write {FOURCC} here; is the disk full?")

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture, u8[H, W, 3] RGB.

        Raises:
            ValueError: of another size.
        """
        if picture.shape != self._shape:
            raise ValueError(f"picture of shape {picture.shape}, the film has {self._shape}")
        self._encoder.write(np.ascontiguousarray(picture[..., ::-1]))
        self.count += 1

    def release(self) -> None:
        """End the file."""
        self._encoder.release()

    def check(self) -> None:
        """Check that the file holds every picture: the encoder itself tells no errors.

        Raises:
            FilmError: it does not.
        """
        found = cv2.VideoCapture(str(self._file), cv2.CAP_FFMPEG)
        try:
            count = int(found.get(cv2.CAP_PROP_FRAME_COUNT)) if found.isOpened() else 0
        finally:
            found.release()
        if count != self.count or self.count == 0:
            raise FilmError(
                f"{self._file.name}: holds {count} of {self.count} pictures; is the disk full?"
            )


def render_film(
    file: Path,
    pictures: Iterable[NDArray[np.uint8] | None],
    size_px: tuple[int, int],
    fps: float,
    on_picture: Callable[[int], None],
) -> int | None:
    """Write pictures to an MP4 file.

    Args:
        file: replaced when complete.
        pictures: u8[H, W, 3] RGB each; None = given up, nothing is left behind.
        size_px: width and height.
        fps: pictures a second.
        on_picture: called with the number written so far.

    Returns:
        The number of pictures, or None when given up.

    Raises:
        SettingsError, FilmError: see `new_film`.
    """
    with contextlib.suppress(_GivenUpError):
        with new_film(file, *size_px, fps) as film:
            for picture in pictures:
                if picture is None:
                    raise _GivenUpError
                film.write(picture)
                on_picture(film.count)
        return film.count
    return None


class _GivenUpError(Exception):
    """The maker of the pictures gave up."""
