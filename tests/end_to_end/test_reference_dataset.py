"""A dataset prepared for the reference system, as it is, through the real mediator: train, eval.

The dataset lies outside the project folder and is only read; the mediator is told of it with
`--data-root`. Trained small and for seconds: what counts is that it is the right scene.

Such a dataset has no sparse points, and its boxes reach up to the cameras. With so few images a
model then explains each one by fog right before its camera: rays start at NEAR_M here, above the
highest roof.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from mediator_bench import wait_for
from running_system import SMALL_MODEL, System, demo_spec
from safetensors import safe_open

from configs.artifacts import JobFolder
from nerfcore.data.dataset import load_dataset

DATA = Path(__file__).parents[3] / "shared/data/drz_reference_format"
DATASET = DATA / "out/example"
BATCH = "batch_0001"
MASKS = "g22_grid_bm110_ss11"
GREY_DB = 1.5  # renders must beat the best uniform pictures by at least this
NEAR_M = 60.0  # the cameras fly about 100 m above the ground
LIMITS = {"outer_steps": 200, "time_limit_s": 80.0}  # some seconds when the machine is idle
FIELDS = {
    "data_path": str(DATA),
    "data_dirname": DATASET.name,
    "mask_dirname": MASKS,
    "boundary_margin": 1.1,
    "downscale": 0.25,
    "near": NEAR_M,
}
pytestmark = pytest.mark.skipif(
    not (DATASET / "coordinates.pt").is_file(),
    reason=f"{DATA} is not here: a real dataset in the reference system's format",
)


@pytest.fixture(scope="module")
def reference_system(
    tmp_path_factory: pytest.TempPathFactory, broker_address: str
) -> Iterator[System]:
    """Give a system that may read the dataset, which is unchanged at the end."""
    before = listing(DATA)
    system = System(tmp_path_factory.mktemp("reference"), broker_address)
    try:
        system.start_and_listen(data_root=DATA)
        yield system
        system.stop()
    finally:
        system.close()
    assert listing(DATA) == before


@pytest.fixture(scope="module")
def trained(reference_system: System) -> JobFolder:
    """Give the folder of a train job on the dataset."""
    spec = demo_spec("train", job_id="reference-train", **FIELDS, **SMALL_MODEL, **LIMITS)
    reference_system.send_config(spec)
    return reference_system.folder("reference-train")


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Give name, size and time of everything below a folder."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def evaluated(system: System, job_id: str, checkpoint: JobFolder, **changes: object) -> JobFolder:
    """Run an eval job of a checkpoint to its end and give its folder."""
    fields = {"checkpoint_path": checkpoint.root.name, "save_adapted": False, "max_images": None}
    system.send_config(demo_spec("eval", job_id=job_id, **{**FIELDS, **fields, **changes}))
    return system.folder(job_id)


def uniform_db(truth: Path) -> float:
    """Give the PSNR of the uniform picture nearest to a photograph, dB."""
    photograph = cv2.imread(str(truth))
    assert photograph is not None
    return float(-10.0 * np.log10((photograph / 255.0).var(axis=(0, 1)).mean()))


def check_pictures(folder: JobFolder, steps: int, images: int) -> None:
    """Each scored image has its photograph and a render of the same size that is no uniform one."""
    renders = sorted((folder.pred / str(steps)).glob("*.png"))
    assert len(renders) == images
    for path in renders:
        truth, render = cv2.imread(str(folder.gt / path.name)), cv2.imread(str(path))
        assert truth is not None and render is not None and truth.shape == render.shape
        assert truth.std() > 10.0 and render.std() > 10.0


def test_training_keeps_the_reference_partition(trained: JobFolder) -> None:
    """Four experts with the reference's centroids, all finite, and a validation score."""
    result = json.loads(trained.result_json.read_text())
    checkpoint = trained.root / result["checkpoint"]
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    experts = [name for name in files if name.startswith("expert_")]
    assert len(experts) == 4 and result["step"] > 20
    for name in experts:
        with safe_open(checkpoint / name, framework="numpy") as tensors:
            keys = tensors.keys()
            assert keys and all(np.isfinite(tensors.get_tensor(key)).all() for key in keys)


def test_validation_images_are_rendered(reference_system: System, trained: JobFolder) -> None:
    """Every validation image, better than any uniform picture of it."""
    folder = evaluated(reference_system, "reference-val", trained, tto=0, batch=None)
    frame = pd.read_csv(folder.metrics_csv)
    val = load_dataset(DATASET).val
    assert set(frame["split"]) == {"old_val"} and sorted(frame["image"]) == sorted(val.names)
    uniform = np.mean([uniform_db(path) for path in sorted(folder.gt.glob("*.png"))])
    assert uniform + GREY_DB < frame["psnr"].mean() < 40.0
    check_pictures(folder, 0, len(val))


def test_a_batch_is_adapted_to(reference_system: System, trained: JobFolder) -> None:
    """Its held-out quarter, its other images and the old ones are scored; adapting helps."""
    folder = evaluated(reference_system, "reference-batch", trained, tto="0,32", batch=BATCH)
    frame = pd.read_csv(folder.metrics_csv)
    dataset = load_dataset(DATASET)
    batch = dataset.batch(BATCH)
    counts = {
        "new_heldout": len(batch.heldout),
        "adapted": len(batch.adapt),
        "old_val": len(dataset.val),
    }
    sizes = frame.groupby(["tto", "split"]).size().to_dict()
    assert sizes == {(steps, split): n for steps in (0, 32) for split, n in counts.items()}
    mean = frame.groupby(["tto", "split"])["psnr"].mean()
    assert mean[32, "adapted"] > mean[0, "adapted"] + 0.5
    assert 10.0 < mean[32, "new_heldout"] < 40.0
    check_pictures(folder, 32, sum(counts.values()))


def test_an_unknown_batch_is_refused_with_the_known_ones(reference_system: System) -> None:
    """As for a dataset of ours: nothing starts, and the batches there are named."""
    spec = demo_spec("eval", job_id="reference-none", **{**FIELDS, "batch": "batch_0002"})
    letters = len(reference_system.letters())
    reference_system.send(spec)
    letter = wait_for("a letter", lambda: reference_system.letters()[letters:])[0]
    assert f"known batches: {BATCH}" in letter["reason"]
