"""Owns the settings of a training run."""

from dataclasses import dataclass, field
from typing import Literal

from nerfcore.settings import BackendName, ModelSettings
from nerfcore.training.learner import Rates
from nerfcore.training.parts import Part

Algorithm = Literal["joint", "fomaml", "maml", "reptile"]


@dataclass(frozen=True)
class SamplingOptions:
    """Ray sampling as a job states it; None means derived from the scene.

    Attributes:
        max_samples: most samples kept on a ray.
        step_m: shortest step; None = 4 pixels at the cameras' median height, at least 0.02 m.
        near_m, far_m: ray bounds.
        use_occupancy: skip empty cells.
        band_margin_m: how far matter may lie above or below the sparse points.
    """

    max_samples: int = 96
    step_m: float | None = None
    near_m: float | None = None
    far_m: float | None = None
    use_occupancy: bool = True
    band_margin_m: float | None = None


@dataclass(frozen=True)
class TrainSettings:
    """One training run.

    Attributes:
        algo: "joint" trains all experts on all rays; the others meta-train on ground cells (see
            `steppers` and `second_order`).
        model, sampling: see there.
        rates: Adam's rates at the start; they fall by `decay_factor` over the run.
        outer_steps: steps; time_limit_s: stop cleanly after this long (with
            `same_run` earlier attempts count), None = never.
        max_rays: stop after so many rays, inner loops counted (with `same_run` those of earlier
            attempts too), None = never.
        batch_rays: rays of a joint step.
        support_rays, query_rays: rays of an episode's two parts.
        tasks: episodes an expert in one outer step.
        inner_steps, inner_lr: inner loop; adapt: what it may change.
        learn_inner_rates: learn factors on the inner rates by groups (fomaml and maml).
        reptile_step: share of the way to the adapted weights, falls as the rates do.
        cell_dim: ground cells along each side of an expert.
        save_step, eval_step, print_step: every so many steps.
        max_val_images: images scored at eval_step.
        keep_checkpoints: how many to keep (besides the best).
        downscale: factor of the image size.
        resume: continue with the optimiser's state, not only the weights.
        same_run: the start is an interrupted attempt's checkpoint, whose time counts.
        memory_bytes: pixels above this are memory-mapped.
    """

    algo: Algorithm = "joint"
    model: ModelSettings = field(default_factory=ModelSettings)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    rates: Rates = field(default_factory=Rates)
    decay_factor: float = 10.0
    outer_steps: int = 20000
    time_limit_s: float | None = None
    max_rays: int | None = None
    batch_rays: int = 8192
    support_rays: int = 4000
    query_rays: int = 2000
    tasks: int = 3
    inner_steps: int = 8
    inner_lr: float = 0.015
    adapt: Part = "all"
    learn_inner_rates: bool = False
    reptile_step: float = 1.0
    cell_dim: int = 5
    save_step: int = 1000
    eval_step: int = 200
    print_step: int = 1
    max_val_images: int = 4
    keep_checkpoints: int = 3
    downscale: float = 1.0
    resume: bool = False
    same_run: bool = False
    seed: int = 0
    device: str = "auto"
    backend: BackendName = "auto"
    memory_bytes: int = 1 << 30
