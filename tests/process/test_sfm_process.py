"""The reconstruction's process: killed with its parent or alone, on a full disk, and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_flights import leftovers
from sfm_photographs import make_photographs

from configs.exit_codes import ExitCode
from nerfcore.data import sfm_process
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.errors import DataError

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"
SFM = PrepareSettings(sfm=True)
COUNT = 6
DEADLINE_S = 20.0
KILLED_WHILE_PLACING = """
import os, signal, sys
from pathlib import Path
from nerfcore.data.prepare import PrepareSettings, prepare_dataset

def on_progress(phase, done, total):
    if phase == "placing photographs":
        print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

prepare_dataset(Path(sys.argv[1]), Path(sys.argv[2]), PrepareSettings(sfm=True), on_progress)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town") / "photographs"
    make_photographs(folder, count=COUNT)
    return folder


def workers() -> list[int]:
    """Return the reconstructions this process runs; its other children are other tests' brokers."""
    found = []
    for thread in Path("/proc/self/task").iterdir():
        for number in (thread / "children").read_text().split():
            if sfm_process.WORKER_ARGV[-1].encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(int(number))
    return found


def has_ended(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_killed_and_resumed_is_the_same_model(photographs, tmp_path):
    """The process ends with its killed parent; what --resume makes of the rest, on another number
    of threads, is to the bit what an undisturbed run makes."""
    want, out = tmp_path / "want", tmp_path / "out"
    prepare_dataset(photographs, want, SFM)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_PLACING, photographs, out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    orphan = int(killed.stdout.split()[-1])
    deadline = time.monotonic() + DEADLINE_S
    while not has_ended(orphan):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not out.exists() and leftovers(tmp_path) == [".tmp-out-stage"]
    arguments = ("--data_path", photographs, "--output_path", out, "--sfm", "--resume")
    resumed = script(*arguments, OMP_NUM_THREADS="1")
    assert resumed.returncode == 0, resumed.stderr
    assert leftovers(tmp_path) == []
    for name in ("dataset.json", "points.npz", "train/cameras.npz"):
        assert (out / name).read_bytes() == (want / name).read_bytes()
    assert json.loads((out / "dataset.json").read_text())["settings"]["alignment"]["median_m"] < 0.2


def test_a_killed_process_is_an_error_of_ours(photographs, tmp_path):
    """A process that the system kills is named with its signal and the mend, and leaves nothing."""

    def kill_it(phase, done, total):
        if phase == "matching photographs":
            (number,) = workers()
            os.kill(number, signal.SIGKILL)

    with pytest.raises(DataError, match=r"photographs: the reconstruction's .*SIGKILL.*memory"):
        prepare_dataset(photographs, tmp_path / "out", SFM, kill_it)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "import os, sys\nprint('what(): on purpose\\n*** Aborted\\n  @ 0x1', file=sys.stderr,"
            " flush=True)\nos.abort()",
            r"ended by signal SIGABRT \(what\(\): on purpose\); run it again",
        ),
        ("raise RuntimeError('on purpose')", r"exit code 1 \(RuntimeError: on purpose\)"),
        ("print('{\"progress\": [')", r"ended with exit code 0"),
    ],
)
def test_deaths(photographs, tmp_path, monkeypatch, program, reason):
    """However the process ends without its last word, it is said in one line."""
    if "abort" in program:
        program = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + program
    if "progress" in program:
        program = program.replace("print(", "import sys\nsys.stdout.write(")
    monkeypatch.setattr(sfm_process, "WORKER_ARGV", (sys.executable, "-c", program))
    with pytest.raises(DataError, match=reason) as caught:
        prepare_dataset(photographs, tmp_path / "out", SFM)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(photographs, small_disk):
    """A disk that fills up under COLMAP ends in one line and the exit code of a full disk."""
    done = script("--data_path", photographs, "--output_path", small_disk / "out", "--sfm")
    assert done.returncode == ExitCode.DISK_FULL, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "the disk is full" in done.stderr and "free more" in done.stderr
    assert list(small_disk.iterdir()) == []
