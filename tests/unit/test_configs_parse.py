"""Refusals: each names the field, the value, the limit and the mend; nothing else escapes."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import configs
from configs.parse import spec_hash

BASE = {"data_dirname": "prepared", "mask_dirname": "g22"}
TRAIN = {"op": "train", **BASE}
EVAL = {"op": "eval", **BASE, "checkpoint_path": "example"}


def refusal(raw: Any) -> configs.JobRefused:
    with pytest.raises(configs.JobRefused) as caught:
        configs.parse_job(raw)
    assert "\n" not in caught.value.reason
    return caught.value


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "a list"),
        (b"null", "null"),
        (b"7", "a number"),
        (b'"train"', "a text"),
        (b"{}", "op: is missing"),
        (b'{"op": NaN}', "NaN"),
        (b'{"op": "train", "lr": 1e999}', "finite"),
        (b'{"op": "train", "seed": 1' + b"0" * 5000 + b"}", "digits"),
        (b'{"op": "train", "op": "eval"}', "given twice"),
        (b"[" * 200_000, "nested"),
        (b'{"op": ' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
        (b'{"op": "train", "x": "' + b"y" * (1 << 20) + b'"}', "at most 1048576"),
        (b'{"op": "train", "dataset": "a\\u0000b"}', "printable"),
        (b'{"op": "train", "dataset": "\\ud800"}', "printable"),
    ],
)
def test_what_is_no_job_is_refused_with_its_reason(raw: bytes, part: str) -> None:
    """Garbage of every shape becomes one line that says what is wrong."""
    assert part in refusal(raw).reason


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"op": "trian"}, "op", "did you mean 'train'?"),
        ({"op": "video", "width_px": 641}, "width_px", "multiple of 2"),
        ({"op": ["train"]}, "op", "must be one of"),
        ({"dim_hiden": 64}, "dim_hiden", "did you mean 'dim_hidden'?"),
        ({"zzz": 1}, "zzz", "not a field of op train"),
        ({"tto": 3}, "tto", "field of op eval, not of train"),
        ({"camera_path": "x"}, "camera_path", "field of op video, not of train"),
        ({"algo": "fommaml"}, "algo", "did you mean 'fomaml'?"),
        ({"learn_inner_rates": True}, "learn_inner_rates", "needs algo fomaml or maml"),
        ({"backend": "tritan"}, "backend", "did you mean 'triton'?"),
        ({"fim": True}, "fim", "not built in this version"),
        ({"downscale": 2}, "downscale", "less than or equal to 1"),
        ({"downscale": "0.5"}, "downscale", "valid number"),
        ({"seed": True}, "seed", "valid integer"),
        ({"near": 5.0, "far": 2.0}, "far", "beyond near"),
        ({"resume": True}, "resume", "needs checkpoint_path"),
        ({"job_id": "../../x"}, "job_id", "match pattern"),
        ({"job_id": "a\u202eb"}, "job_id", "printable"),
        ({"job_id": "\uff41bc"}, "job_id", "match pattern"),
        ({"job_id": "x" * 65}, "job_id", "match pattern"),
        ({"job_id": "Ledger.sqlite3-wal"}, "job_id", "file of the mediator"),
        ({"mask_dirname": "../g22"}, "mask_dirname", "match pattern"),
        ({"prefix": "step"}, "prefix", "match pattern"),
        ({"bm": 1.1, "boundary_margin": 1.2}, "bm", "keep one"),
    ],
)
def test_a_wrong_field_is_named_with_its_mend(
    changes: dict[str, Any], field: str, part: str
) -> None:
    """The refusal names the field and says how to mend it."""
    errors = {error.field: error for error in refusal({**TRAIN, **changes}).errors}
    assert part in errors[field].message


def test_a_missing_field_is_named_with_what_it_means() -> None:
    """A required field that is not there is named with its description."""
    error = refusal({"op": "train", "data_dirname": "p"}).errors[0]
    assert (error.field, error.value) == ("mask_dirname", "")
    assert "create_clusters" in error.message


def test_long_values_and_names_are_shortened() -> None:
    """A value is shown with at most 80 characters, and so is a field's name."""
    error = refusal({**TRAIN, "job_id": "x" * 4000, "y" * 4000: 1})
    assert all(len(item.value) <= 80 and len(item.field) <= 80 for item in error.errors)


