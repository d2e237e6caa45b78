"""Owns the field groups that several operations share, with their units and ranges.

Lengths are metres, times seconds, image sizes pixels, unless a description says otherwise.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from configs.artifacts import RESERVED_PREFIXES

JOB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
PREFIX_PATTERN = r"^(best|last|step[0-9]{1,9})$"

JobId = Annotated[
    str,
    Field(
        pattern=JOB_ID_PATTERN,
        description="1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
    ),
]
FolderName = Annotated[str, Field(pattern=NAME_PATTERN)]
PathText = Annotated[str, Field(min_length=1, max_length=1024)]
LearningRate = Annotated[float, Field(ge=0, le=10)]
Depth = Annotated[int, Field(ge=1, le=8)]
Width = Annotated[int, Field(ge=8, le=256)]
ColorSpace = Literal["linear", "srgb", "identity"]


def rule_broken(field: str, message: str) -> PydanticCustomError:
    """Return the error of a rule between fields, to be raised by a validator."""
    return PydanticCustomError("job_rule", "{message}", {"field": field, "message": message})


class JobFields(BaseModel):
    """Base of every field group: strict types, no unknown field, no change after parsing."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class GeneralFields(JobFields):
    """Identity, machine and reproducibility."""

    job_id: JobId | None = Field(
        None,
        description="name of the job and of its folder below the log root: 1 to 64 letters, "
        "digits, '.', '_' or '-', the first a letter or digit; null = a random one",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of every random choice")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to compute; auto = cuda where PyTorch sees a GPU, else cpu"
    )
    backend: Literal["auto", "numba", "torch", "tcnn", "triton"] = Field(
        "auto",
        description="hash-grid kernels; auto = numba on the CPU, on a GPU the first of tcnn, "
        "triton and torch that is installed",
    )
    use_amp: bool = Field(
        False,
        description="matrix products of a new model's MLPs in bfloat16 (not with backend numba, "
        "where float32 is faster and stays); a checkpoint keeps its own",
    )

    priority: int = Field(
        0, ge=-100, le=100, description="larger runs first; jobs of one priority in their order"
    )

    @model_validator(mode="after")
    def _not_a_reserved_name(self) -> "GeneralFields":
        name = (self.job_id or "").lower()
        if name.startswith(RESERVED_PREFIXES):
            raise rule_broken("job_id", "is the name of a file of the mediator; choose another")
        return self


class DataFields(JobFields):
    """Which prepared dataset and partition: `<data_path>/out/<data_dirname>[/masks/<...>]`."""

    dataset: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        "drz", description="name of the dataset, for logs and plots only"
    )
    data_path: PathText = Field(
        "data/drz/",
        description="folder that holds out/<data_dirname>, relative to the project folder and "
        "inside a data root",
    )
    data_dirname: FolderName = Field(
        description="prepared dataset: folder below <data_path>/out/, made by "
        "scripts/prepare_dataset.py"
    )
    mask_dirname: FolderName = Field(
        description="partition into experts: folder below <dataset>/masks/, made by "
        "scripts/create_clusters.py"
    )
    cap_images: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="use at most this many training images, evenly spaced; null = all"
    )
    downscale: float = Field(
        0.25, gt=0, le=1, description="factor the images' width and height are multiplied by"
    )
    near: Annotated[float, Field(ge=0, le=1e7)] | None = Field(
        None, description="start of every ray, metres; null = from the scene boxes"
    )
    far: Annotated[float, Field(gt=0, le=1e7)] | None = Field(
        None, description="end of every ray, metres, beyond near; null = from the scene boxes"
    )
    boundary_margin: Annotated[float, Field(ge=1, le=4)] | None = Field(
        None,
        description="experts within this ratio of the nearest one's distance are blended, at most "
        "the partition's; null = the partition's own (short name: bm; reference: 1.05)",
    )

    @model_validator(mode="after")
    def _near_before_far(self) -> "DataFields":
        if self.near is not None and self.far is not None and self.far <= self.near:
            raise rule_broken(
                "far", f"must lie beyond near = {self.near:g} m; raise far or lower near"
            )
        return self


