"""The bench: rows, arithmetic, inputs, and that its baseline computes the same scene."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import bench  # noqa: E402
import bench_experts  # noqa: E402
import bench_measure  # noqa: E402
import bench_memory  # noqa: E402
import bench_reference  # noqa: E402
import bench_reference_worker  # noqa: E402
import bench_scene  # noqa: E402
import bench_speed  # noqa: E402

from nerfcore.data.dataset import load_dataset  # noqa: E402
from nerfcore.data.images import ImageStore  # noqa: E402
from nerfcore.encoding.layout import grid_layout  # noqa: E402
from nerfcore.geometry.camera import Camera  # noqa: E402
from nerfcore.settings import HashGridSettings, SamplingSettings  # noqa: E402
from nerfcore.training.learner import Rates  # noqa: E402

ROW = {
    "type": "object",
    "required": ["name", "value", "unit", "ratio", "against", "target", "met", "detail",
                 "device", "threads"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "value": {"type": "number"},
        "unit": {"type": "string"},
        "ratio": {"type": ["number", "null"]},
        "against": {"type": ["string", "null"]},
        "target": {"type": ["string", "null"]},
        "met": {"type": ["boolean", "null"]},
        "detail": {"type": "object"},
        "device": {"type": "string"},
        "threads": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}  # fmt: skip
FACTS = {"model": "shipped", "trained_s": 60.0, "validation_psnr_db": 21.5}


def fine_scene(rows, columns, **model):
    """A tiny scene of soft matter, sampled so finely that steps no longer matter."""
    scene = tiny_scene(rows, columns, table_scale=2e3, **model)
    return scene.with_sampling(
        SamplingSettings(step_m=0.02, max_samples=4000, min_transmittance=0.0)
    )


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
@pytest.mark.parametrize("model", [{}, {"colour_space": "srgb", "use_background": False}])
def test_the_recipe_renders_what_the_engine_renders(grid, model):
    """With many samples both, reference recipe and engine show the same picture."""
    scene = fine_scene(*grid, **model)
    origins, directions = rays_into(40, seed=5)
    origins[:5, 1:] += 50.0  # beside the scene: background alone
    recipe = bench_reference.ReferenceRecipe(scene, samples=1500)
    with torch.no_grad():
        rgb = recipe.render(torch.from_numpy(origins), torch.from_numpy(directions)).numpy()
    want, opacity, _ = scene.render_rays(origins, directions)
    assert 0.05 < opacity[5:].mean() < 0.99 and opacity[:5].max() == 0
    assert np.abs(np.clip(rgb, 0, 1) - want).max() < 4e-3
    assert np.isfinite(rgb).all()


def test_the_recipe_learns():
    """Its steps lower the error on the rays it trains on, in all its parameters."""
    scene = tiny_scene(2, 2)
    recipe = bench_reference.ReferenceRecipe(scene, samples=16)
    origins, directions = (torch.from_numpy(a) for a in rays_into(64))
    truth = torch.full((64, 3), 0.8)
    before = [p["table"].detach().clone() for p in recipe.experts]
    errors = [recipe.step(origins, directions, truth) for _ in range(30)]
    assert errors[-1] < 0.5 * errors[0]
    assert all(not torch.equal(p["table"], b) for p, b in zip(recipe.experts, before, strict=True))


def test_the_recipe_copies_the_scene():
    """Training the recipe leaves the scene as it was; a scene without tables is refused."""
    scene = tiny_scene()
    kept = scene.experts[0]["table"].clone()
    recipe = bench_reference.ReferenceRecipe(scene, samples=4)
    origins, directions = (torch.from_numpy(a) for a in rays_into(8))
    recipe.step(origins, directions, torch.zeros(8, 3))
    assert torch.equal(scene.experts[0]["table"], kept)
    with pytest.raises(ValueError, match="hash grids"):
        bench_reference.ReferenceRecipe(tiny_scene(variant="vanilla"))


def test_the_headline_baseline_has_the_sizes_of_the_reference_jobs():
    """It keeps the place, and its model and pieces are those of the reference's own jobs."""
    small = tiny_scene(2, 2)
    scene = bench_reference_worker.with_jobs_model(small)
    grid = scene.settings.grid
    assert (grid.log2_size, grid.max_resolution, grid.base_resolution) == (20, 4096, 16)
    model = scene.settings
    assert (model.sigma_depth, model.color_depth) == (2, 2)
    assert (model.dim_hidden, model.color_hidden) == (64, 64)
    assert scene.partition is small.partition
    assert (bench_reference.SAMPLES, bench_reference_worker.STEP_RAYS) == (96, 4000)
    assert bench_speed.JOBS_CHUNK_RAYS == 41_666


