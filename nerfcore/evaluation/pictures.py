"""Owns the pictures an evaluation leaves behind.

Below one folder: `gt/<split>__<image>.png` (the photograph as scored), `pred/<tto>/<same>.png`
(the rendering), `comparison/<tto>/<same>.png` (truth | prediction | error with captions), and
`comparison/<tto>.png`, a contact sheet of them. The split stands in the name because two flights
often number their photographs alike. `error/<tto>/<same>.png` is the error alone and
`depth/<tto>/<same>.png` the depth along the rays in centimetres, 16 bits, 0 where the model shows
sky or what lies beyond 655 m. Pictures are RGB in memory; every file appears whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.colour import srgb_to_bytes
from nerfcore.errors import DataError
from nerfcore.evaluation.frame import MetricRow, Split

GT_FOLDER = "gt"
PREDICTION_FOLDER = "pred"
COMPARISON_FOLDER = "comparison"
ERROR_FOLDER, DEPTH_FOLDER = "error", "depth"
DEPTH_LIMIT_CM = 65535
# The error panel is black at 0 and brightest at this mean absolute sRGB difference or more.
ERROR_FULL_SCALE = 0.25
_INVALID_RGB = (96, 96, 96)
_CAPTION_HEIGHT_PX = 22
_GAP_PX = 4
_THUMBNAIL_WIDTH_PX = 640
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Rgb8 = NDArray[np.uint8]


def picture_name(split: Split, image: str) -> str:
    """Return the file name of an image's pictures: folders flattened, always PNG."""
    flat = str(PurePosixPath(image).with_suffix("")).replace("/", "__")
    return f"{split}__{flat}.png"


def check_names(split: Split, images: Sequence[str]) -> None:
    """Refuse images whose pictures would overwrite each other.

    Raises:
        DataError: two images have one picture name.
    """
    taken: dict[str, str] = {}
    for image in images:
        name = picture_name(split, image)
        if name in taken:
            raise DataError(
                f"image names {taken[name]!r} and {image!r}: both would be written as {name}; "
                "rename one of them"
            )
        taken[name] = image


def write_png(path: Path, picture: Rgb8) -> None:
    """Write an RGB picture u8[H, W, 3] as PNG, atomically, making its folder.

    Raises:
        DataError: the picture cannot be encoded.
    """
    _write_png(path, np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8))


def write_depth(path: Path, depth_m: NDArray[np.float32]) -> None:
    """Write a depth map f32[H, W] in metres (NaN = sky) as 16-bit PNG in centimetres.

    Raises:
        DataError: the picture cannot be encoded.
    """
    depth_cm = np.nan_to_num(depth_m, nan=0.0) * 100.0
    depth_cm[depth_cm > DEPTH_LIMIT_CM] = 0.0
    _write_png(path, np.rint(depth_cm).astype(np.uint16))


