"""The JSON files that ship: every job parses, the schema is current and agrees with the parser."""

import json
from pathlib import Path

import jsonschema
import pytest

import configs
from configs.exit_codes import ExitCode
from configs.schema import SCHEMA_FILE, job_schema, schema_text

FOLDER = Path(configs.__file__).parent
JOBS = sorted(path for path in FOLDER.rglob("*.json") if path != SCHEMA_FILE)


def test_jobs_of_every_operation_ship() -> None:
    """Real and demo jobs for each operation, and a meta-learning one."""
    names = {str(path.relative_to(FOLDER).with_suffix("")) for path in JOBS}
    assert names == {*configs.OPS, *(f"demo/{op}" for op in configs.OPS), "train_fomaml"}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_job_parses_and_satisfies_the_schema(path: Path) -> None:
    """The operation begins the file's name; parser and schema both accept it."""
    job = configs.parse_job(path.read_bytes())
    assert job.op == path.stem.split("_")[0]
    jsonschema.validate(json.loads(path.read_text()), job_schema())


def test_the_schema_file_is_current() -> None:
    """`python -m configs.schema` was run after the last change."""
    assert SCHEMA_FILE.read_text() == schema_text()


def test_the_schema_refuses_what_the_parser_refuses() -> None:
    """An unknown field and an unknown operation fail the schema too."""
    job = json.loads((FOLDER / "demo/train.json").read_text())
    for wrong in ({**job, "unknown": 1}, {**job, "op": "fly"}, {**job, "downscale": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, job_schema())
    jsonschema.validate({**job, "bm": 1.05}, job_schema())


def test_every_field_is_described() -> None:
    """No field of a train job goes without a description with its meaning."""
    for spec in configs.OPS.values():
        assert not [name for name, field in spec.model_fields.items() if not field.description]


def test_exit_codes_are_as_documented() -> None:
    """Numbers, kinds and meanings of the codes are fixed: others depend on them."""
    numbers = [0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 75]
    assert [int(code) for code in ExitCode] == numbers
    assert ExitCode.BAD_CHECKPOINT.kind == "bad_checkpoint"
    assert all(code.meaning for code in ExitCode)
