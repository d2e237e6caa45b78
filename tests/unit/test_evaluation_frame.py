"""The metrics dataframe: columns, the CSV round trip, the summary, damaged files."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from configs.artifacts import JobFolder
from nerfcore.errors import DataError
from nerfcore.evaluation import MetricRow, metrics_frame, read_metrics, summarise, write_metrics
from nerfcore.evaluation.frame import COLUMNS, METRICS_FILE
from nerfcore.evaluation.pictures import GT_FOLDER, PREDICTION_FOLDER

ROW = MetricRow(
    tto=0,
    split="old_val",
    image="flight/0001, east.jpg",
    psnr=20.123456789,
    ssim=0.5,
    lpips=float("nan"),
    lpips_note='lpips unavailable: no file "x", put it there',
    psnr_linear=100.0,
    adapt_seconds=0.0,
    render_seconds=0.25,
    rays=0,
    seed=7,
    checkpoint="0012",
)


def test_csv_round_trip(tmp_path: Path) -> None:
    """What is written is read back equal, also names that look like numbers."""
    rows = [ROW, replace(ROW, tto=16, image="0002", lpips=0.25, lpips_note="alexnet v0.1")]
    path = write_metrics(tmp_path, rows)
    assert path == tmp_path / "metrics.csv"
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    read = read_metrics(tmp_path)
    pd.testing.assert_frame_equal(read, metrics_frame(rows))
    assert read["image"].tolist() == ["flight/0001, east.jpg", "0002"]
    assert read["checkpoint"].tolist() == ["0012", "0012"]
    assert math.isnan(read["lpips"][0])
    names = {p.name for p in tmp_path.iterdir()} - {"metrics.parquet"}
    assert names == {"metrics.csv", "summary.csv"}


def test_names_that_pandas_takes_for_missing(tmp_path: Path) -> None:
    """An image called NA and an empty note stay text."""
    write_metrics(tmp_path, [replace(ROW, image="NA", lpips_note="")])
    read = read_metrics(tmp_path)
    assert read["image"].tolist() == ["NA"]
    assert read["lpips_note"].tolist() == [""]


def test_empty_table(tmp_path: Path) -> None:
    """A job without rows still has every column, and an empty summary."""
    write_metrics(tmp_path, [])
    read = read_metrics(tmp_path)
    assert tuple(read.columns) == COLUMNS
    assert len(read) == 0
    assert len(summarise(read)) == 0


def test_summary_hand_worked() -> None:
    """Means, deviation, order and gain over the smallest tto are as worked by hand."""
    rows = [
        replace(ROW, tto=16, psnr=25.0, rays=100),
        replace(ROW, tto=16, split="adapted", psnr=30.0, lpips=0.2),
        replace(ROW, tto=0, psnr=20.0),
        replace(ROW, tto=0, psnr=24.0, image="b"),
        replace(ROW, tto=0, split="adapted", psnr=10.0, lpips=0.4),
        replace(ROW, tto=0, split="adapted", psnr=10.0, image="c"),
    ]
    summary = summarise(metrics_frame(rows))
    assert list(zip(summary["tto"], summary["split"], strict=True)) == [
        (0, "adapted"),
        (0, "old_val"),
        (16, "adapted"),
        (16, "old_val"),
    ]
    assert summary["psnr"].tolist() == [10.0, 22.0, 30.0, 25.0]
    assert summary["psnr_std"].tolist() == [0.0, 2.0, 0.0, 0.0]
    assert summary["psnr_gain"].tolist() == [0.0, 0.0, 20.0, 3.0]
    assert summary["images"].tolist() == [2, 2, 1, 1]
    assert summary["rays"].tolist() == [0.0, 0.0, 0.0, 100.0]
    # A mean over the images that could be measured, NaN where none could.
    assert summary["lpips"].tolist()[0] == 0.4
    assert math.isnan(summary["lpips"].tolist()[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a metrics table"),
        (b"\xff\xfe\x00", "not a metrics table"),
        (b"tto,split\n0,adapted\n", "columns image, psnr"),
        ((",".join(COLUMNS) + "\n" + "x," * (len(COLUMNS) - 1) + "x\n").encode(), "not a metrics"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A missing or damaged table is refused with its path."""
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_metrics(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_names_agree_with_the_artifact_layout(tmp_path: Path) -> None:
    """The engine and the job layout, which may not import each other, use the same names."""
    job = JobFolder(tmp_path)
    assert job.metrics_csv.name == METRICS_FILE
    assert (job.gt.name, job.pred.name) == (GT_FOLDER, PREDICTION_FOLDER)