def _write_png(path: Path, picture: NDArray[np.integer]) -> None:
    done, content = cv2.imencode(".png", picture)
    if not done:
        raise DataError(f"{path}: a picture of shape {picture.shape} cannot be written as PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, content.tobytes())


@dataclass(frozen=True)
class EvaluationPictures:
    """Writes the pictures of scored images.

    Attributes:
        folder: the job's folder.
        comparisons: whether comparison, error and depth pictures are written beside gt/ and pred/.
    """

    folder: Path
    comparisons: bool = True

    def write(
        self,
        row: MetricRow,
        prediction: NDArray[np.floating],
        truth: Rgb8,
        valid: NDArray[np.bool_],
        depth_m: NDArray[np.float32] | None = None,
    ) -> Path:
        """Write the truth (once), the prediction, their comparison, the error and the depth.

        Args:
            row: the image's scores, for names and captions.
            prediction: float [H, W, 3], sRGB in [0, 1].
            truth: u8[H, W, 3], sRGB.
            valid: bool[H, W].
            depth_m: f32[H, W], NaN = sky; None writes no depth map.

        Returns:
            The prediction's file.
        """
        name = picture_name(row.split, row.image)
        gt_path = self.folder / GT_FOLDER / name
        if not gt_path.exists():
            write_png(gt_path, truth)
        predicted = srgb_to_bytes(prediction)
        path = self.folder / PREDICTION_FOLDER / str(row.tto) / name
        write_png(path, predicted)
        if self.comparisons:
            folder, error = str(row.tto), error_picture(truth, predicted, valid)
            write_png(self.folder / ERROR_FOLDER / folder / name, error)
            comparison = comparison_picture(truth, predicted, valid, captions_of(row))
            write_png(self.folder / COMPARISON_FOLDER / folder / name, comparison)
        if self.comparisons and depth_m is not None:
            write_depth(self.folder / DEPTH_FOLDER / str(row.tto) / name, depth_m)
        return path


def captions_of(row: MetricRow) -> tuple[str, str, str]:
    """Return the captions of truth, prediction and error for one scored image."""
    scores = f"PSNR {row.psnr:.2f} dB  SSIM {row.ssim:.3f}"
    if not np.isnan(row.lpips):
        scores += f"  LPIPS {row.lpips:.3f}"
    return (
        f"truth {row.image} ({row.split})",
        f"prediction, {row.tto} steps: {scores}",
        f"error, 0 to {ERROR_FULL_SCALE:g}",
    )


def error_picture(truth: Rgb8, prediction: Rgb8, valid: NDArray[np.bool_]) -> Rgb8:
    """Colour the mean absolute sRGB difference of each pixel.

    Args:
        truth, prediction: u8[H, W, 3].
        valid: bool[H, W]; other pixels are grey.

    Returns:
        u8[H, W, 3], from black (equal) to yellow-white (`ERROR_FULL_SCALE` or more).
    """
    error = cv2.absdiff(truth, prediction).astype(np.float32).mean(axis=2) / 255.0
    levels = srgb_to_bytes(error / ERROR_FULL_SCALE)
    coloured = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    coloured[~valid] = _INVALID_RGB
    return np.asarray(coloured, np.uint8)


def comparison_picture(
    truth: Rgb8, prediction: Rgb8, valid: NDArray[np.bool_], captions: tuple[str, str, str]
) -> Rgb8:
    """Put truth, prediction and error side by side under their captions.

    Args:
        truth, prediction: u8[H, W, 3].
        valid: bool[H, W].
        captions: one line for each panel; cut where the panel ends.

    Returns:
        u8[H + caption, 3 W + gaps, 3].
    """
    panels = (truth, prediction, error_picture(truth, prediction, valid))
    height_px, width_px = truth.shape[:2]
    sheet = np.full((height_px + _CAPTION_HEIGHT_PX, 3 * width_px + 2 * _GAP_PX, 3), 255, np.uint8)
    for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = index * (width_px + _GAP_PX)
        sheet[_CAPTION_HEIGHT_PX:, left : left + width_px] = panel
        sheet[:_CAPTION_HEIGHT_PX, left : left + width_px] = _caption(caption, width_px)
    return sheet


def contact_sheet(pictures: Sequence[Rgb8]) -> Rgb8:
    """Stack pictures of any sizes at one width, in order.

    Args:
        pictures: at least one, u8[H, W, 3].

    Returns:
        u8[*, W, 3], W at most three thumbnails.
    """
    width_px = min(max(p.shape[1] for p in pictures), 3 * _THUMBNAIL_WIDTH_PX + 2 * _GAP_PX)
    gap = np.full((_GAP_PX, width_px, 3), 255, np.uint8)
    rows: list[Rgb8] = []
    for picture in pictures:
        height_px = max(1, round(picture.shape[0] * width_px / picture.shape[1]))
        resized = cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA)
        rows += [np.asarray(resized, np.uint8), gap]
    return np.concatenate(rows[:-1])


def write_contact_sheet(folder: Path, tto: int, most: int = 12) -> Path:
    """Write `comparison/<tto>.png` from the first comparison pictures of this tto.

    Args:
        folder: the job's folder.
        tto: steps taken.
        most: pictures on the sheet.

    Returns:
        The sheet's file.

    Raises:
        DataError: there is no comparison picture for this tto, or one is unreadable.
    """
    source = folder / COMPARISON_FOLDER / str(tto)
    paths = sorted(p for p in source.glob("*.png") if not p.name.startswith("."))[:most]
    if not paths:
        raise DataError(f"{source}: no comparison pictures; score images for tto {tto} first")
    target = folder / COMPARISON_FOLDER / f"{tto}.png"
    write_png(target, contact_sheet([_read_png(path) for path in paths]))
    return target


def _read_png(path: Path) -> Rgb8:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise DataError(f"{path}: not a readable PNG; run the eval job again")
    return np.asarray(picture, np.uint8)


def _caption(text: str, width_px: int) -> Rgb8:
    """Return a white strip u8[caption height, width, 3] with black text that fits."""
    strip = np.full((_CAPTION_HEIGHT_PX, width_px, 3), 255, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    (needed_px, _), _ = cv2.getTextSize(plain, _FONT, 0.45, 1)
    scale = 0.45 * min(1.0, max(0.45, (width_px - 8) / max(needed_px, 1)))
    cv2.putText(strip, plain, (4, _CAPTION_HEIGHT_PX - 7), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
