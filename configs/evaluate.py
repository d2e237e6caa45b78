"""Owns the fields of `op: "eval"`: test-time adaptation and its scores."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from configs.common import (
    CHECKPOINT_PATH,
    CheckpointFields,
    DataFields,
    FolderName,
    GeneralFields,
    OptimizerFields,
    PathText,
    RenderFields,
    StoredModelFields,
)

MAX_TTO = 100_000
MAX_TTO_ENTRIES = 64
TTO_RULE = (
    "adaptation steps to score after, as a whole number or a comma list such as '0,16,64', each "
    f"0 to {MAX_TTO}, at most {MAX_TTO_ENTRIES} of them"
)


class EvalJob(
    GeneralFields, DataFields, StoredModelFields, RenderFields, OptimizerFields, CheckpointFields
):
    """An evaluation job.

    With `protocol: holdout` and a batch: adapt on the batch's adapt split, score its held-out
    split, the adapted images and the old validation images. Without a batch: adapt on the
    even-numbered validation images, score the odd ones. `fit` adapts on and scores the same images.
    """

    op: Literal["eval"] = Field(description="the operation")
    checkpoint_path: PathText = Field(description=CHECKPOINT_PATH)
    tto: Annotated[str, Field(max_length=1024)] | int = Field("0,16,64", description=TTO_RULE)
    batch: FolderName | None = Field(
        None, description="batch below <dataset>/continual/; null = the validation split"
    )
    protocol: Literal["holdout", "fit"] = Field(
        "holdout", description="holdout = score images not adapted to; fit = the same images"
    )
    save_adapted: bool = Field(False, description="keep the adapted model as a new checkpoint")
    max_images: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="score at most this many images of each split; null = all"
    )
    replay: float = Field(
        0.0, ge=0, le=0.9, description="share of old images' rays in each adaptation step"
    )
    support_rays: int = Field(4000, ge=16, le=4_194_304, description="rays per adaptation step")
    test_batch_size: int = Field(
        1,
        ge=1,
        le=100_000,
        description="accepted for the reference's jobs: images are scored "
        "one by one whatever it says",
    )

    @field_validator("tto")
    @classmethod
    def _tto_in_range(cls, value: str | int) -> str | int:
        parse_tto(value)
        return value

    @property
    def tto_steps(self) -> tuple[int, ...]:
        """The steps of `tto`, ascending, each once."""
        return parse_tto(self.tto)


def parse_tto(value: str | int) -> tuple[int, ...]:
    """Return the steps of a `tto` value, ascending, each once.

    Raises:
        ValueError: not a number or list, or a number out of range.
    """
    texts = value.split(",") if isinstance(value, str) else [str(value) if value >= 0 else "-1"]
    if len(texts) > MAX_TTO_ENTRIES or (isinstance(value, int) and value > MAX_TTO):
        raise ValueError(f"must be {TTO_RULE}")
    stripped = [text.strip() for text in texts]
    if not all(re.fullmatch(r"[0-9]{1,6}", text) for text in stripped):
        raise ValueError(f"must be {TTO_RULE}")
    steps = sorted({int(text) for text in stripped})
    if steps[-1] > MAX_TTO:
        raise ValueError(f"must be {TTO_RULE}")
    return tuple(steps)