def test_contestants_take_turns():
    """Each warms up once, then they alternate; the warm-up does not count."""
    calls = []

    def contestant(name):
        def measure():
            calls.append(name)
            return float(len(calls))

        return measure

    rounds = []
    found = bench_measure.in_turn({"a": contestant("a"), "b": contestant("b")}, 3, rounds.append)
    assert calls == ["a", "b"] * 4
    assert found == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}
    assert rounds == [0, 1, 2, 3]


def test_a_ratio_is_the_median_of_the_rounds():
    """A load that slows both contestants of one round does not change it."""
    quiet = bench_measure.paired_ratio([80.0, 82.0, 84.0], [1.0, 1.0, 1.0])
    loaded = bench_measure.paired_ratio([80.0, 8.2, 84.0], [1.0, 0.1, 1.0])
    assert quiet == pytest.approx(82.0) and loaded == pytest.approx(82.0)


def test_ratios_of_training():
    """More rays a second than the reference is a ratio above 1."""
    found = {
        "ours": [90.0, 100.0, 3000.0],
        "train_rays": [1.0, 1.25, 9.0],
        "train_rays_same_model": [2.0, 2.5, 18.0],
    }
    row = bench_speed._train_row("train_rays", bench_speed.JOBS, found, dict(FACTS))
    assert (row.value, row.ratio, row.met, row.unit) == (100.0, 90.0, True, "rays/s")
    assert row.detail["ours_min_max"] == [90.0, 3000.0]
    same = bench_speed._train_row("train_rays_same_model", bench_speed.SAME, found, dict(FACTS))
    assert (same.value, same.ratio, same.target, same.met) == (100.0, 45.0, None, None)
    assert "T = 2^20" in str(row.against) and "our shipped model" in str(same.against)


def test_ratios_of_pictures():
    """Fewer seconds than the reference is a ratio above 1; previews are told a second."""
    found = {
        "frame": [2.0, 2.5, 3.0],
        "preview": [2.0, 2.5, 3.0],
        "reference": [512 * 384 / s for s in (198.0, 199.0, 300.0)],
        "reference_same_model": [512 * 384 / s for s in (100.0, 100.0, 150.0)],
    }
    frame = bench_speed._picture_row("frame", "", found, FACTS)
    assert (frame.name, frame.value, frame.unit) == ("frame_512x384", 2.5, "s")
    assert (frame.ratio, frame.met) == (99.0, True)
    assert f"{bench_speed.PIECE_RAYS:,} rays" in frame.detail["reference_timed"]
    same = bench_speed._picture_row("frame", "_same_model", found, FACTS)
    assert (same.name, same.ratio, same.met) == ("frame_512x384_same_model", 50.0, None)
    preview = bench_speed._picture_row("preview", "", found, FACTS)
    assert (preview.value, preview.unit, preview.met) == (0.4, "1/s", False)
    assert preview.detail["reference_seconds"] == pytest.approx(199.0 / 16, rel=1e-3)


def test_rows_are_written_whole(tmp_path):
    """The file is a JSON list of rows of one shape; a figure that is not finite is refused."""
    row = bench_measure.Row("a", 1.5, "s", 2.0, "b", detail={"x": [1, 2]}, device="c", threads=2)
    path = tmp_path / "bench.json"
    bench_measure.write_rows(path, [row, row])
    content = json.loads(path.read_text())
    assert len(content) == 2
    for entry in content:
        Draft202012Validator(ROW).validate(entry)
    bad = bench_measure.Row("a", float("nan"), "s", None, None)
    with pytest.raises(bench_measure.BenchError, match="not finite"):
        bench_measure.write_rows(path, [bad])
    assert json.loads(path.read_text()) == content and len(list(tmp_path.iterdir())) == 1


