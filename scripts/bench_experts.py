"""Owns the rows about many experts: what a training step costs with 1, 4, 16 and 64 of them.

The scene, the rays and every grid cell's size in metres stay the same. "Same capacity" divides one
table among the experts (64 experts have tables of a 64th); "full tables" gives each the same size.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from bench_measure import Row, in_turn, median, paired_ratio, rounded, spread
from bench_scene import OnProgress, grid_experts
from bench_speed import Steps

from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset
from nerfcore.settings import HashGridSettings
from nerfcore.training.learner import Learner
from nerfcore.training.schedule import training_sampling
from nerfcore.training.settings import TrainSettings
from nerfcore.training.start import first_scene

ACROSS = (1, 2, 4, 8)
SHIPPED_ACROSS = 2
WARM_UP_TURNS, STEPS_A_WARM_UP = 3, 16
STEPS_A_TURN = 16
FULL_TABLES_ROUNDS = 3  # no promise hangs on that row
LEAST_SHARE = 0.75


def _longest_edge(partition: Partition) -> float:
    return float((partition.box_maxs - partition.box_mins).max(axis=1).mean())


def grid_of(
    shipped: HashGridSettings, shipped_edge: float, edge: float, log2_size: int
) -> HashGridSettings:
    """Return the grid of experts whose boxes are `edge` long, cells as long as the shipped ones."""
    factor = edge / shipped_edge
    return dataclasses.replace(
        shipped,
        log2_size=log2_size,
        base_resolution=max(2, round(shipped.base_resolution * factor)),
        max_resolution=max(4, round(shipped.max_resolution * factor)),
    )


def _warm_steps(
    dataset: Dataset, store: ImageStore, settings: TrainSettings, across: int, log2_size: int,
    on_turn: Callable[[], None],
) -> Steps:  # fmt: skip
    """Train across x across experts for a while and return their steps at the end of a run."""
    partition = grid_experts(dataset, across)
    shipped_edge = _longest_edge(grid_experts(dataset, SHIPPED_ACROSS))
    grid = grid_of(settings.model.grid, shipped_edge, _longest_edge(partition), log2_size)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, grid=grid))
    scene = first_scene(dataset, partition, settings, store)
    learner = Learner(scene, np.random.default_rng(across))
    steps = Steps(scene, learner, store, settings)
    ending = steps.rates
    steps.rates = settings.rates
    for turn in range(WARM_UP_TURNS):
        learner.sampling = training_sampling(scene.sampling, turn / (WARM_UP_TURNS - 1))
        steps.rays_per_s(STEPS_A_WARM_UP)
        on_turn()
    steps.rates = ending
    steps.samples_a_ray.clear()
    return steps


def _experts_row(
    name: str, contestants: dict[int, Steps], rounds: int, on_progress: OnProgress
) -> Row:
    measures = {str(k): lambda s=s: s.rays_per_s(STEPS_A_TURN) for k, s in contestants.items()}
    found = in_turn(measures, rounds, lambda done: on_progress(name, done, rounds))
    speeds = {k: median(figures) for k, figures in found.items()}
    most = max(contestants)
    ratio = paired_ratio(found[str(most)], found["1"])
    capacity = name != "experts_full_tables"
    first = contestants[1]
    return Row(
        name,
        rounded(ratio),
        "x",
        rounded(ratio),
        "rays/s of 1 expert, same rows in all"
        if capacity
        else "rays/s of 1 expert with one such table",
        f">= {LEAST_SHARE:g}" if capacity else None,
        ratio >= LEAST_SHARE if capacity else None,
        {
            "rays_per_s": {k: rounded(v) for k, v in speeds.items()},
            "rays_per_s_min_max": {k: spread(figures) for k, figures in found.items()},
            "samples_per_ray": {
                str(k): rounded(median(s.samples_a_ray)) for k, s in contestants.items()
            },
            "table_rows_in_all": {
                str(k): k * s.scene.experts[0]["table"].shape[0] for k, s in contestants.items()
            },
            "log2_hashmap_size": {
                str(k): s.scene.settings.grid.log2_size for k, s in contestants.items()
            },
            "warm_up_steps": WARM_UP_TURNS * STEPS_A_WARM_UP,
            "rounds": rounds,
            "batch_rays": first.stepper.rays,
        },
    )


def experts_rows(
    dataset: Dataset, settings: TrainSettings, rounds: int, on_progress: OnProgress
) -> list[Row]:
    """Training steps with K = 1, 4, 16, 64 experts, tables shared out, and each of one size."""
    shipped = settings.model.grid.log2_size
    shared = {a * a: shipped + 2 - 2 * (a.bit_length() - 1) for a in ACROSS}
    same = {1: shipped - 2, max(ACROSS) ** 2: shipped - 2}
    todo = [
        ("experts_64_over_1", shared, rounds),
        ("experts_full_tables", same, min(rounds, FULL_TABLES_ROUNDS)),
    ]
    total = sum(len(sizes) for _, sizes, _ in todo) * WARM_UP_TURNS
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        on_progress("experts, warming up", done, total)

    rows = []
    with ImageStore(dataset.train, budget_bytes=settings.memory_bytes) as store:
        for name, sizes, turns in todo:
            contestants = {
                k: _warm_steps(dataset, store, settings, round(k**0.5), log2_size, one_more)
                for k, log2_size in sizes.items()
            }
            rows.append(_experts_row(name, contestants, turns, on_progress))
    return rows