@pytest.mark.parametrize(
    ("tto", "steps"),
    [
        ("0,1,16", (0, 1, 16)),
        (" 64, 1,1 ", (0, 1, 64)),
        (5, (0, 5)),
        (0, (0,)),
        ("100000", (0, 100_000)),
    ],
)
def test_tto_becomes_ascending_steps(tto: str | int, steps: tuple[int, ...]) -> None:
    """`tto` is a number or a comma list; steps come out ascending, each once, 0 before them."""
    job = configs.parse_job({**EVAL, "tto": tto})
    assert isinstance(job, configs.EvalJob)
    assert job.tto_steps == steps


@pytest.mark.parametrize(
    "tto", [-1, 100_001, "", "1,", "1;2", "a", "1e3", "٣", True, 1.5, [], [-1], [1, "2"], [0] * 65]
)
def test_an_absurd_tto_is_refused(tto: object) -> None:
    """Negative, absurd and unparsable steps are refused by name."""
    assert refusal({**EVAL, "tto": tto}).errors[0].field == "tto"


@pytest.mark.parametrize("tto", [0, "0", [0, 0]])
def test_nothing_adapted_cannot_be_saved(tto: object) -> None:
    """save_adapted with no step to take is refused by its own name; with one it is not."""
    error = refusal({**EVAL, "tto": tto, "save_adapted": True}).errors[0]
    assert error.field == "save_adapted" and "nothing is adapted" in str(error)
    configs.parse_job({**EVAL, "tto": "0,1", "save_adapted": True})


@pytest.mark.parametrize("spec", [TRAIN, EVAL, {**EVAL, "op": "view"}])
def test_canonical_json_parses_to_the_same_job(spec: dict[str, Any]) -> None:
    """Writing every default out changes neither the job nor its hash."""
    job = configs.parse_job(spec)
    again = configs.parse_job(configs.canonical_json(job))
    assert again == job
    assert spec_hash(again) == spec_hash(job)


_FIELDS = sorted({name for spec in configs.OPS.values() for name in spec.model_fields})
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
_OPS = st.sampled_from(["train", "eval", "view", "video", "", "Train"]) | _JSON
_NEARLY = st.builds(
    lambda op, fields, valid: {**(BASE if valid else {}), **fields, "op": op},
    _OPS,
    st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=12), _JSON, max_size=6),
    st.booleans(),
)


def outcome(raw: Any) -> None:
    """Parse; anything but a job or a refusal with a one-line reason fails the test."""
    try:
        configs.parse_job(raw)
    except configs.JobRefused as error:
        assert error.reason.isprintable()
        assert error.errors
        json.dumps(error.as_dicts()).encode()


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.text(max_size=100))
def test_arbitrary_bytes_never_raise_anything_else(raw: bytes | str) -> None:
    """Any bytes or text become a job or a refusal."""
    outcome(raw)


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_NEARLY)
def test_arbitrary_objects_never_raise_anything_else(spec: dict[str, Any]) -> None:
    """Objects that look nearly like jobs become a job or a refusal, as objects and as bytes."""
    outcome(spec)
    outcome(json.dumps(spec).encode())


@pytest.mark.parametrize("digits", [19, 20, 25, 5000])
def test_an_integer_above_64_bits_is_refused_by_its_field(digits: int) -> None:
    """However many digits it has; they are not all read."""
    text = json.dumps(TRAIN)[:-1] + f', "seed": {"9" * digits}}}'
    (error,) = refusal(text).errors
    assert error.field == "seed" and len(error.value) < 100
