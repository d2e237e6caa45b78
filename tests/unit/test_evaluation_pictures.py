"""Evaluation pictures: names, exact pixels, the error panel, the contact sheet."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from nerfcore.errors import DataError
from nerfcore.evaluation import EvaluationPictures, MetricRow, write_contact_sheet
from nerfcore.evaluation.pictures import (
    captions_of,
    check_names,
    comparison_picture,
    contact_sheet,
    error_picture,
    picture_name,
    write_png,
)

ROW = MetricRow(4, "adapted", "a/1.jpg", 20.5, 0.5, 0.25, "alexnet v0.1", 22.0, 1.0, 0.1, 9, 0, "c")


def read_rgb(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    return np.asarray(picture)


def noise(height_px: int = 40, width_px: int = 60) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def test_files_and_pixels(tmp_path: Path) -> None:
    """Truth and prediction stand under gt/ and pred/<tto>/ with exactly their pixels, RGB kept."""
    truth = noise()
    prediction = np.zeros((40, 60, 3), np.float32)
    prediction[..., 0] = 1.0
    written = EvaluationPictures(tmp_path).write(ROW, prediction, truth, np.ones((40, 60), bool))
    assert written == tmp_path / "pred" / "4" / "adapted__a__1.png"
    assert np.array_equal(read_rgb(tmp_path / "gt" / "adapted__a__1.png"), truth)
    assert read_rgb(written)[3, 5].tolist() == [255, 0, 0]
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert names == [
        "comparison/4/adapted__a__1.png",
        "error/4/adapted__a__1.png",
        "gt/adapted__a__1.png",
        "pred/4/adapted__a__1.png",
    ]


def test_comparisons_can_be_left_out(tmp_path: Path) -> None:
    """Without comparisons only gt/ and pred/ are written."""
    pictures = EvaluationPictures(tmp_path, comparisons=False)
    pictures.write(ROW, np.zeros((40, 60, 3), np.float32), noise(), np.ones((40, 60), bool))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gt", "pred"]


def test_names_stay_inside_and_apart() -> None:
    """Folders in names are flattened, splits never collide, images that would are refused."""
    assert picture_name("adapted", "../x.jpg") == "adapted__..__x.png"
    assert picture_name("old_val", "/etc/passwd") == "old_val____etc__passwd.png"
    assert picture_name("adapted", "1.jpg") != picture_name("old_val", "1.jpg")
    check_names("adapted", ["1.jpg", "2.jpg"])
    with pytest.raises(DataError, match=r"'1\.jpg' and '1\.png'"):
        check_names("adapted", ["1.jpg", "1.png"])


def test_error_panel() -> None:
    """Equal pixels are darkest, a quarter or more is brightest, invalid pixels are grey."""
    truth = np.full((1, 4, 3), 100, np.uint8)
    prediction = truth.copy()
    prediction[0, 1], prediction[0, 2] = 164, 255
    valid = np.array([[True, True, True, False]])
    panel = error_picture(truth, prediction, valid).astype(int)
    assert panel[0, 0].sum() < 12
    assert panel[0, 1].tolist() == panel[0, 2].tolist()
    assert panel[0, 1].sum() > 500
    assert panel[0, 3].tolist() == [96, 96, 96]


def test_comparison_layout() -> None:
    """Truth, prediction and error stand left to right below captions that have ink."""
    truth, prediction = noise(), noise()[::-1].copy()
    sheet = comparison_picture(truth, prediction, np.ones((40, 60), bool), captions_of(ROW))
    assert sheet.shape == (62, 188, 3)
    assert np.array_equal(sheet[22:, :60], truth)
    assert np.array_equal(sheet[22:, 64:124], prediction)
    assert all((sheet[:22, left : left + 60] < 128).any() for left in (0, 64, 128))


def test_captions_say_what_was_measured() -> None:
    """Captions carry split, steps and scores, and leave out an LPIPS that was not measured."""
    truth, prediction, error = captions_of(ROW)
    assert truth == "truth a/1.jpg (adapted)"
    assert prediction == "prediction, 4 steps: PSNR 20.50 dB  SSIM 0.500  LPIPS 0.250"
    assert error == "error, 0 to 0.25"


def test_contact_sheet(tmp_path: Path) -> None:
    """The sheet stacks the comparison pictures of one tto at one width."""
    for name, height_px, width_px in (("a", 20, 80), ("b", 20, 40)):
        write_png(tmp_path / "comparison" / "4" / f"{name}.png", noise(height_px, width_px))
    sheet = read_rgb(write_contact_sheet(tmp_path, 4))
    assert sheet.shape == (20 + 4 + 40, 80, 3)
    assert np.array_equal(sheet[:20], noise(20, 80))
    assert contact_sheet([noise()]).shape == (40, 60, 3)


def test_contact_sheet_without_pictures(tmp_path: Path) -> None:
    """A tto that was not scored is refused by its folder."""
    with pytest.raises(DataError, match="comparison/7"):
        write_contact_sheet(tmp_path, 7)


def test_depth_is_written_in_centimetres(tmp_path: Path) -> None:
    """12.34 m becomes 1234; sky and what lies too far become 0."""
    depth_m = np.full((40, 60), 12.34, np.float32)
    depth_m[0, :2] = np.nan, 700.0
    pictures = EvaluationPictures(tmp_path)
    pictures.write(ROW, np.zeros((40, 60, 3)), noise(), np.ones((40, 60), bool), depth_m)
    read = cv2.imread(str(tmp_path / "depth" / "4" / "adapted__a__1.png"), cv2.IMREAD_UNCHANGED)
    assert read is not None and read.dtype == np.uint16
    assert read[0, :3].tolist() == [0, 0, 1234]
