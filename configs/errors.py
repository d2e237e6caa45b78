"""Owns the refusal of a job: one line for people, one record per field for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from configs.secrets import MASK, is_secret, masked

SHOWN_VALUE_CHARS = 80
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field.

    Attributes:
        field: its name; "" when the message as a whole is wrong.
        value: the value as JSON, shortened to `SHOWN_VALUE_CHARS` characters; "" when missing.
        message: the limit it broke and the mend, one line.
    """

    field: str
    value: str
    message: str

    def __str__(self) -> str:
        shown = f" = {self.value}" if self.value else ""
        return f"{self.field}{shown}: {self.message}" if self.field else self.message


class JobRefused(ValueError):
    """A job that cannot be accepted as it is written.

    Attributes:
        reason: one line for logs and people.
        errors: every wrong field, in the spec's order.
    """

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = list(errors)
        shown = "; ".join(str(error) for error in self.errors[:SHOWN_ERRORS])
        more = len(self.errors) - SHOWN_ERRORS
        self.reason = shown + (f"; and {more} more fields" if more > 0 else "")
        super().__init__(self.reason)

    @classmethod
    def because(cls, message: str, field: str = "", value: object = None) -> "JobRefused":
        """Refuse for one reason; `value` is shown when a field is named."""
        return cls([FieldError(show_name(field), show(value, field) if field else "", message)])

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the field errors as plain JSON objects."""
        return [asdict(error) for error in self.errors]


def show_name(field: str) -> str:
    """Return a field's name as one short printable text, whatever the sender called it."""
    if field.isprintable() and len(field) <= SHOWN_VALUE_CHARS:
        return field
    return show(field)


def show(value: object, field: str = "") -> str:
    """Return a value as short printable ASCII JSON, whatever it is; secrets are masked.

    Args:
        value: the value.
        field: the field it is the value of.
    """
    if value is not None and is_secret(field):
        return MASK
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        value = value[: SHOWN_VALUE_CHARS + 1]
    try:
        text = json.dumps(masked(value))
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_VALUE_CHARS else text[: SHOWN_VALUE_CHARS - 3] + "..."
