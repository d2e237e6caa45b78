"""Owns what send_config shows while it waits: the events of the jobs it sent, until each ends."""

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from configs import JobRefused, canonical_json, parse_job
from configs.control import CONTROL_OPS
from configs.secrets import MASK
from kafka_utils.consumer import Message

SEND_ID_HEADER = "skyline-send-id"
TERMINAL = frozenset({"succeeded", "failed", "rejected", "cancelled", "timed_out"})
PLAIN_PROGRESS_S = 10.0
ANSWER_S = 10.0
_PLACE = ("cluster_id", "topic", "partition", "offset")
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
        source_place: where the published message lies, which tells it too.
        state: latest state heard of.
        seq: highest event number heard; others come from a mediator that lost the job, or again.
        outcome: `ok`, `failed` or None while open.
        answered: a mediator has queued this config or found it known. Before that, what is told of
            the id may be about a job with another spec.
        ended_as: outcome and state of a job of this id that ended before this config was answered.
        displaced_at_s: when it was seen that the id is another spec's (monotonic), else None.
    """

    source: str
    job_id: str | None
    op: str
    value: bytes
    send_id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "sent"
    seq: int = 0
    outcome: str | None = None
    source_place: str | None = None
    answered: bool = False
    ended_as: tuple[str, str] | None = None
    displaced_at_s: float | None = None

    def __post_init__(self) -> None:
        # a request has no spec of its own, and only a wrong one is answered
        self.answered = self.answered or self.op in CONTROL_OPS


def place(cluster_id: object, topic: object, partition: object, offset: object) -> str:
    """Return where a message lies, as mediators write it."""
    return f"{cluster_id}/{topic}/{partition}/{offset}"


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
        if isinstance(seq, int) and 0 < seq <= job.seq:
            return
        job.seq = max(job.seq, seq) if isinstance(seq, int) else job.seq
        data = _data(event)
        if isinstance(spec := data.get("spec"), dict):
            self._on_spec(job, spec)
        if job.displaced_at_s is not None:
            return
        kind, state = event.get("kind"), str(event.get("state"))
        if kind == "viewer_ready":
            self._tell(job, f"viewer: {data.get('url')}")
            if job.op == "view":
                self._end_if_ours(job, "ok", "running")
        elif kind == "progress":
            self._on_progress(job, data)
        elif kind == "metrics":
            self._on_metrics(job, data)
        elif kind == "duplicate":
            self._on_duplicate(job, state, event, data)
        elif kind == "waiting":
            self._tell(job, f"waits: {event.get('reason')}")
        elif kind == "state":
            self._on_state(job, state, event.get("reason") or _artifacts(data))

    def on_letter(self, message: Message) -> None:
        """Take one message of the dead-letter topic; only those of this call's messages count."""
        letter = _object(message.value)
        headers = letter.get("headers")
        marks = {_send_id(header) for header in headers} if isinstance(headers, list) else set()
        source = letter.get("source")
        where = place(*map(source.get, _PLACE)) if isinstance(source, dict) else None
        for job in self.open:
            if job.send_id in marks or (where is not None and where == job.source_place):
                self.heard = True
                self._say(job, f"rejected: {letter.get('reason')}")
                self._end(job, "failed", "rejected")

    def on_status(self, message: Message) -> None:
        """Take one message of a new broker's status topic: only what is told again counts.

        Whether a claim there holds is for mediators to find out.
        """
        event = _object(message.value)
        job = self._jobs.get(str(event.get("job_id")))
        if job is None or job.outcome is not None or not _data(event).get("told_again"):
            return
        if job.source_place is not None and event.get("source") == job.source_place:
            self._answered(job)
        self.on_event(message)

    def on_new_broker(self) -> None:
        """Say that the broker has lost its log, and which jobs may be lost with it."""
        text = "the broker began anew; its topics are read from their beginning"
        say(self._progress.console, text)
        for job in self.open:
            if job.state == "sent":
                self._say(job, "not heard of yet: if no mediator had read it, it is lost with the "
                          "old broker's log; publish it again")  # fmt: skip

    def end_displaced(self) -> None:
        """End the jobs whose id is another spec's, where no dead letter has come in time."""
        for job in self.open:
            since_s = job.displaced_at_s
            if since_s is not None and time.monotonic() - since_s > ANSWER_S:
                self._say(job, f'not run: job_id = "{job.job_id}": is taken by a job with another '
                          "spec; choose another job_id (no mediator has answered this config "
                          f"within {ANSWER_S:g} s)")  # fmt: skip
                self._end(job, "failed", "not run")

    def _on_spec(self, job: Sent, spec: dict[str, Any]) -> None:
        """Take the spec of the job that has just been queued under this id."""
        if is_other_spec(job.value, spec):
            job.displaced_at_s = time.monotonic()
            self._say(job, "a job with another spec is queued under this job_id; waiting for what "
                      "becomes of this one")  # fmt: skip
        else:
            job.displaced_at_s = None
            self._answered(job)

    def _answered(self, job: Sent) -> None:
        job.answered = True
        if job.ended_as is not None:
            self._end(job, *job.ended_as)

    def _end_if_ours(self, job: Sent, outcome: str, state: str) -> None:
        """End with what is told of the id, once a mediator has answered this very config."""
        if job.answered:
            self._end(job, outcome, state)
        else:
            job.ended_as = (outcome, state)

    def _on_state(self, job: Sent, state: str, about: str | None) -> None:
        # perhaps another message under this id; ours is answered by a dead letter
        if state == "rejected" and not job.answered:
            return
        if state != job.state:
            job.state = state
            self._tell(job, f"{state}: {about}" if about else state)
        if state in TERMINAL:
            self._end_if_ours(job, "ok" if state == "succeeded" else "failed", state)

    def _on_duplicate(
        self, job: Sent, state: str, event: dict[str, Any], data: dict[str, Any]
    ) -> None:
        # A conflict may be someone else's message under this id; ours comes as a dead letter.
        if data.get("outcome") == "rejected":
            return
        self._say(job, f"{event.get('reason') or 'already known'} (it is {state})")
        self._answered(job)
        if job.outcome is not None:
            return
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
            self._tell(job, note)

    def _on_metrics(self, job: Sent, data: dict[str, Any]) -> None:
        rows = data.get("rows")
        rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        if scores := [score for row in rows if (score := _score(row))]:
            steps = rows[0].get("tto")
            after = f"after {steps} steps of adaptation" if steps is not None else "scored"
            self._tell(job, f"{after}: {', '.join(scores)}")

    def _tell(self, job: Sent, text: str) -> None:
        """Say what is told of the id, and whether it is sure to be about this config."""
        doubt = "" if job.answered else "(of this job_id; this config is not answered yet) "
        self._say(job, f"{doubt}{text}")

    def _say(self, job: Sent, text: str) -> None:
        say(self._progress.console, f"{job.op} {job.job_id}  {text}")

    def _end(self, job: Sent, outcome: str, state: str) -> None:
        job.outcome, job.state = outcome, state
        bar = self._bars[job.job_id]
        if outcome == "ok":
            self._progress.update(bar, total=1, completed=1)
        self._progress.update(bar, note=escape(state))
        self._progress.stop_task(bar)


def is_other_spec(value: bytes, told: dict[str, Any]) -> bool:
    """Tell whether a mediator's spec is another job than a config.

    Both are read by this version, so that a mediator of another one is not misjudged for its
    defaults; what this version cannot read is taken for the same. A secret that is not told is not
    compared.

    Args:
        value: the config as published.
        told: the spec as an event tells it.
    """
    try:
        ours = json.loads(canonical_json(parse_job(value)))
        shown = {name: ours.get(name) if part == MASK else part for name, part in told.items()}
        return json.loads(canonical_json(parse_job(shown))) != ours
    except JobRefused:
        return False


def _data(event: dict[str, Any]) -> dict[str, Any]:
    data = event.get("data")
    return data if isinstance(data, dict) else {}


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
