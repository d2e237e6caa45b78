"""create_clusters.py as a command: its ways to choose the experts, and what it refuses."""

import json
import re
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


@pytest.mark.parametrize(
    ("grid", "found"),
    [
        (("--grid_dim", "1", "2"), "g12"),
        (("--grid_dim", "1 2"), "g12"),
        (("--grid-dim", "1x2"), "g12"),
        (("--grid_dim=1,2",), "g12"),
        (("--grid_dim", "1 1 2"), "g112"),
        (("--grid_dim", "1", "two"), "grid_dim: '1 two' is not 2 or 3 whole numbers"),
        (("--grid_dim", "-1", "2"), "grid_dim: '-1 2' is not 2 or 3 whole numbers"),
        (("--grid_dim",), "grid_dim: '' is not 2 or 3 whole numbers"),
    ],
)
def test_every_spelling_of_the_grid(dataset, grid, found):
    """The grid may come as several arguments or as one; what is none is named."""
    done = run_script("--data_path", dataset.root, "--output", "x", *grid, "--cluster_2d")
    if "grid_dim" in found:
        assert done.returncode == 11 and found in done.stderr and done.stderr.count("\n") == 1
        return
    assert done.returncode == 0, done.stderr
    written = json.loads((dataset.root / "masks" / "x" / "partition.json").read_text())
    assert "g" + "".join(map(str, written["grid_dim"])) == found


def test_inspection_checks_every_file(dataset):
    """A photograph changed at the same size is told by name, and is fatal with --strict."""
    command = [sys.executable, str(SCRIPT.with_name("inspect_dataset.py")), str(dataset.root)]
    path = dataset.train.paths[3]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    done = subprocess.run(
        [*command, "--strict"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "file changed since it was prepared" in done.stdout
    survey = json.loads((dataset.root / "report" / "survey.json").read_text())
    (row,) = [one for one in survey["problems"] if one["kind"] == "changed"]
    assert row["subject"] == dataset.train.names[3] and row["severity"] == "serious"


@pytest.mark.parametrize(
    ("limit_kb", "points", "named"),
    [(4, 2000, r"before/images/000\d\.jpg: File too large"), (8, 20000, "before/model: No space")],
)
def test_a_city_that_finds_no_room_names_the_file(tmp_path, limit_kb, points, named):
    """A limit on file sizes stops it at a photograph or a model; nothing is left."""
    script = SCRIPT.with_name("make_city.py")
    size = f"--images 8 --update-images 4 --size 96x72 --points {points} --quiet"
    shell = f"ulimit -f {limit_kb}; exec '{sys.executable}' '{script}' '{tmp_path}/city' {size}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr
    assert re.search(named, done.stderr) and "make room" in done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


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
