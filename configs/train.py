"""Owns the fields of `op: "train"`: offline training of a starting point for adaptation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.common import (
    CHECKPOINT_PATH,
    CheckpointFields,
    DataFields,
    GeneralFields,
    ModelFields,
    OptimizerFields,
    PathText,
    RenderFields,
    rule_broken,
)

Steps = Annotated[int, Field(ge=1, le=10_000_000)]
Rays = Annotated[int, Field(ge=16, le=4_194_304)]


INNER_FIELDS = frozenset({"inner_iter", "inner_lr"})


class EpisodeFields(GeneralFields):
    """Meta-learning: tasks made of rays of one ground cell of one expert."""

    algo: Literal["joint", "fomaml", "maml", "reptile"] = Field(
        "joint",
        description="joint = all experts on all rays; fomaml, maml (second order, many times "
        "slower, CPU only) and reptile = meta-learning on ground cells; left out it is fomaml when "
        "the job states inner_iter or inner_lr (as the reference's jobs do), else joint",
    )
    inner_iter: int = Field(8, ge=1, le=1000, description="inner steps per task")
    inner_lr: float = Field(
        0.015,
        gt=0,
        le=10,
        description="inner learning rate of the tables; the MLPs keep their ratio to it. The inner "
        "loop is Adam on tables and MLPs, as test time is (the reference: SGD on the MLPs only); "
        "for maml it is plain descent, scaled so that the first step moves as far",
    )
    adapt: Literal["all", "features", "mlps"] = Field(
        "all", description="what the inner loop may change: everything, the tables, or the MLPs"
    )
    learn_inner_rates: bool = Field(
        False,
        description="learn a factor on the inner rate for each level of a table and each MLP "
        "(fomaml and maml); eval uses them with use_inner_rates",
    )
    reptile_step: float = Field(
        1.0,
        gt=0,
        le=1,
        description="reptile: share of the way to the adapted weights' mean that a step goes; "
        "falls as the learning rates do",
    )
    outer_steps: Steps = Field(20_000, description="training steps (joint or meta)")
    batch_size: int = Field(3, ge=1, le=1024, description="tasks per expert and step")
    test_batch_size: int = Field(
        1,
        ge=1,
        le=1024,
        description="accepted for the reference's jobs; scoring takes max_val_images images",
    )
    max_test_tasks: int = Field(
        4,
        ge=1,
        le=1024,
        description="accepted for the reference's jobs; scoring takes max_val_images images",
    )
    support_rays: Rays = Field(4000, description="rays a task adapts on")
    query_rays: Rays = Field(2000, description="rays a task is scored on, from other images")
    cell_dim: int = Field(5, ge=1, le=256, description="ground cells along each side of an expert")
    fim: Literal[False] = Field(False, description="Fisher weighting; not in this version")

    @model_validator(mode="before")
    @classmethod
    def _meta_learning_where_the_reference_does(cls, values: object) -> object:
        """A job that states an inner loop but no `algo` means meta-learning."""
        if isinstance(values, dict) and "algo" not in values and INNER_FIELDS & values.keys():
            return {**values, "algo": "fomaml"}
        return values


class TrainJob(
    EpisodeFields, DataFields, ModelFields, RenderFields, OptimizerFields, CheckpointFields
):
    """A training job."""

    op: Literal["train"] = Field(description="the operation")
    checkpoint_path: PathText | None = Field(
        None, description=f"{CHECKPOINT_PATH}; training continues from it; null = from nothing"
    )
    resume: bool = Field(
        False,
        description="continue with the step and optimiser state of checkpoint_path, else only "
        "its weights are taken",
    )
    batch_rays: Rays = Field(8192, description="rays per step of algo joint")
    time_limit_s: Annotated[float, Field(gt=0, le=2_592_000)] | None = Field(
        None, description="stop cleanly after this many seconds of training; null = no limit"
    )
    max_rays: Annotated[int, Field(ge=16, le=10**15)] | None = Field(
        None,
        description="stop cleanly after this many rays, those of inner loops counted: the same "
        "compute for every algo; null = no limit",
    )
    save_step: Steps = Field(1000, description="steps between checkpoints")
    eval_step: Steps = Field(200, description="steps between scores on validation images")
    print_step: Steps = Field(1, description="steps between progress lines (at most 2 a second)")
    keep_checkpoints: int = Field(
        3, ge=1, le=1000, description="newest checkpoints kept, the best one besides"
    )
    max_val_images: int = Field(
        4, ge=0, le=10_000, description="validation images scored at eval_step; 0 = none"
    )

    @model_validator(mode="after")
    def _inner_rates_can_be_learned(self) -> "TrainJob":
        if self.learn_inner_rates and self.algo not in ("fomaml", "maml"):
            raise rule_broken("learn_inner_rates", f"needs algo fomaml or maml, not {self.algo}")
        return self

    @model_validator(mode="after")
    def _resume_needs_a_checkpoint(self) -> "TrainJob":
        if self.resume and self.checkpoint_path is None:
            raise rule_broken("resume", "needs checkpoint_path; name the job to continue")
        return self
