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


def test_the_bench_of_the_commands(tmp_path, monkeypatch):
    """It prepares and divides a flight for real, in rows like all others; a failure is told."""
    sys.path.append(str(ROOT / "scripts"))
    import bench_data
    from bench_measure import BenchError

    monkeypatch.setattr(bench_data, "POINTS", 2000)
    rows = bench_data.data_rows(tmp_path, images=8)
    assert [(row.name, row.unit) for row in rows] == [
        ("prepare_cluster_8_images", "s"),
        ("prepare_cluster_8_memory", "GB"),
    ]
    seconds, memory = rows
    assert seconds.value > 0 and seconds.ratio == pytest.approx(300 / seconds.value, rel=1e-2)
    assert 0.05 < memory.value < 2 and memory.ratio == pytest.approx(memory.value / 2, rel=1e-2)
    assert seconds.met and memory.met and list(tmp_path.iterdir()) == []
    with pytest.raises(BenchError, match=r"prepare_dataset\.py failed: error: .*nowhere"):
        bench_data._measured(
            bench_data.SCRIPTS / "prepare_dataset.py", "--data_path", tmp_path / "nowhere",
            "--output_path", tmp_path / "out",
        )  # fmt: skip
