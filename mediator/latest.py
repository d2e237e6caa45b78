"""Owns what a running job last said of how far it is, in a few words, from its progress file."""

import json
from pathlib import Path
from typing import Any

from mediator.text import one_line

TAIL_BYTES = 16 * 1024
SHOWN_CHARS = 80
NUMBERS = (
    ("train_psnr", "{:.2f} dB on its rays"),
    ("psnr", "{:.2f} dB"),
    ("eta_s", "{:.0f} s left"),
)


def latest_progress(path: Path) -> str:
    """Give phase, step, PSNR and time left as last told; an empty text where nothing was.

    Args:
        path: the job's progress.jsonl; it need not exist.
    """
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = handle.read(TAIL_BYTES).splitlines()
    except OSError:
        return ""
    records = (_object(line) for line in reversed(lines))
    last = next((record for record in records if record.get("event") == "progress"), {})
    return one_line(_in_words(last), SHOWN_CHARS)


def _in_words(record: dict[str, Any]) -> str:
    step, total = record.get("step"), record.get("total")
    words = [str(record.get("phase") or "")]
    if isinstance(step, int) and isinstance(total, int):
        words.append(f"{step}/{total}")
    for name, form in NUMBERS:
        if isinstance(value := record.get(name), (int, float)):
            words.append(form.format(value))
    return " ".join(words).strip()


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
