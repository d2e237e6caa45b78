"""Owns the fields of `op: "view"`: the interactive viewer."""

from typing import Annotated, Literal

from pydantic import Field

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
    SurveyFields,
)

Token = Annotated[str, Field(pattern=r"^[!-~]{8,256}$")]


class ViewJob(
    GeneralFields,
    DataFields,
    StoredModelFields,
    RenderFields,
    OptimizerFields,
    CheckpointFields,
    SurveyFields,
):
    """A viewer job; the optimiser fields and those of `SurveyFields` serve its live adaptation."""

    op: Literal["view"] = Field(description="the operation")
    checkpoint_path: PathText = Field(description=CHECKPOINT_PATH)
    batch: FolderName | None = Field(
        None, description="batch below <dataset>/continual/ to adapt to live; null = none chosen"
    )
    support_rays: int = Field(
        4000, ge=16, le=4_194_304, description="rays per live adaptation step"
    )
    replay: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="share of old images' rays in each adaptation step; what the new images show "
        "to have changed is not replayed where exposure or local look for it",
    )
    viewer_host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")] = Field(
        "0.0.0.0", description="address to listen on"
    )
    viewer_port: int = Field(
        7070, ge=1, le=65_535, description="port to listen on; a taken one is an error"
    )
    share_slot: bool = Field(
        True,
        description="run beside a training on the same device, in one of the mediator's "
        "--view-slots; false = take a whole slot, as a training does",
    )
    viewer_timeout: float = Field(
        900, gt=0, le=604_800, description="end after this many seconds without a visitor"
    )
    viewer_token: Token | None = Field(
        None,
        description="what a visitor must know, 8 to 256 printable characters without spaces; null "
        "= nothing; it stands in the job's job.json in plain text, and in no log or event",
    )
    follow: bool = Field(
        False,
        description="show every new checkpoint of the train job that checkpoint_path names, also "
        "while it runs; waits viewer_timeout for its first one",
    )
