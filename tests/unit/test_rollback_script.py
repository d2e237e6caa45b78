"""The command that makes an earlier version of an adapted model count again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from engine_scenes import tiny_scene

from nerfcore.checkpoint import CheckpointStore, resolve_checkpoint

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


def rollback(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the real command."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/rollback.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eval job's folder with an original and an adapted version."""
    folder = tmp_path_factory.mktemp("logs") / "site-1-eval"
    store = CheckpointStore(folder / "checkpoints")
    scene = tiny_scene()
    for step in (7, 23):
        store.save(scene, step)
    return folder


def test_it_lists_goes_back_and_forward_again(job: Path) -> None:
    """What jobs that name the folder take follows; nothing is deleted."""
    assert rollback(job, "--list") == (0, "  step7\n* step23\n", "")
    assert rollback(job) == (0, f"{job}: step7 counts now (was step23)\n", "")
    assert resolve_checkpoint(job).name == "step7"
    assert rollback(job, "--list")[1] == "* step7\n  step23\n"
    assert rollback(job, "--to", "step23")[0] == 0
    assert resolve_checkpoint(job).name == "step23"
    assert (job / "checkpoints/step7/manifest.json").is_file()


def test_what_is_not_there_is_refused_by_name(job: Path, tmp_path: Path) -> None:
    """In one line, with the index as it was."""
    index = json.loads((job / "checkpoints/index.json").read_text())
    code, out, err = rollback(job, "--to", "step9")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("rollback: ") and "no version step9; there are step7, step23" in err
    assert json.loads((job / "checkpoints/index.json").read_text()) == index
    for arguments in ((tmp_path,), (tmp_path, "--list")):
        code, out, err = rollback(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "holds no checkpoint; name a job that saved one" in err
    assert rollback()[0] == 2
