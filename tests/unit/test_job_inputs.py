"""Datasets and partitions in either format: the mediator and the runner take what the engine reads.

The files here are empty: which of them are there decides, what is in them is the engine's to check.
"""

from itertools import product
from pathlib import Path

import pytest

import mediator.requirements
import runner.inputs
from configs import JobRefused, Roots, TrainJob, parse_job
from mediator.requirements import check_requirements
from nerfcore.data.partition import PARTITION_FILE
from nerfcore.data.reference import COORDINATES_FILE
from nerfcore.data.reference_partition import PARAMS_FILE
from nerfcore.data.storage import DATASET_FILE
from nerfcore.errors import DataError
from runner.inputs import find_inputs

DATASET_FILES = (DATASET_FILE, COORDINATES_FILE)
PARTITION_FILES = (PARTITION_FILE, PARAMS_FILE)


def job() -> TrainJob:
    """Give a train job that names the dataset `city` and its partition `g22`."""
    fields = {"data_path": "data/drz", "data_dirname": "city", "mask_dirname": "g22"}
    parsed = parse_job({"op": "train", **fields})
    assert isinstance(parsed, TrainJob)
    return parsed


def make(project: Path, *names: str) -> Roots:
    """Make the dataset's folders with these files in them."""
    dataset = project / "data/drz/out/city"
    (dataset / "masks/g22").mkdir(parents=True)
    for name in names:
        (dataset / name).touch()
    return Roots.below(project)


def test_both_sides_know_the_files_that_the_engine_reads() -> None:
    """The names are written three times, since neither side may import the other."""
    assert mediator.requirements.DATASET_FILES == runner.inputs.DATASET_FILES == DATASET_FILES
    partitions = mediator.requirements.PARTITION_FILES
    assert partitions == runner.inputs.PARTITION_FILES == PARTITION_FILES


@pytest.mark.parametrize(("dataset", "partition"), list(product(DATASET_FILES, PARTITION_FILES)))
def test_each_format_is_accepted(tmp_path: Path, dataset: str, partition: str) -> None:
    """Also mixed: a partition of ours may be made for the reference system's dataset."""
    roots = make(tmp_path, dataset, f"masks/g22/{partition}")
    assert check_requirements(job(), roots, lambda _: None) is None
    found = find_inputs(job(), roots)
    assert found.dataset == (tmp_path / "data/drz/out/city").resolve()
    assert found.partition == found.dataset / "masks/g22"


@pytest.mark.parametrize(
    ("there", "field", "wanted", "script"),
    [
        ((), "data_dirname", DATASET_FILES, "prepare_dataset.py"),
        ((PARTITION_FILE,), "data_dirname", DATASET_FILES, "prepare_dataset.py"),
        ((DATASET_FILE,), "mask_dirname", PARTITION_FILES, "create_clusters.py"),
        ((COORDINATES_FILE,), "mask_dirname", PARTITION_FILES, "create_clusters.py"),
    ],
)
def test_a_refusal_names_both_formats(
    tmp_path: Path, there: tuple[str, ...], field: str, wanted: tuple[str, ...], script: str
) -> None:
    """Field, folder, either file and the mend, on both sides."""
    roots = make(tmp_path, *there)
    with pytest.raises(JobRefused) as refused:
        check_requirements(job(), roots, lambda _: None)
    with pytest.raises(DataError) as failed:
        find_inputs(job(), roots)
    for reason in (str(refused.value), str(failed.value)):
        assert reason.startswith(field)
        assert str(tmp_path / "data/drz/out/city") in reason
        assert f"neither {wanted[0]} nor {wanted[1]}; make" in reason and script in reason
