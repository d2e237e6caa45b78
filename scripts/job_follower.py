"""Owns what send_config shows while it waits: the events of the jobs it sent, until each ends."""

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from kafka_utils.consumer import Message

SEND_ID_HEADER = "skyline-send-id"
TERMINAL = frozenset({"succeeded", "failed", "rejected", "cancelled", "timed_out"})
PLAIN_PROGRESS_S = 10.0
NUMBERS = (
    ("train_psnr", "{:.2f} dB on its rays"),
    ("psnr", "PSNR {:.2f} dB"),
    ("loss", "loss {:.4g}"),
    ("rays_per_s", "{:.0f} rays/s"),
    ("eta_s", "{:.0f} s left"),
)


@dataclass
class Sent:
    """One config on its way: what is published, and how far its job is known to be.

    Attributes:
        source: where the config came from, for messages.
        job_id: the id to follow, or None if the config has none that can be.
        op: the config's op, for messages.
        value: the bytes to publish.
        send_id: marks the message, so that a dead letter can be told to be this one.
        state: latest state heard of.
        seq: highest event number heard; a lower one comes from a mediator that lost the job.
        outcome: `ok`, `failed` or None while open.
    """

    source: str
    job_id: str | None
    op: str
    value: bytes
    send_id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "sent"
    seq: int = 0
    outcome: str | None = None


def say(console: Console, text: str) -> None:
    """Write one line as it is: not wrapped, no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Follower:
    """Shows what the mediator says of the jobs, and knows when all have come to their end."""

    def __init__(self, jobs: list[Sent], progress: Progress) -> None:
        self._jobs = {job.job_id: job for job in jobs}
        self._sends = {job.send_id: job for job in jobs}
        self._progress = progress
        self._plain_at_s: dict[str, float] = {}
        self._bars: dict[str | None, TaskID] = {
            job.job_id: progress.add_task(f"{job.op} {job.job_id}", total=None, note="sent")
            for job in jobs
        }
        self.heard = False

    @property
    def open(self) -> list[Sent]:
        """The jobs that have not ended."""
        return [job for job in self._sends.values() if job.outcome is None]

    def on_event(self, message: Message) -> None:
        """Take one message of the events topic."""
        event = _object(message.value)
        job = self._jobs.get(str(event.get("job_id")))
        if job is None or job.outcome is not None:
            return
        self.heard = True
        seq = event.get("seq")
        if isinstance(seq, int) and 0 < seq < job.seq:
            return
        job.seq = max(job.seq, seq) if isinstance(seq, int) else job.seq
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        kind, state = event.get("kind"), str(event.get("state"))
        if kind == "viewer_ready":
            self._say(job, f"viewer: {data.get('url')}")
            if job.op == "view":
                self._end(job, "ok", "running")
        elif kind == "progress":
            self._on_progress(job, data)
        elif kind == "metrics":
            self._on_metrics(job, data)
        elif kind == "duplicate":
            self._on_duplicate(job, state, event, data)
        elif kind == "waiting":
            self._say(job, f"waits: {event.get('reason')}")
        elif kind == "state":
            self._on_state(job, state, event.get("reason") or _artifacts(data))

    def on_letter(self, message: Message) -> None:
        """Take one message of the dead-letter topic; only those of this call's messages count."""
        letter = _object(message.value)
        headers = letter.get("headers")
        for header in headers if isinstance(headers, list) else []:
            job = self._sends.get(_send_id(header))
            if job is None or job.outcome is not None:
                continue
            self.heard = True
            self._say(job, f"rejected: {letter.get('reason')}")
            self._end(job, "failed", "rejected")

    def _on_state(self, job: Sent, state: str, about: str | None) -> None:
        if state != job.state:
            job.state = state
            self._say(job, f"{state}: {about}" if about else state)
        if state in TERMINAL:
            self._end(job, "ok" if state == "succeeded" else "failed", state)

    def _on_duplicate(
        self, job: Sent, state: str, event: dict[str, Any], data: dict[str, Any]
    ) -> None:
        # A conflict may be someone else's message under this id; ours comes as a dead letter.
        if data.get("outcome") == "rejected":
            return
        self._say(job, f"{event.get('reason') or 'already known'} (it is {state})")
        if state in TERMINAL:
            self._end(job, "ok" if state == "succeeded" else "failed", state)
        elif job.op == "view" and state == "running":
            self._end(job, "ok", "running")

    def _on_progress(self, job: Sent, data: dict[str, Any]) -> None:
        step, total = data.get("step"), data.get("total")
        words = [
            form.format(value)
            for key, form in NUMBERS
            if isinstance(value := data.get(key), (int, float))
        ]
        note = f"{data.get('phase', '')}  {', '.join(words)}".strip()
        if isinstance(step, int) and isinstance(total, int):
            # a time limit may end a run long before its last step
            done = data.get("done")
            share = float(done) if isinstance(done, (int, float)) else step / max(total, 1)
            self._progress.update(
                self._bars[job.job_id], completed=share, total=1, note=escape(note)
            )
            note = f"{step}/{total} {note}"
        now_s = time.monotonic()
        last_s = self._plain_at_s.get(job.send_id, -PLAIN_PROGRESS_S)
        if not self._progress.console.is_terminal and now_s - last_s >= PLAIN_PROGRESS_S:
            self._plain_at_s[job.send_id] = now_s
            self._say(job, note)

    def _on_metrics(self, job: Sent, data: dict[str, Any]) -> None:
        rows = data.get("rows")
        rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        if scores := [score for row in rows if (score := _score(row))]:
            steps = rows[0].get("tto")
            after = f"after {steps} steps of adaptation" if steps is not None else "scored"
            self._say(job, f"{after}: {', '.join(scores)}")

    def _say(self, job: Sent, text: str) -> None:
        say(self._progress.console, f"{job.op} {job.job_id}  {text}")

    def _end(self, job: Sent, outcome: str, state: str) -> None:
        job.outcome, job.state = outcome, state
        bar = self._bars[job.job_id]
        if outcome == "ok":
            self._progress.update(bar, total=1, completed=1)
        self._progress.update(bar, note=escape(state))
        self._progress.stop_task(bar)


def _score(row: dict[str, Any]) -> str:
    """Return a row of metrics in words, or an empty text."""
    psnr, gain = row.get("psnr"), row.get("psnr_gain")
    if not isinstance(psnr, (int, float)):
        return ""
    change = f" ({gain:+.2f})" if isinstance(gain, (int, float)) and gain else ""
    return f"{row.get('split')} {psnr:.2f} dB{change}"


def _artifacts(data: dict[str, Any]) -> str | None:
    """Return what a job that succeeded has left, in words."""
    names = data.get("artifacts")
    return f"wrote {', '.join(map(str, names))}" if isinstance(names, list) and names else None


def _send_id(header: object) -> str:
    """Return what a letter's header entry says the original's send id was, or an empty text."""
    if not isinstance(header, dict) or header.get("name") != SEND_ID_HEADER:
        return ""
    value = header.get("value")
    return str(value.get("content")) if isinstance(value, dict) else ""


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        record = json.loads(value or b"{}")
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
