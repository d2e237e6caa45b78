"""create_clusters.py as a command: its ways to choose the experts, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "unit"))

from data_flights import make_flight  # noqa: E402

from nerfcore.data.partition import list_partitions  # noqa: E402
from nerfcore.data.prepare import PrepareSettings, prepare_dataset  # noqa: E402

SCRIPT = ROOT / "scripts" / "create_clusters.py"


@pytest.fixture
def dataset(tmp_path):
    make_flight(tmp_path / "flight", count=16)
    return prepare_dataset(tmp_path / "flight", tmp_path / "data", PrepareSettings(val_split=0.2))


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_command_line(dataset):
    """--auto says why; --kmeans, --masks and --resume work; contradictions are refused."""
    root = dataset.root
    done = run_script("--data_path", root, "--auto", "--images-per-expert", 3, "--cluster_2d")
    assert done.returncode == 0, done.stderr
    assert "13 training images at 3 an expert" in done.stdout
    again = run_script(
        "--data_path", root, "--auto", "--images_per_expert", 3, "--cluster_2d", "--resume",
        "--masks", "compact",
    )  # fmt: skip
    assert again.returncode == 0 and "(kept)" in again.stdout
    (folder,) = list_partitions(root)
    assert json.loads((folder / "balance.json").read_text())["partition"] == folder.name
    assert len(list((folder / "pixels").rglob("*.npz"))) == 16
    wrong = run_script("--data_path", root, "--kmeans", 2, "--grid_dim", 2, 2)
    assert wrong.returncode == 11 and "give only one of them" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    done = run_script("--data_path", root, "--kmeans", 2)
    assert done.returncode == 0 and "k2_kmeans" in done.stdout
