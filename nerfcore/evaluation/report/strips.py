"""Owns the report's pictures: truth, prediction and error of some images, whole and magnified.

A strip shows a whole image, reduced; a magnified one the window of it that adaptation changed most,
pixel by pixel.
"""

from html import escape
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nerfcore.evaluation.frame import Split
from nerfcore.evaluation.pictures import (
    DEPTH_FOLDER,
    ERROR_FOLDER,
    GT_FOLDER,
    PREDICTION_FOLDER,
    picture_name,
)
from nerfcore.evaluation.report.style import SPLIT_WORDS, figure

STRIPS_A_SPLIT = 2
WIDTH_PX = 320
WINDOW_PX = (128, 96)
Picture = NDArray[np.uint8]


def comparison_strips(folder: Path, frame: pd.DataFrame) -> str:
    """Truth, before and after for the images that changed most, of each split.

    Args:
        folder: the job's, with its pictures.
        frame: its metrics.
    """
    first, last = int(frame["tto"].min()), int(frame["tto"].max())
    out = ""
    splits: tuple[Split, ...] = ("new_heldout", "old_val", "adapted")
    for split in splits:
        own = frame[frame["split"] == split].pivot(index="image", columns="tto", values="psnr")
        if own.empty:
            continue
        order = (own[last] - own[first]).abs().sort_values(ascending=False, kind="stable")
        for image in order.index[:STRIPS_A_SPLIT]:
            name = picture_name(split, str(image))
            title = f"{image} ({SPLIT_WORDS[split]})"
            out += _strip(folder, name, title, (first, last), own.loc[image])
            out += _magnified(folder, name, title, (first, last))
    return f"<h2>Truth, prediction, error</h2>{out}" if out else ""


def changed_window(before: Picture, after: Picture) -> tuple[slice, slice]:
    """Rows and columns of the window of two pictures in which they differ most.

    Args:
        before, after: u8[H, W, 3] of one size; the window is at most as large.
    """
    width, height = (
        min(most, has) for most, has in zip(WINDOW_PX, before.shape[1::-1], strict=True)
    )
    apart = cv2.absdiff(before, after).sum(axis=2, dtype=np.float64)
    summed = cv2.integral(apart)
    sums = summed[height:, width:] - summed[:-height, width:]
    sums -= summed[height:, :-width] - summed[:-height, :-width]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return slice(int(row), int(row) + height), slice(int(column), int(column) + width)


def _strip(
    folder: Path, name: str, title: str, ttos: tuple[int, int], psnr: "pd.Series[float]"
) -> str:
    parts = [_small(_read(folder / GT_FOLDER / name), "truth")]
    for tto in dict.fromkeys(ttos):
        shown = _read(folder / PREDICTION_FOLDER / str(tto) / name)
        parts.append(_small(shown, f"{_words(tto)}: {psnr[tto]:.2f} dB"))
        error = _read(folder / ERROR_FOLDER / str(tto) / name)
        parts.append(_small(error, f"error {_words(tto)}"))
    parts.append(_depth(folder / DEPTH_FOLDER / str(ttos[1]) / name))
    return _row(title, parts)


def _magnified(folder: Path, name: str, title: str, ttos: tuple[int, int]) -> str:
    """The window that changed most, three screen pixels to one of the image."""
    truth = _read(folder / GT_FOLDER / name)
    shown = [_read(folder / PREDICTION_FOLDER / str(tto) / name) for tto in ttos]
    if ttos[0] == ttos[1] or truth is None or shown[0] is None or shown[1] is None:
        return ""
    rows, columns = changed_window(shown[0], shown[1])
    named = [(truth, "truth"), (shown[0], _words(ttos[0])), (shown[1], _words(ttos[1]))]
    parts = [figure(_enlarged(picture[rows, columns]), words) for picture, words in named]
    return _row(f"{title}, where it changed most: columns from {columns.start}, rows from "
                f"{rows.start}", parts)  # fmt: skip


def _words(tto: int) -> str:
    return f"after {tto} steps" if tto else "before"


def _row(title: str, parts: list[str]) -> str:
    grid = "".join(part for part in parts if part)
    return f'<p class="note">{escape(title)}</p><div class="beside">{grid}</div>'


def _read(path: Path) -> Picture | None:
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if found is None else np.asarray(found, np.uint8)


def _enlarged(picture: Picture) -> Picture:
    large = cv2.resize(picture, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    return np.asarray(large, np.uint8)


def _small(picture: Picture | None, caption: str) -> str:
    if picture is None:
        return ""
    height = max(1, round(picture.shape[0] * WIDTH_PX / picture.shape[1]))
    small = cv2.resize(picture, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return figure(np.asarray(small, np.uint8), caption)


def _depth(path: Path) -> str:
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None or not found.any():
        return ""
    depth_m = found.astype(np.float32) / 100.0
    known = depth_m[depth_m > 0]
    low, high = np.quantile(known, (0.02, 0.98))
    levels = np.clip((depth_m - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    coloured = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), np.uint8)
    coloured[depth_m == 0] = 96
    return _small(coloured, f"depth, {low:.0f} m to {high:.0f} m")
