"""A view job that follows a training which removes checkpoints while they are read."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from configs import ViewJob
from nerfcore.errors import CheckpointError
from runner.inputs import Inputs
from runner.ops import view


@dataclass(frozen=True)
class Context:
    """As much of a job's context as loading needs."""

    job: ViewJob
    inputs: Inputs


def job(*, follow: bool) -> ViewJob:
    """Give a view job."""
    named = {"data_dirname": "city", "mask_dirname": "g22", "checkpoint_path": "t"}
    return ViewJob.model_validate({"op": "view", **named, "follow": follow})


@pytest.mark.parametrize(("follow", "removed", "loaded"), [(True, 2, 3), (True, 0, 1)])
def test_a_checkpoint_removed_while_it_is_read_gives_way_to_the_next(
    monkeypatch: pytest.MonkeyPatch, follow: bool, removed: int, loaded: int
) -> None:
    """As often as it takes."""
    assert load(monkeypatch, job(follow=follow), removed, newest=10) == f"step{loaded}"


@pytest.mark.parametrize(("follow", "newest"), [(False, 10), (True, 1)])
def test_a_damaged_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, follow: bool, newest: int
) -> None:
    """Where nothing is followed, or nothing newer has come."""
    with pytest.raises(CheckpointError, match="step1 is gone"):
        load(monkeypatch, job(follow=follow), 1, newest=newest)


def load(monkeypatch: pytest.MonkeyPatch, view_job: ViewJob, removed: int, newest: int) -> str:
    """Load from a training whose first steps are removed; give the name of the one loaded."""
    looks = [1]

    def read(_: Any, inputs: Inputs) -> str:
        assert inputs.checkpoint is not None
        number = int(inputs.checkpoint.name[4:])
        if number <= removed:
            raise CheckpointError(f"{inputs.checkpoint.name} is gone")
        return inputs.checkpoint.name

    def wait(context: Context) -> Context:
        looks[0] = min(looks[0] + 1, newest)
        return replace(context, inputs=replace(context.inputs, checkpoint=Path(f"step{looks[0]}")))

    monkeypatch.setattr(view, "load_model", read)
    monkeypatch.setattr(view, "_with_first_checkpoint", wait)
    inputs = Inputs(Path(), Path(), Path("step1"), Path())
    return view._load(Context(view_job, inputs))[1]  # type: ignore[arg-type,return-value]
