"""Builds the scene model a training run starts from, with sampling derived from the data.

What cannot fit in memory is refused before any of it is allocated.
"""

from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from nerfcore.checkpoint import load_checkpoint
from nerfcore.checkpoint.files import read_occupancy_dims, require_same_frame
from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset
from nerfcore.errors import CheckpointError
from nerfcore.field.backends import resolve_device
from nerfcore.field.memory import (
    MOMENTS,
    keeps_dense_gradients,
    require_memory,
    scene_needs,
    training_needs,
)
from nerfcore.field.parameters import Architecture
from nerfcore.sampling.occupancy import grid_dims, restrict_to_points
from nerfcore.sampling.visibility import restrict_to_seen
from nerfcore.scene import SceneModel, new_scene
from nerfcore.settings import SamplingSettings
from nerfcore.training.settings import SamplingOptions, TrainSettings

STEP_PX = 4.0
LEAST_PICTURE_STEP_PX = 2.0
BAND_STEPS = 2.0
CELL_STEPS = 1.5
LEAST_STEP_M = 0.02
CAMERAS_WITHOUT_POINTS = 4


def pixel_size_m(dataset: Dataset, store: ImageStore) -> float:
    """Ground length of one pixel at the median camera, metres."""
    scale = dataset.frame.pose_scale_factor_m
    heights = store.c2w[:, 0, 3].astype(np.float64)
    if dataset.points is not None and len(dataset.points):
        ground = float(np.median(dataset.points.xyz[:, 0]))
    else:
        ground = (-dataset.frame.altitude_range_enu_m[0] - dataset.frame.origin_drb_m[0]) / scale
    distance_m = abs(ground - float(np.median(heights))) * scale
    return distance_m / float(np.median(store.intrinsics[:, 0]))


def derived_sampling(
    options: SamplingOptions, dataset: Dataset, store: ImageStore
) -> SamplingSettings:
    """Fill what the options leave open from the cameras' resolution."""
    step_m = options.step_m or max(LEAST_STEP_M, STEP_PX * pixel_size_m(dataset, store))
    focal_px = float(np.median(store.intrinsics[:, 0]))
    return SamplingSettings(
        step_m=step_m,
        step_growth=0.0 if options.step_m else STEP_PX / focal_px,
        step_px=0.0 if options.step_m else LEAST_PICTURE_STEP_PX,
        max_samples=options.max_samples,
        near_m=options.near_m,
        far_m=options.far_m,
        use_occupancy=options.use_occupancy,
    )


def first_scene(
    dataset: Dataset, partition: Partition, settings: TrainSettings, store: ImageStore
) -> SceneModel:
    """Make the untrained model, its occupancy seeded from sparse points and cameras.

    Raises:
        SettingsError: training it does not fit in memory.
    """
    sampling = derived_sampling(settings.sampling, dataset, store)
    cell = CELL_STEPS * sampling.step_m / dataset.frame.pose_scale_factor_m
    require_training_memory(settings, grid_dims(partition, cell))
    scene = new_scene(
        dataset.frame,
        partition,
        settings.model,
        sampling,
        cell_m=CELL_STEPS * sampling.step_m,
        device=settings.device,
        backend=settings.backend,
        seed=settings.seed,
    )
    if dataset.points is not None and sampling.use_occupancy:
        margin_m = settings.sampling.band_margin_m or BAND_STEPS * sampling.step_m
        restrict_to_points(scene.occupancy, dataset.points.xyz, margin_m / scene.scale_m)
    if sampling.use_occupancy:
        least = 1 if dataset.points is not None else min(CAMERAS_WITHOUT_POINTS, len(store))
        restrict_to_seen(scene.occupancy, store, least)
    return scene


def continued_scene(
    dataset: Dataset, settings: TrainSettings, store: ImageStore, start: Path
) -> SceneModel:
    """Load the model that a checkpoint holds, to go on training it.

    Raises:
        CheckpointError: damaged, of another architecture or of another place.
        SettingsError: training it does not fit in memory.
    """
    require_training_memory(settings, read_occupancy_dims(start))
    require_same_frame(start, dataset)
    scene = load_checkpoint(start, settings.device, settings.backend)
    if scene.settings != settings.model:
        raise CheckpointError(
            f"{start}: architecture {scene.settings} differs from the job's {settings.model}; give "
            "the job the checkpoint's values"
        )
    return scene.with_sampling(derived_sampling(settings.sampling, dataset, store))


def require_training_memory(settings: TrainSettings, dims: NDArray[np.int32]) -> None:
    """Refuse a run that cannot fit in memory, before anything of it is allocated.

    Args:
        settings: of the run.
        dims: i32[K, 3], occupancy cells along each axis of every expert.

    Raises:
        SettingsError: with the arithmetic.
    """
    architecture, device = Architecture.of(settings.model), resolve_device(settings.device)
    experts, cells = len(dims), int(dims.astype(np.int64).prod(axis=1).sum())
    dense = settings.algo == "maml" or keeps_dense_gradients(settings.backend, device)
    inner = _inner_copies(settings, dense=dense)
    require_memory(
        f"log2_hashmap_size {settings.model.grid.log2_size}, {experts} experts, algo "
        f'"{settings.algo}"',
        scene_needs(architecture, experts, cells, device)
        + training_needs(architecture, experts, device, dense=dense, inner=inner),
    )


def _inner_copies(settings: TrainSettings, *, dense: bool) -> int:
    """Copies of one expert that the inner loop holds, moments and gradients among them."""
    adapted = 1 + MOMENTS + dense
    match settings.algo:
        case "joint":
            return 0
        case "fomaml":
            return adapted + 2 * settings.learn_inner_rates  # before a step, and how far it went
        case "reptile":
            return adapted + 2  # how far a task went, and the sum over tasks
        case "maml":
            return 2 * settings.inner_steps + 2  # the graph: values and gradient of each step
        case never:
            assert_never(never)