def test_figures_are_rounded():
    """Four significant digits, whatever the size."""
    assert bench_measure.rounded(123456.0) == 123500.0
    assert bench_measure.rounded(0.00123456) == 0.001235
    assert bench_measure.rounded(0.0) == 0.0
    assert bench_measure.spread([3.0, 1.0, 2.0]) == [1.0, 3.0]


def test_points_of_the_hash_grid_lie_on_rays():
    """262,144 points inside the unit cube; neighbours are close, as samples of a ray are."""
    points = bench_measure.coherent_points()
    assert points.shape == (262_144, 3) and points.dtype == np.float32
    assert points.min() >= 0.0 and points.max() <= 1.0
    along = points.reshape(-1, bench_measure.GRID_POINTS_A_RAY, 3)
    assert (np.diff(along[..., 0], axis=1) > 0).all()
    assert np.median(np.linalg.norm(np.diff(along, axis=1), axis=2)) < 0.03
    assert bench_measure.grid_settings().log2_size == 19


@pytest.mark.parametrize(
    ("edge", "base", "finest"), [(1.0, 16, 2048), (0.25, 4, 512), (2.0, 32, 4096)]
)
def test_cells_keep_their_size_in_metres(edge, base, finest):
    """A smaller box gets a coarser grid: every level's cell stays as long as it was."""
    shipped = HashGridSettings(log2_size=18, max_resolution=2048)
    grid = bench_experts.grid_of(shipped, 1.0, edge, 14)
    assert (grid.base_resolution, grid.max_resolution, grid.log2_size) == (base, finest, 14)
    assert grid.growth == pytest.approx(shipped.growth)


def test_capacity_is_shared_out():
    """All tables together hold about as many rows with 64 experts as with 1."""
    shipped = HashGridSettings(log2_size=18, max_resolution=2048)
    rows = {}
    for across, edge in ((1, 2.0), (2, 1.0), (8, 0.25)):
        size = 18 + 2 - 2 * (across.bit_length() - 1)
        grid = bench_experts.grid_of(shipped, 1.0, edge, size)
        rows[across] = across**2 * grid_layout(grid).rows
    assert max(rows.values()) < 1.25 * min(rows.values())


def test_shipped_settings_are_the_shipped_job():
    """Changes aside, the bench trains as configs/train.json says."""
    job = json.loads((ROOT / "configs" / "train.json").read_text())
    settings = bench_scene.shipped_settings("cpu", time_limit_s=7.0)
    assert settings.batch_rays == job["batch_rays"] and settings.algo == "joint"
    assert settings.model.grid.log2_size == job["log2_hashmap_size"]
    assert settings.rates == Rates(
        job["encoding_lr"], job["sigma_lr"], job["color_lr"], job["bg_lr"]
    )
    assert (settings.time_limit_s, settings.device) == (7.0, "cpu")


def test_rays_are_spread_over_the_picture():
    """A part of a picture's rays covers all its quarters alike."""
    camera = Camera(np.eye(3, 4, dtype=np.float32), 60.0, 60.0, 64.0, 48.0, 128, 96)
    origins, directions = bench_scene.even_rays(camera, 400)
    assert origins.shape == directions.shape == (400, 3)
    right, up = directions[:, 0] > 0, directions[:, 1] > 0
    shares = [(right == a)[up == b].sum() / 400 for a in (True, False) for b in (True, False)]
    assert min(shares) > 0.2
    assert len(np.unique(directions, axis=0)) == 400


