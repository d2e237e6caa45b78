"""Owns the fields of `op: "eval"`: test-time adaptation and its scores."""

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from configs.common import (
    CHECKPOINT_PATH,
    AdaptFields,
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
    "adaptation steps to score after, as a whole number, a list or a text such as '0,16,64', each "
    f"0 to {MAX_TTO}, at most {MAX_TTO_ENTRIES} of them"
)


class EvalJob(
    GeneralFields,
    DataFields,
    StoredModelFields,
    RenderFields,
    OptimizerFields,
    CheckpointFields,
    AdaptFields,
):
    """An evaluation job.

    With `protocol: holdout` and a batch: adapt on the batch's adapt split, score its held-out
    split, the adapted images and the old validation images. Without a batch: adapt on the
    even-numbered validation images, score the odd ones and those adapted to. `fit` adapts on and
    scores the same images. `half` adapts on the left halves of all new images and scores the right
    ones.
    """

    op: Literal["eval"] = Field(description="the operation")
    checkpoint_path: PathText = Field(description=CHECKPOINT_PATH)
    tto: Annotated[str, Field(max_length=1024)] | int | list[int] = Field(
        "0,16,64",
        description=f"{TTO_RULE}; 0, the model as it was, is always scored first: what was gained "
        "and forgotten is counted from there",
    )
    batch: FolderName | None = Field(
        None, description="batch below <dataset>/continual/; null = the validation split"
    )
    protocol: Literal["holdout", "fit", "half"] = Field(
        "holdout",
        description="holdout = score images not adapted to; fit = the same images; half = adapt "
        "on the left halves of the new images, score the right ones",
    )
    save_adapted: bool = Field(
        False,
        description="keep the adapted model as a new version beside the one it came from; "
        "scripts/rollback.py goes back",
    )
    change_map: bool = Field(
        True,
        description="write where the new images disagree with the model before adaptation: a "
        "georeferenced picture and a list of areas",
    )
    max_images: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="score at most this many images of each split; null = all"
    )
    test_batch_size: int = Field(
        1,
        ge=1,
        le=100_000,
        description="accepted for the reference's jobs: images are scored "
        "one by one whatever it says",
    )

    @field_validator("tto")
    @classmethod
    def _tto_in_range(cls, value: str | int | list[int]) -> str | int | list[int]:
        parse_tto(value)
        return value

    @field_validator("save_adapted")
    @classmethod
    def _has_what_to_save(cls, value: bool, info: ValidationInfo) -> bool:
        tto = info.data.get("tto")
        if value and tto is not None and parse_tto(tto)[-1] == 0:
            raise ValueError(
                f"must be false with tto = {tto}: nothing is adapted, so there is nothing to save; "
                "give tto a number of steps above 0"
            )
        return value

    @property
    def tto_steps(self) -> tuple[int, ...]:
        """The steps to score after: 0 and those of `tto`, ascending, each once."""
        return tuple(sorted({0, *parse_tto(self.tto)}))


def parse_tto(value: str | int | list[int]) -> tuple[int, ...]:
    """Return the steps of a `tto` value, ascending, each once.

    Raises:
        ValueError: not a number or list, or a number out of range.
    """
    numbers = [value] if isinstance(value, int) else value
    if isinstance(numbers, str):
        texts = numbers.split(",")
    else:  # a number of thousands of digits is never turned into text
        texts = [str(number) if 0 <= number <= MAX_TTO else "-1" for number in numbers]
    if not 0 < len(texts) <= MAX_TTO_ENTRIES:
        raise ValueError(f"must be {TTO_RULE}")
    stripped = [text.strip() for text in texts]
    if not all(re.fullmatch(r"[0-9]{1,6}", text) for text in stripped):
        raise ValueError(f"must be {TTO_RULE}")
    steps = sorted({int(text) for text in stripped})
    if steps[-1] > MAX_TTO:
        raise ValueError(f"must be {TTO_RULE}")
    return tuple(steps)
