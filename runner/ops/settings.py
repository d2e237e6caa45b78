"""Owns the way from a job's fields to the engine's settings.

Job fields keep the reference system's names; the engine has its own.
"""

import dataclasses
from typing import Final

from configs import EvalJob, Job, TrainJob, VideoJob, ViewJob
from nerfcore.adaptation import AdaptSettings
from nerfcore.scene import SceneModel
from nerfcore.settings import HashGridSettings, ModelSettings
from nerfcore.training.inner_rates import InnerRates
from nerfcore.training.learner import Rates
from nerfcore.training.settings import SamplingOptions, TrainSettings

BACKGROUNDS: Final = {
    "black": (0.0, 0.0, 0.0),
    "gray": (0.5, 0.5, 0.5),
    "white": (1.0, 1.0, 1.0),
}


def model_settings(job: TrainJob) -> ModelSettings:
    """Return the architecture that a train job describes."""
    return ModelSettings(
        variant=job.nerf_variant,
        grid=HashGridSettings(log2_size=job.log2_hashmap_size, max_resolution=job.max_resolution),
        sigma_depth=job.sigma_depth,
        color_depth=job.color_depth,
        dim_hidden=job.dim_hidden,
        color_hidden=job.color_hidden,
        use_background=not job.no_bg_nerf,
        bg_hidden=job.bg_hidden,
        background_rgb=BACKGROUNDS[job.bg_color_default],
        colour_space=job.color_space,
        use_bf16=job.use_amp,
    )


def sampling_options(job: Job) -> SamplingOptions:
    """Return how rays are sampled."""
    return SamplingOptions(
        max_samples=job.ray_samples,
        near_m=job.near,
        far_m=job.far,
        use_occupancy=job.use_occ,
    )


def rates(job: TrainJob | EvalJob | ViewJob) -> Rates:
    """Return the learning rates."""
    return Rates(job.encoding_lr, job.sigma_lr, job.color_lr, job.bg_lr)


def train_settings(job: TrainJob, model: ModelSettings, *, resume: bool) -> TrainSettings:
    """Return a training run's settings.

    Args:
        job: the spec.
        model: the architecture: the job's, or its checkpoint's.
        resume: go on with the optimiser's state.
    """
    return TrainSettings(
        algo=job.algo,
        model=model,
        sampling=sampling_options(job),
        rates=rates(job),
        decay_factor=1.0 if job.no_scheduler else job.decay_factor,
        outer_steps=job.outer_steps,
        time_limit_s=job.time_limit_s,
        batch_rays=job.batch_rays,
        support_rays=job.support_rays,
        query_rays=job.query_rays,
        tasks=job.batch_size,
        inner_steps=job.inner_iter,
        inner_lr=job.inner_lr,
        adapt=job.adapt,
        learn_inner_rates=job.learn_inner_rates,
        reptile_step=job.reptile_step,
        max_rays=job.max_rays,
        cell_dim=job.cell_dim,
        save_step=job.save_step,
        eval_step=job.eval_step,
        print_step=job.print_step,
        max_val_images=job.max_val_images,
        keep_checkpoints=job.keep_checkpoints,
        downscale=job.downscale,
        resume=resume,
        seed=job.seed,
        device=job.device,
        backend=job.backend,
    )


def adapt_settings(job: EvalJob | ViewJob, factors: InnerRates | None = None) -> AdaptSettings:
    """Return how a job adapts; a view job everything, with plain rates."""
    settings = AdaptSettings(
        rays=job.support_rays, replay=job.replay, rates=rates(job), seed=job.seed,
        exposure=job.exposure, local=job.local,
    )  # fmt: skip
    if isinstance(job, EvalJob):
        settings = dataclasses.replace(settings, part=job.adapt, factors=factors)
    return settings


def with_job_sampling(scene: SceneModel, job: EvalJob | ViewJob | VideoJob) -> SceneModel:
    """Return the scene (shared parameters) with the job's ray bounds and number of samples."""
    sampling = dataclasses.replace(
        scene.sampling,
        max_samples=job.ray_samples,
        near_m=job.near,
        far_m=job.far,
        use_occupancy=job.use_occ,
    )
    return scene.with_sampling(sampling)
