"""The runner's small parts: progress lines, the mapping of errors, the git commit."""

import errno
import json
from pathlib import Path

import pytest

from configs import ExitCode, JobRefused
from nerfcore.errors import DataError, SettingsError
from runner.environment import git_commit
from runner.failures import exit_code_of, message_of
from runner.progress import ProgressWriter


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_progress_is_thinned_but_never_its_end(tmp_path: Path) -> None:
    """Of many quick steps the first and the last are written, and a new phase begins at once."""
    path = tmp_path / "progress.jsonl"
    with ProgressWriter(path, interval_s=60.0) as progress:
        for step in range(1, 101):
            progress.progress("train", step, 100)
        progress.progress("render", 1, 2)
    found = [(line["phase"], line["step"]) for line in lines_of(path)]
    assert found == [("train", 1), ("train", 100), ("render", 1)]


def test_every_line_is_json_with_a_time(tmp_path: Path) -> None:
    """NaN becomes null, paths inside the folder relative, and nested rows stay rows."""
    path = tmp_path / "progress.jsonl"
    with ProgressWriter(path) as progress:
        progress.event("metrics", rows=[{"psnr": float("inf"), "tto": 16}])
        progress.artifact(tmp_path / "pred/16")
        progress.artifact(Path("/elsewhere"))
    rows, inside, outside = lines_of(path)
    assert rows["rows"] == [{"psnr": None, "tto": 16}]
    assert (inside["path"], outside["path"]) == ("pred/16", "/elsewhere")
    assert str(rows["time"]).endswith("+00:00")


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("x"), ExitCode.BAD_DATA),
        (SettingsError("x"), ExitCode.BAD_SPEC),
        (JobRefused.because("x"), ExitCode.BAD_SPEC),
        (chained(DataError("x"), OSError(errno.ENOSPC, "full")), ExitCode.DISK_FULL),
        (OSError(errno.EDQUOT, "quota"), ExitCode.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), ExitCode.DISK_FULL),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ExitCode.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "memory"), ExitCode.OUT_OF_MEMORY),
        (OSError(errno.EACCES, "denied"), ExitCode.INTERNAL),
        (ValueError("x"), ExitCode.INTERNAL),
        (KeyboardInterrupt(), ExitCode.INTERNAL),
    ],
)
def test_each_error_has_its_code(error: BaseException, code: ExitCode) -> None:
    """A full disk or memory counts wherever it stands in the chain of causes."""
    assert exit_code_of(error) == code
    assert "\n" not in message_of(error, code)


def test_torch_out_of_memory_is_out_of_memory() -> None:
    """The GPU's error counts when torch is there."""
    torch = pytest.importorskip("torch")
    assert exit_code_of(torch.OutOfMemoryError("CUDA")) == ExitCode.OUT_OF_MEMORY


def test_the_commit_is_read_from_git(tmp_path: Path) -> None:
    """Loose, packed and detached heads; None without a repository or with nonsense in it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    git = tmp_path / ".git"
    assert git_commit(tmp_path) is None
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(tmp_path) is None
    (git / "packed-refs").write_text(f"# pack-refs\n{commit} refs/heads/main\n")
    assert git_commit(tmp_path) == commit
    (git / "refs/heads/main").write_text("not a commit\n")
    assert git_commit(tmp_path) is None
    (git / "HEAD").write_text(commit + "\n")
    assert git_commit(tmp_path) == commit
