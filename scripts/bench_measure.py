"""Owns measuring: contestants timed in turn, rows of results, and the bench's own inputs."""

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nerfcore import atomic
from nerfcore.settings import HashGridSettings

GRID_POINTS, GRID_POINTS_A_RAY = 262_144, 64


class BenchError(Exception):
    """The bench cannot go on; one line says why."""


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        name: of the measurement.
        value, unit: what was measured (median).
        ratio: how many times better than `against` (for memory: share of it), the median of the
            rounds' ratios; None if there is nothing to compare with.
        against: what it was compared with, measured in the same run unless it says otherwise.
        target, met: what is promised, and whether it holds; None where nothing is.
        detail: all that is needed to understand the value.
        device, threads: where it ran.
    """

    name: str
    value: float
    unit: str
    ratio: float | None
    against: str | None
    target: str | None = None
    met: bool | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    threads: int = 0


def device_name(device: torch.device) -> str:
    """Return the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU of unknown name"


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    contestants: Mapping[str, Callable[[], float]],
    rounds: int,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Let every contestant measure itself once to warm up, then once a round, in turn.

    Args:
        contestants: by name; each call returns one figure.
        rounds: figures kept of each.
        on_round: called with the rounds done.

    Returns:
        The figures of each, in order.
    """
    for measure in contestants.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for done in range(rounds):
        on_round(done)
        for name, measure in contestants.items():
            found[name].append(measure())
    on_round(rounds)
    return found


def median(figures: list[float]) -> float:
    """Return the median of figures."""
    return statistics.median(figures)


def paired_ratio(over: list[float], under: list[float]) -> float:
    """Return the median over rounds of over / under.

    Both of a round met the same machine, so a load that comes and goes cancels out of most rounds;
    it would not cancel out of the ratio of two medians.
    """
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def spread(figures: list[float]) -> list[float]:
    """Return the least and the largest figure, for a row's detail."""
    return [rounded(min(figures)), rounded(max(figures))]


def rounded(value: float) -> float:
    """Return a value to four significant digits."""
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.4g}")


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as a JSON list, atomically: the old file or the whole new one.

    Raises:
        BenchError: a figure is not finite.
        OSError: the file cannot be written.
    """
    content = [asdict(row) for row in rows]
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise BenchError(f"a figure is not finite: {error}") from error
    atomic.write_text(path, text + "\n")


def worker_threads() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def grid_settings() -> HashGridSettings:
    """Return the hash grid that is timed: T = 2^19."""
    return HashGridSettings(log2_size=19)


def coherent_points(seed: int = 0) -> NDArray[np.float32]:
    """Return points on rays down through the unit cube, ray after ray, f32[262144, 3]."""
    rng = np.random.default_rng(seed)
    rays = GRID_POINTS // GRID_POINTS_A_RAY
    top, bottom = np.zeros((rays, 1, 3)), np.ones((rays, 1, 3))
    top[:, 0, 1:] = rng.random((rays, 2))
    bottom[:, 0, 1:] = np.clip(top[:, 0, 1:] + rng.uniform(-0.3, 0.3, (rays, 2)), 0.0, 1.0)
    along = (np.arange(GRID_POINTS_A_RAY) + rng.random((rays, 1))) / GRID_POINTS_A_RAY
    points = top + along[..., None] * (bottom - top)
    return points.reshape(-1, 3).astype(np.float32)
