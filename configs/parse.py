"""Owns turning a message into a job, and the words of every refusal.

`parse_job` is the only way in: mediator, runner and scripts refuse the same jobs for the same
reasons. Whatever it is given, it returns a job or raises `JobRefused`.
"""

import difflib
import hashlib
import json
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.control import CONTROL_OPS, ControlRequest
from configs.decoding import MAX_MESSAGE_BYTES, decode_object
from configs.errors import FieldError, JobRefused, show, show_name
from configs.evaluate import EvalJob
from configs.secrets import is_secret
from configs.train import TrainJob
from configs.video import VideoJob
from configs.view import ViewJob

__all__ = ["ALIASES", "MAX_MESSAGE_BYTES", "OPS", "Job", "canonical_json", "parse_job", "spec_hash"]

Job = TrainJob | EvalJob | ViewJob | VideoJob
JobClass = type[TrainJob] | type[EvalJob] | type[ViewJob] | type[VideoJob]
OPS: dict[str, JobClass] = {
    "train": TrainJob,
    "eval": EvalJob,
    "view": ViewJob,
    "video": VideoJob,
}
ALIASES = {"bm": "boundary_margin"}
LATER_VALUES: dict[tuple[str, str | bool], str] = {
    ("fim", True): "Fisher weighting is not built in this version; leave it false",
}


def parse_job(raw: bytes | str | dict[str, Any]) -> Job:
    """Return the job that a message describes.

    Args:
        raw: UTF-8 JSON bytes or text of at most `MAX_MESSAGE_BYTES`, or a decoded object.

    Raises:
        JobRefused: for every input that is no job of this version; it names each wrong field.
    """
    return _parsed(decode_object(raw))


def parse_message(raw: bytes | str | dict[str, Any]) -> Job | ControlRequest:
    """Return what a message of the jobs topic asks for: a job, or something about a job.

    Raises:
        JobRefused: for every input that is neither; it names each wrong field.
    """
    values = decode_object(raw)
    if values.get("op") not in CONTROL_OPS:
        return _parsed(values)
    try:
        return ControlRequest.model_validate(values)
    except ValidationError as error:
        raise JobRefused(_field_errors(error, ControlRequest, values)) from None


def _parsed(given: dict[str, Any]) -> Job:
    values = _without_aliases(given)
    spec = _spec_class(values)
    try:
        return spec.model_validate(values)
    except ValidationError as error:
        raise JobRefused(_field_errors(error, spec, values)) from None


def canonical_json(job: Job) -> str:
    """Return the job with every default written out, names sorted: equal jobs, equal text."""
    return json.dumps(job.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def spec_hash(job: Job) -> str:
    """Return the SHA-256 of `canonical_json` in hex."""
    return hashlib.sha256(canonical_json(job).encode()).hexdigest()


def _without_aliases(values: dict[str, Any]) -> dict[str, Any]:
    for short, name in ALIASES.items():
        if short in values and name in values:
            raise JobRefused.because(f"is short for {name}, which is given too; keep one", short)
    return {ALIASES.get(name, name): value for name, value in values.items()}


def _spec_class(values: dict[str, Any]) -> JobClass:
    known = ", ".join(OPS)
    if "op" not in values:
        raise JobRefused([FieldError("op", "", f"is missing; set it to one of {known}")])
    op = values["op"]
    if isinstance(op, str) and op in OPS:
        return OPS[op]
    hint = _did_you_mean(op, [*OPS, *CONTROL_OPS]) if isinstance(op, str) else ""
    raise JobRefused.because(f"must be one of {known}{hint}", "op", op)


def _field_errors(
    error: ValidationError, spec: type[BaseModel], values: dict[str, Any]
) -> list[FieldError]:
    found: dict[str, FieldError] = {}
    for entry in error.errors(include_url=False):
        context = entry.get("ctx", {})
        field = str(entry["loc"][0]) if entry["loc"] else str(context.get("field", ""))
        shown = _shown(values[field], field, spec) if field in values else ""
        message = _message(entry["type"], entry["msg"], field, spec, values.get(field))
        found.setdefault(field, FieldError(show_name(field), shown, message))
    return list(found.values())


def _shown(value: Any, field: str, spec: type[BaseModel]) -> str:
    """Show a value unless its field is a secret, or was meant to be one."""
    meant = None if field in spec.model_fields else _closest(field, list(spec.model_fields))
    return show(value, meant if meant is not None and is_secret(meant) else field)


def _message(kind: str, text: str, field: str, spec: type[BaseModel], value: Any) -> str:
    if kind == "extra_forbidden":
        return _unknown_field(field, spec)
    if isinstance(value, str | bool) and (field, value) in LATER_VALUES:
        return LATER_VALUES[field, value]
    about = spec.model_fields[field].description if field in spec.model_fields else None
    mend = f" ({about})" if about else ""
    if kind == "missing":
        return f"is missing; add it{mend}"
    if kind in ("job_rule", "value_error"):
        return text.removeprefix("Value error, ")
    hint = _did_you_mean(value, _choices(text)) if kind == "literal_error" else ""
    return text.replace("Input should", "must", 1).replace("String should", "must", 1) + hint + mend


def _choices(text: str) -> list[str]:
    return text.split("'")[1::2]


def _unknown_field(field: str, spec: type[BaseModel]) -> str:
    op = next((name for name, candidate in OPS.items() if candidate is spec), "cancel or retry")
    owners = [name for name, other in OPS.items() if field in other.model_fields]
    if owners:
        return f"is a field of op {' and '.join(owners)}, not of {op}; leave it out"
    return f"is not a field of op {op}{_did_you_mean(field, list(spec.model_fields))}"


def _did_you_mean(word: object, known: list[str]) -> str:
    if not isinstance(word, str):
        return ""
    close = _closest(word, known)
    return f"; did you mean {close!r}?" if close else "; leave it out or see the job schema"


def _closest(word: str, known: list[str]) -> str | None:
    close = difflib.get_close_matches(word[:64].lower(), known, n=1, cutoff=0.6)
    return close[0] if close else None
