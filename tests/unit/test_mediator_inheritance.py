"""Checkpoints of other mediators: linked where storage is shared, nothing else is read."""

from pathlib import Path

import pytest

from configs import Roots
from mediator.inheritance import bring_checkpoints, inherit_checkpoints

INDEX = '{"last": "step7"}'


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Give the roots of a mediator in a folder with others."""
    roots = Roots.below(tmp_path / "project", [tmp_path / "data"], tmp_path / "fleet/mine")
    for folder in (roots.project, roots.data, roots.logs):
        folder.mkdir(parents=True)
    return roots


def left_by(logs: Path) -> Path:
    """Make what another mediator's run of job j left, in its log root."""
    step = logs / "j/checkpoints/step7"
    step.mkdir(parents=True)
    (step / "weights").write_text("7")
    (step / ".tmp-half").write_text("half")
    (logs / "j/checkpoints/index.json").write_text(INDEX)
    return logs


@pytest.mark.parametrize("where", ["fleet/theirs", "data/theirs"])
def test_they_are_linked_from_shared_storage(tmp_path: Path, roots: Roots, where: str) -> None:
    """The weights are the same file; the index, which the other may write again, is a copy."""
    theirs = left_by(tmp_path / where)
    assert inherit_checkpoints("j", theirs, roots)
    mine = roots.logs / "j/checkpoints"
    assert (mine / "step7/weights").samefile(theirs / "j/checkpoints/step7/weights")
    assert (mine / "index.json").read_text() == INDEX
    assert not (mine / "index.json").samefile(theirs / "j/checkpoints/index.json")
    assert [p.name for p in (mine / "step7").iterdir()] == ["weights"]
    (theirs / "j/checkpoints/index.json").write_text("later")
    assert inherit_checkpoints("j", theirs, roots)
    assert (mine / "index.json").read_text() == INDEX


def test_nothing_is_read_anywhere_else(tmp_path: Path, roots: Roots) -> None:
    """Neither elsewhere on the disk, nor through links that lead out of a log root."""
    outside = left_by(tmp_path / "elsewhere/theirs")
    beside = tmp_path / "fleet/theirs"
    beside.mkdir()
    (beside / "j").symlink_to(outside / "j")
    (tmp_path / "fleet/link").symlink_to(outside)
    for logs in (outside, beside, tmp_path / "fleet/link", roots.logs, Path("/"), Path("no\0t")):
        assert not inherit_checkpoints("j", logs, roots)
    assert list(roots.logs.iterdir()) == []


def test_a_link_inside_is_not_followed(tmp_path: Path, roots: Roots) -> None:
    """The job begins anew, and nothing half is left."""
    theirs = left_by(tmp_path / "fleet/theirs")
    (theirs / "j/checkpoints/step7/secret").symlink_to("/etc/passwd")
    assert not inherit_checkpoints("j", theirs, roots)
    assert list((roots.logs / "j").iterdir()) == []


def test_those_of_a_job_that_ended_elsewhere_replace_what_an_older_run_left_here(
    tmp_path: Path, roots: Roots
) -> None:
    """As they are there now; what is the same already stays, and the original is not touched."""
    theirs = left_by(tmp_path / "fleet/theirs")
    mine = roots.logs / "j/checkpoints"
    (mine / "step3").mkdir(parents=True)
    (mine / "index.json").write_text('{"last": "step3"}')
    assert bring_checkpoints("j", theirs, roots)
    assert sorted(p.name for p in mine.iterdir()) == ["index.json", "step7"]
    assert (mine / "step7/weights").samefile(theirs / "j/checkpoints/step7/weights")
    there_already = mine.stat().st_ino
    assert bring_checkpoints("j", theirs, roots)
    assert mine.stat().st_ino == there_already
    (mine / "step7/weights").unlink()
    (mine / "step7/weights").write_text("of another run")
    assert bring_checkpoints("j", theirs, roots)
    assert (mine / "step7/weights").read_text() == "7"
    assert [p.name for p in (roots.logs / "j").iterdir()] == ["checkpoints"]
    assert (theirs / "j/checkpoints/step7/weights").read_text() == "7"


def test_what_holds_no_checkpoint_is_not_brought(tmp_path: Path, roots: Roots) -> None:
    """Nor what cannot be read, nor into a link that leads elsewhere."""
    (tmp_path / "fleet/theirs/j/checkpoints").mkdir(parents=True)
    assert not bring_checkpoints("j", tmp_path / "fleet/theirs", roots)
    assert not bring_checkpoints("j", left_by(tmp_path / "elsewhere/theirs"), roots)
    assert list(roots.logs.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (roots.logs / "j").symlink_to(tmp_path / "mine")
    assert not bring_checkpoints("j", left_by(tmp_path / "fleet/others"), roots)
    assert list((tmp_path / "mine").iterdir()) == []
