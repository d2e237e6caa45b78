"""Which eval jobs may be compared."""

from dataclasses import replace

import pandas as pd
import pytest

from nerfcore.errors import DataError
from nerfcore.evaluation import MetricRow, metrics_frame
from nerfcore.evaluation.report import compare_report

ROW = MetricRow(
    0, "new_heldout", "a.jpg", 15.0, 0.5, float("nan"), "no lpips", 16.0, 0.0, 0.2, 0, 0, "t:step7"
)


def scored(images: tuple[str, ...], ttos: tuple[int, ...] = (0, 4)) -> pd.DataFrame:
    """A job's metrics on these images after these steps."""
    return metrics_frame([replace(ROW, tto=tto, image=name) for tto in ttos for name in images])


def test_labels_scored_on_different_images_are_refused_by_name() -> None:
    """Both labels, both counts and one image that only one of them has."""
    frames = {"joint": [scored(("a.jpg", "b.jpg"))], "scratch": [scored(("a.jpg",))]}
    with pytest.raises(DataError, match=r"joint and scratch: .*\(2 and 1; only joint has .*b\.jpg"):
        compare_report(frames, "x")
    other = {"joint": [scored(("a.jpg",))], "scratch": [scored(("c.jpg",))]}
    with pytest.raises(DataError, match="joint and scratch"):
        compare_report(other, "x")


def test_labels_of_the_same_images_may_differ_in_steps() -> None:
    frames = {"joint": [scored(("a.jpg",))], "scratch": [scored(("a.jpg",), (0, 8))]}
    assert "scratch" in compare_report(frames, "x")