def test_the_large_dataset_is_a_prepared_one(tmp_path):
    """It loads with every checksum, its cameras look down at its points, and masks are kept."""
    bench_memory.make_dataset(tmp_path / "d", images=100, textures=3)
    dataset = load_dataset(tmp_path / "d", checksum=True)
    assert (len(dataset.train), len(dataset.val)) == (100, bench_memory.HELD_OUT)
    assert dataset.points is not None
    rotations = dataset.train.c2w[:, :, :3]
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(np.linalg.det(rotations), 1.0)
    assert (-rotations[:, 0, 2] == 1.0).all()  # they look along +axis 0, which points down
    assert (dataset.points.xyz[:, 0] > dataset.train.c2w[:, 0, 3].max()).all()
    bench_scene.grid_experts(dataset, 2)
    with ImageStore(dataset.train.subset([0, 4])) as store:
        assert store.heights.tolist() == [768, 768] and store.widths.tolist() == [1024, 1024]
        assert not store.valid_mask(1)[: bench_memory.BORDER_PX].any()


def test_memory_is_watched_from_outside():
    """The peak includes memory that the process has given back; a failure is an error."""
    program = (
        "import time, json; block = bytearray(b'x') * 200_000_000"
        "; time.sleep(0.3); del block; time.sleep(0.2); print(json.dumps({'steps': 3}))"
    )
    peaks, said = bench_memory.watch([sys.executable, "-c", program], 60.0)
    assert said == {"steps": 3}
    assert 200e6 < peaks["VmHWM"] < 400e6 and peaks["RssAnon"] > 200e6
    with pytest.raises(bench_measure.BenchError, match="exit code 3"):
        bench_memory.watch([sys.executable, "-c", "raise SystemExit(3)"], 60.0)
    with pytest.raises(bench_measure.BenchError, match="did not end"):
        bench_memory.watch([sys.executable, "-c", "import time; time.sleep(60)"], 0.3)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--dataset", "/nowhere"], 11, "dataset: /nowhere"),
        (["--only", "speed"], 2, "--only"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--train-seconds", "0"], 2, "--train-seconds"),
        (["--device", "tpu"], 2, "--device"),
        (["--out", "/nowhere/bench.json"], 2, "--out"),
    ],
)
def test_wrong_options_are_named(arguments, code, named):
    """A refusal names the option and comes before anything is measured."""
    done = CliRunner().invoke(bench.app, arguments)
    assert done.exit_code == code
    assert named in done.output


def test_a_folder_that_is_no_dataset(tmp_path):
    """A folder without dataset.json is refused as bad data."""
    done = CliRunner().invoke(bench.app, ["--only", "experts", "--dataset", str(tmp_path)])
    assert done.exit_code == 11 and "not a prepared dataset" in done.output


def test_chosen_parts_are_measured_and_shown(tmp_path, monkeypatch):
    """Rows get device, threads and the machine's load; the table and the file hold them."""
    row = bench_measure.Row("hashgrid_fwd_bwd", 3e6, "points/s", 90.0, "PyTorch", ">= 30x", True)
    monkeypatch.setattr(bench, "hash_grid_row", lambda rounds, say: row)
    out = tmp_path / "bench.json"
    done = CliRunner().invoke(bench.app, ["--only", "hashgrid", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "hashgrid_fwd_bwd" in done.output and "yes" in done.output
    (entry,) = json.loads(out.read_text())
    Draft202012Validator(ROW).validate(entry)
    assert entry["device"] and {"load_before", "part_s"} <= set(entry["detail"])


def test_a_failed_measurement_says_why(monkeypatch):
    """What cannot be measured ends with one line and exit code 1."""

    def fail(*_):
        raise bench_measure.BenchError("the reference's process ended with exit code 9")

    monkeypatch.setattr(bench, "hash_grid_row", fail)
    done = CliRunner().invoke(bench.app, ["--only", "hashgrid"])
    assert done.exit_code == 1 and "exit code 9" in done.output


def test_the_reference_process_answers_and_ends():
    """It tells its threads, times what it is asked, and a wrong start is an error."""
    with bench_reference_worker.ReferenceProcess("hashgrid") as reference:
        assert reference.about["threads"] == bench_measure.worker_threads()
    with pytest.raises(bench_measure.BenchError, match="exit code 1"):
        bench_reference_worker.ReferenceProcess("recipe", "/nowhere", "/nowhere", "same", "cpu")
