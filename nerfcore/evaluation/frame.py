"""Owns the metrics dataframe: columns, files (CSV; parquet where pyarrow is), and summaries.

Tidy: one row per (tto, split, image). `tto` is the number of test-time optimisation steps taken
before scoring. LPIPS is NaN (an empty cell) where it could not be measured, and `lpips_note` says
why; everywhere else `lpips_note` names the network.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from nerfcore import atomic
from nerfcore.errors import DataError

METRICS_FILE, PARQUET_FILE, SUMMARY_FILE = "metrics.csv", "metrics.parquet", "summary.csv"
Split = Literal["adapted", "new_heldout", "old_val"]
SPLITS: tuple[Split, ...] = ("adapted", "new_heldout", "old_val")


@dataclass(frozen=True)
class MetricRow:
    """The scores of one image after `tto` steps.

    Attributes:
        tto: optimisation steps taken.
        split: what the image is to the adaptation: adapted to, held out of the new images, or an
            old validation view.
        image: name in the dataset.
        psnr: dB in sRGB, at most 100.
        ssim: in [-1, 1]; NaN where the image is smaller than its window.
        lpips: distance, 0 or more; NaN where not measured.
        lpips_note: network name, or the reason for NaN.
        psnr_linear: dB in linear light, at most 100.
        adapt_seconds: wall seconds of adaptation up to this tto, ray building included.
        render_seconds: wall seconds to render this image.
        rays: rays used in adaptation up to this tto.
        seed: of the job.
        checkpoint: what was adapted.
        expert_weights: experts of the surfaces that the image shows and their shares, as
            "0:0.75 2:0.25"; empty where it shows none.
        exposure_red, exposure_green, exposure_blue: gains in log2 of linear light that the
            rendering was shown with; 0 = as the model is.
    """

    tto: int
    split: Split
    image: str
    psnr: float
    ssim: float
    lpips: float
    lpips_note: str
    psnr_linear: float
    adapt_seconds: float
    render_seconds: float
    rays: int
    seed: int
    checkpoint: str
    expert_weights: str = ""
    exposure_red: float = 0.0
    exposure_green: float = 0.0
    exposure_blue: float = 0.0


COLUMNS = tuple(field.name for field in fields(MetricRow))
_TEXT_COLUMNS = tuple(field.name for field in fields(MetricRow) if field.name == "split")
_TEXT_COLUMNS += tuple(field.name for field in fields(MetricRow) if field.type is str)
_WHOLE_COLUMNS = tuple(field.name for field in fields(MetricRow) if field.type is int)
_FLOAT_COLUMNS = tuple(field.name for field in fields(MetricRow) if field.type is float)
_AVERAGED = (*(name for name in _FLOAT_COLUMNS if not name.startswith("exposure_")), "rays")


def metrics_frame(rows: Iterable[MetricRow]) -> pd.DataFrame:
    """Return the rows as a dataframe with every column of `MetricRow`, also when there are none."""
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return _typed(frame)


def write_metrics(job_folder: Path, rows: Iterable[MetricRow]) -> Path:
    """Write `metrics.csv`, `summary.csv` and, where pyarrow is installed, `metrics.parquet`.

    Each file appears whole.

    Args:
        job_folder: the job's folder, which must exist.
        rows: all rows of the job so far, in order.

    Returns:
        The CSV file.
    """
    frame = metrics_frame(rows)
    target = job_folder / METRICS_FILE
    atomic.write_text(target, frame.to_csv(index=False, lineterminator="\n"))
    summary = summarise_by_tto(frame)
    atomic.write_text(job_folder / SUMMARY_FILE, summary.to_csv(index=False, lineterminator="\n"))
    if importlib.util.find_spec("pyarrow") is not None:
        atomic.write_bytes(job_folder / PARQUET_FILE, frame.to_parquet(None, index=False))
    return target


def read_metrics(job_folder: Path) -> pd.DataFrame:
    """Read a job's metrics.

    Args:
        job_folder: the folder that holds `metrics.csv`.

    Returns:
        One row per (tto, split, image), columns and types as `MetricRow`.

    Raises:
        DataError: the file is missing or is not a metrics table.
    """
    path = job_folder / METRICS_FILE
    try:
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT_COLUMNS, str),
            keep_default_na=False,
            na_values={column: [""] for column in _FLOAT_COLUMNS},
        )
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; only eval jobs that scored an image write it"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a metrics table ({error}); run the eval job again") from error
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise DataError(f"{path}: columns {', '.join(missing)} are missing; run the eval job again")
    try:
        return _typed(frame)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not a metrics table ({error}); run the eval job again") from error


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Average a metrics dataframe per (tto, split).

    Args:
        frame: as `metrics_frame` or `read_metrics` returns it.

    Returns:
        One row per (tto, split), by tto and then in the order of `SPLITS`, with columns tto,
        split, images, the mean of every number (NaN skipped), psnr_std (population deviation over
        images), and psnr_gain: mean PSNR minus that of the same split at the smallest tto.
    """
    columns = ["tto", "split", "images", *_AVERAGED, "psnr_std", "psnr_gain"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    groups = frame.groupby(["tto", "split"], sort=False)
    summary = groups[list(_AVERAGED)].mean()
    summary["images"] = groups.size()
    summary["psnr_std"] = groups["psnr"].std(ddof=0)
    summary = summary.reset_index()
    summary["split"] = pd.Categorical(summary["split"], list(SPLITS), ordered=True)
    summary = summary.sort_values(["tto", "split"]).reset_index(drop=True)
    summary["split"] = summary["split"].astype(str)
    first = summary.groupby("split")["psnr"].transform("first")
    summary["psnr_gain"] = summary["psnr"] - first
    return summary[columns]


def summarise_by_tto(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per tto, splits side by side.

    Args:
        frame: as `metrics_frame` or `read_metrics` returns it.

    Returns:
        Columns tto, adapt_seconds, rays, then psnr, ssim, lpips and images of each split
        (`psnr_new_heldout`), and `forgetting_db`: old_val's PSNR at the smallest tto minus now
        (NaN where there is none).
    """
    summary = summarise(frame)
    columns = ["tto", "adapt_seconds", "rays"]
    names = ("psnr", "ssim", "lpips", "images")
    columns += [f"{name}_{split}" for split in SPLITS for name in names] + ["forgetting_db"]
    rows = []
    for tto, own in summary.groupby("tto"):
        row = {"tto": tto, "adapt_seconds": own["adapt_seconds"].max(), "rays": own["rays"].max()}
        for record in own.to_dict("records"):
            row |= {f"{name}_{record['split']}": record[name] for name in names}
            if record["split"] == "old_val":
                row["forgetting_db"] = -record["psnr_gain"]
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    types: dict[str, str] = dict.fromkeys(_TEXT_COLUMNS, "str")
    types |= dict.fromkeys(_WHOLE_COLUMNS, "int64")
    types |= dict.fromkeys(_FLOAT_COLUMNS, "float64")
    return frame.astype(types)
