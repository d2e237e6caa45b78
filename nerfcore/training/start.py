"""Builds the scene model a training run starts from, with sampling derived from the data."""

import numpy as np

from nerfcore.data.images import ImageStore
from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset
from nerfcore.sampling.occupancy import restrict_to_points
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
    """Make the untrained model, its occupancy seeded from sparse points and cameras."""
    sampling = derived_sampling(settings.sampling, dataset, store)
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
