"""Paths of jobs stay inside the roots, links followed."""

from pathlib import Path

import pytest

import configs
from configs.paths import Roots, resolve_checkpoint, resolve_data, resolve_partition


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("data/drz/out/prepared", "logs/example", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    return Roots.below(tmp_path)


def test_a_dataset_lies_below_out(roots: Roots) -> None:
    """`data_path` is relative to the project, the dataset below its `out`."""
    folder = resolve_data(roots, "data/drz/", "prepared")
    assert folder == (roots.project / "data/drz/out/prepared").resolve()
    assert resolve_partition(roots, folder, "g22") == folder / "masks/g22"


@pytest.mark.parametrize(
    "data_path", ["../elsewhere", "/etc", "data/../..", "elsewhere", "data/~x/../../.."]
)
def test_a_data_path_outside_is_refused_by_name(roots: Roots, data_path: str) -> None:
    """Leaving the data roots is refused with field, value and roots."""
    with pytest.raises(configs.JobRefused) as caught:
        resolve_data(roots, data_path, "prepared")
    assert caught.value.errors[0].field == "data_path"
    assert str((roots.project / "data").resolve()) in caught.value.reason


def test_a_link_out_of_the_roots_is_refused(roots: Roots) -> None:
    """A symbolic link counts as where it leads."""
    (roots.project / "data/link").symlink_to(roots.project / "elsewhere")
    with pytest.raises(configs.JobRefused, match="data_path"):
        resolve_data(roots, "data/link", "prepared")
    (roots.project / "data/drz/out/other").symlink_to(roots.project / "elsewhere")
    with pytest.raises(configs.JobRefused, match="data_dirname"):
        resolve_data(roots, "data/drz", "other")


def test_a_link_loop_is_refused(roots: Roots) -> None:
    """A link that leads to itself does not crash the check."""
    (roots.project / "data/loop").symlink_to(roots.project / "data/loop")
    try:
        folder = resolve_data(roots, "data/loop", "prepared")
    except configs.JobRefused as error:
        assert error.errors[0].field == "data_path"
    else:
        assert not folder.exists()


def test_further_data_roots_are_accepted(roots: Roots) -> None:
    """Each --data-root may hold datasets."""
    wide = Roots.below(roots.project, [roots.project / "data", roots.project / "elsewhere"])
    assert resolve_data(wide, "elsewhere", "x") == (roots.project / "elsewhere/out/x").resolve()


@pytest.mark.parametrize("value", ["example", "logs/example", "./example", "logs/../logs/example"])
def test_a_checkpoint_is_named_by_job_or_path(roots: Roots, value: str) -> None:
    """A job id and a path below the log root, with or without its name, mean the same."""
    assert resolve_checkpoint(roots, value) == (roots.logs / "example").resolve()


def test_an_absolute_checkpoint_inside_the_roots_is_accepted(roots: Roots) -> None:
    """Absolute paths may lead into the log and data roots."""
    inside = roots.logs / "example/checkpoints/step5"
    assert resolve_checkpoint(roots, str(inside)) == inside.resolve()


@pytest.mark.parametrize(
    "value", ["../elsewhere", "/etc/passwd", "logs/../../elsewhere", "x/../../y"]
)
def test_a_checkpoint_outside_is_refused(roots: Roots, value: str) -> None:
    """Leaving the roots is refused by name."""
    with pytest.raises(configs.JobRefused, match="checkpoint_path"):
        resolve_checkpoint(roots, value)


def test_a_job_called_logs_is_itself(roots: Roots) -> None:
    """The job id `logs` is a folder of that name below the log root."""
    assert resolve_checkpoint(roots, "logs") == (roots.logs / "logs").resolve()
