"""Scoring a scene model: render, measure, write pictures and the metrics dataframe."""

from nerfcore.evaluation.evaluate import AdaptationState, Scored, check_images, score_images
from nerfcore.evaluation.frame import (
    METRICS_FILE,
    SPLITS,
    MetricRow,
    Split,
    metrics_frame,
    read_metrics,
    summarise,
    write_metrics,
)
from nerfcore.evaluation.pictures import EvaluationPictures, write_contact_sheet

__all__ = [
    "METRICS_FILE",
    "SPLITS",
    "AdaptationState",
    "EvaluationPictures",
    "MetricRow",
    "Scored",
    "Split",
    "check_images",
    "metrics_frame",
    "read_metrics",
    "score_images",
    "summarise",
    "write_contact_sheet",
    "write_metrics",
]
