"""Owns turning a message's bytes into one JSON object, or saying why they are none.

Stricter than `json.loads`: a name twice in one object, NaN, Infinity, numbers that overflow a
double, integers above 64 bits, unpaired surrogates, NUL characters and deep nesting are refused.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from configs.errors import FieldError, JobRefused, show_name

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_TEXT_CHARS = 4096
MAX_FIELDS = 256
_MAX_INTEGER = 2**63


def decode_object(raw: bytes | str | dict[str, Any]) -> dict[str, Any]:
    """Return the JSON object that a message holds.

    Args:
        raw: UTF-8 bytes, text, or an object decoded already.

    Raises:
        JobRefused: too large, not UTF-8, not JSON, not an object, or a value no job can hold.
    """
    value = raw if isinstance(raw, dict) else _decode(_as_text(raw))
    if not isinstance(value, dict):
        raise JobRefused.because(
            f"the message holds {_kind(value)}; send one JSON object such as "
            '{"op": "train", "data_dirname": ..., "mask_dirname": ...}'
        )
    if len(value) > MAX_FIELDS:
        raise JobRefused.because(f"the object has {len(value)} fields; at most {MAX_FIELDS}")
    for name, content in value.items():
        _check_name(name)
        _check_value(name, content)
    return value


def _as_text(raw: bytes | str) -> str:
    if not isinstance(raw, bytes | str):
        raise JobRefused.because(f"a job is bytes, text or an object, not {type(raw).__name__}")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise JobRefused.because(
            f"the message is {len(raw)} bytes; at most {MAX_MESSAGE_BYTES} (1 MiB) are read"
        )
    if isinstance(raw, str):
        return raw
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JobRefused.because(
            f"the message is not UTF-8 (byte {error.start}); send JSON encoded as UTF-8"
        ) from error


def _decode(text: str) -> Any:
    if not text.strip():
        raise JobRefused.because("the message is empty; send one JSON object")
    try:
        return json.loads(
            text,
            object_pairs_hook=_object_of_unique_names,
            parse_constant=_refuse_constant,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise JobRefused.because(
            f"the message is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    except RecursionError as error:
        raise JobRefused.because("the message is nested too deeply; a job is flat") from error


def _object_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, value in pairs:
        if name in names:
            raise _refusal(name, _kind(value), "is given twice; keep one")
        names[name] = value
    return names


def _refuse_constant(text: str) -> NoReturn:
    raise JobRefused.because(f"the message holds {text}, which is no JSON number; use a finite one")


@dataclass(frozen=True)
class _HugeInteger:
    """An integer that is not worth reading: its digits, counted."""

    digits: int


def _integer(text: str) -> int | _HugeInteger:
    return _HugeInteger(len(text.lstrip("-"))) if len(text) > 20 else int(text)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _is_clean(name):
        raise JobRefused.because(f"a field's name must be printable text, not {name!a:.80}")


def _check_value(name: str, value: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise JobRefused.because("is nested too deeply; a job is flat", name, type(value).__name__)
    if isinstance(value, float) and not math.isfinite(value):
        raise JobRefused.because("must be a finite number", name, str(value))
    if isinstance(value, _HugeInteger):
        raise _refusal(name, f"an integer of {value.digits} digits", "must fit 64 bits")
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise JobRefused.because("must fit 64 bits", name, value)
    if isinstance(value, str) and not _is_clean(value):
        limit = f"must be at most {MAX_TEXT_CHARS} characters of printable text"
        raise _refusal(name, _describe(value), limit)
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        for part in parts:
            _check_value(name, part, depth + 1)


def _refusal(name: str, shown: str, message: str) -> JobRefused:
    """Give a refusal without the value: a secret may stand under a name that says nothing of it."""
    return JobRefused([FieldError(show_name(name), shown, message)])


def _describe(text: str) -> str:
    """Say how long a text is and where its first character lies that cannot be printed."""
    odd = next((place for place, char in enumerate(text) if not char.isprintable()), None)
    where = "" if odd is None else f", number {odd + 1} of them U+{ord(text[odd]):04X}"
    return f"a text of {len(text)} characters{where}"


def _is_clean(text: str) -> bool:
    return len(text) <= MAX_TEXT_CHARS and text.isprintable()


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false",
             type(None): "null"}  # fmt: skip
    return kinds.get(type(value), "a number")
