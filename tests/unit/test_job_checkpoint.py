"""Which checkpoint a job's folder and prefix mean, and what is said when it is not whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nerfcore.checkpoint import resolve_checkpoint
from nerfcore.errors import CheckpointError
from runner.inputs import find_checkpoint


@pytest.mark.parametrize("find", [find_checkpoint, resolve_checkpoint])
@pytest.mark.parametrize("prefix", ["last", "step5"])
def test_a_step_without_its_manifest_is_not_said_to_be_there(
    tmp_path: Path, find: Callable[[Path, str], Path], prefix: str
) -> None:
    """The missing file is named, not a list of steps that holds the very one asked for."""
    folder = tmp_path / "checkpoints"
    (folder / "step5").mkdir(parents=True)
    index = {"last": "step5", "best": "step5", "steps": ["step5"]}
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as refused:
        find(tmp_path, prefix)
    message = str(refused.value)
    assert f"{folder / 'step5/manifest.json'} is missing" in message
    assert "there are" not in message and "train again" in message