class ModelFields(JobFields):
    """Architecture of the experts and the background, for a model made from nothing."""

    num_submodules: int = Field(
        4, ge=1, le=1024, description="number of experts; must equal the partition's"
    )
    nerf_variant: Literal["instant", "vanilla"] = Field(
        "instant", description="instant = hash grid; vanilla = frequency encoding, no table"
    )
    sigma_depth: Depth = Field(2, description="hidden layers of the density MLP")
    color_depth: Depth = Field(2, description="hidden layers of the colour MLP")
    dim_hidden: Width = Field(64, description="width of the density MLP")
    color_hidden: Width = Field(64, description="width of the colour MLP")
    dir_encoding: Literal["spherical"] = Field(
        "spherical", description="encoding of view directions: spherical harmonics of degree 4"
    )
    no_bg_nerf: bool = Field(False, description="no background MLP; bg_color_default instead")
    bg_hidden: Width = Field(32, description="width of the background MLP")
    bg_encoding: Literal["spherical"] = Field(
        "spherical", description="encoding of directions for the background MLP"
    )
    bg_color_default: Literal["black", "gray", "white"] = Field(
        "black", description="background where no_bg_nerf is true"
    )
    log2_hashmap_size: int = Field(
        19,
        ge=10,
        le=24,
        description="rows of an expert's table per level, as a power of two (reference: 20)",
    )
    max_resolution: int = Field(
        4096, ge=16, le=1_048_576, description="cells along the box's longest edge, finest level"
    )
    color_space: ColorSpace = Field(
        "linear",
        description="linear = composite linear light; srgb or identity = composite the 8-bit "
        "values; loss and pictures are sRGB in every case",
    )


_STORED = Field(
    None,
    description="as for op train; when given it must equal the checkpoint's; null = any",
)


class StoredModelFields(JobFields):
    """Architecture that the checkpoint must have; null = whatever it has."""

    num_submodules: Annotated[int, Field(ge=1, le=1024)] | None = _STORED
    nerf_variant: Literal["instant", "vanilla"] | None = _STORED
    sigma_depth: Depth | None = _STORED
    color_depth: Depth | None = _STORED
    dim_hidden: Width | None = _STORED
    color_hidden: Width | None = _STORED
    dir_encoding: Literal["spherical"] | None = _STORED
    no_bg_nerf: bool | None = _STORED
    bg_hidden: Width | None = _STORED
    bg_encoding: Literal["spherical"] | None = _STORED
    bg_color_default: Literal["black", "gray", "white"] | None = _STORED
    log2_hashmap_size: Annotated[int, Field(ge=10, le=24)] | None = _STORED
    max_resolution: Annotated[int, Field(ge=16, le=1_048_576)] | None = _STORED
    color_space: ColorSpace | None = _STORED


class RenderFields(JobFields):
    """How rays are sampled and rendered."""

    ray_samples: int = Field(96, ge=1, le=4096, description="most samples kept on one ray")
    chunk_points: int = Field(
        4_000_000,
        ge=1024,
        le=2**31,
        description="accepted for the reference's jobs; the engine bounds its memory by itself",
    )
    use_occ: bool = Field(
        True, description="skip cells known to be empty (reference: false by default)"
    )


class OptimizerFields(JobFields):
    """Learning rates (per step, unitless) and their schedule."""

    optimizer: Literal["adam"] = Field("adam", description="optimiser of training and adaptation")
    lr: LearningRate = Field(
        1e-4, description="accepted for the reference's jobs; every part has a rate of its own"
    )
    encoding_lr: LearningRate = Field(1e-2, description="learning rate of the hash tables")
    sigma_lr: LearningRate = Field(2e-3, description="learning rate of the density MLPs")
    color_lr: LearningRate = Field(2e-3, description="learning rate of the colour MLPs")
    bg_lr: LearningRate = Field(1e-3, description="learning rate of the background MLP")
    no_scheduler: bool = Field(False, description="keep the learning rates constant")
    decay_factor: float = Field(
        10.0, ge=1, le=1e6, description="learning rates fall exponentially to 1/decay_factor"
    )


class SurveyFields(JobFields):
    """What is looked for in new images before a model follows them."""

    exposure: bool = Field(
        True,
        description="bring each new image to the model's exposure first (a gain a channel, fitted "
        "on the adapted part alone); others of its flight are shown with their median",
    )
    local: bool = Field(
        False,
        description="only ground cells where the new images disagree with the model may change; "
        "all others render bit for bit as before",
    )


class AdaptFields(SurveyFields):
    """How a model follows new images."""

    support_rays: int = Field(4000, ge=16, le=4_194_304, description="rays per adaptation step")
    replay: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="share of old images' rays in each adaptation step; what the new images show "
        "to have changed is not replayed where exposure or local look for it",
    )
    adapt: Literal["all", "features", "mlps"] = Field(
        "all", description="what may change: everything, the hash tables, or the MLPs"
    )
    use_inner_rates: bool = Field(
        False, description="adapt with the inner rates that the checkpoint's training learned"
    )


class CheckpointFields(JobFields):
    """How a checkpoint below `checkpoint_path` is chosen and held against the job."""

    prefix: Annotated[str, Field(pattern=PREFIX_PATTERN)] = Field(
        "last", description="which checkpoint of the job: last, best or stepN"
    )
    use_stored_args: bool = Field(
        False,
        description="take the architecture from the checkpoint without holding the job's "
        "architecture fields against it",
    )


CHECKPOINT_PATH = (
    "checkpoint: a job id, a path below the log root, or an absolute path inside the log or data "
    "roots"
)
