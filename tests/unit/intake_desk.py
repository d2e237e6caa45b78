"""An intake to give messages to, and the jobs given to it."""

import base64
import json
import zlib
from pathlib import Path

from configs import Roots
from kafka_utils.consumer import Message
from mediator.events import Topics
from mediator.intake import Intake, Outcome
from mediator.ledger import Ledger

TOPICS = Topics("status", "events", "letters", "jobs")


class Desk:
    """An intake with its ledger, a dataset `city` with partition `g22`, and batch `after`."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.logs = project / "logs"
        self.logs.mkdir()
        dataset = project / "data/drz/out/city"
        (dataset / "masks/g22").mkdir(parents=True)
        (dataset / "continual/after").mkdir(parents=True)
        (dataset / "dataset.json").write_text("{}")
        (dataset / "masks/g22/partition.json").write_text("{}")
        self.ledger = Ledger(self.logs, TOPICS)
        self.intake = Intake(self.ledger, Roots.below(project))
        self.offset = 0

    def give(self, value: bytes | dict | None, *, may_wait: bool = False) -> Outcome:
        """Give the next message."""
        self.offset += 1
        raw = json.dumps(value).encode() if isinstance(value, dict) else value
        return self.intake.take(self.message(raw, self.offset), may_wait=may_wait)

    def message(self, value: bytes | None, offset: int) -> Message:
        """Make a message."""
        return Message("jobs", 0, offset, None, value, (("who", b"me"),), 0, "cluster")

    def letters(self) -> list[dict]:
        """Give the dead letters so far."""
        return [json.loads(e.payload) for e in self.ledger.unsent(0, 10**6) if e.topic == "letters"]

    def events(self) -> list[dict]:
        """Give the events so far, once every claim has held."""
        self.ledger.mark_claimed([(job.job_id, job.epoch) for job in self.ledger.jobs()])
        return [json.loads(e.payload) for e in self.ledger.unsent(0, 10**6) if e.topic == "events"]

    def checkpoint(self, folder: Path) -> None:
        """Make a folder look like a job's with a checkpoint."""
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/index.json").write_text("{}")


def original_of(letter: dict) -> bytes | None:
    """Give the bytes a letter answers, from what it holds of them."""
    assert not letter["original_cut"]
    if letter["original"] is None:
        return None
    encoding, content = letter["original"]["encoding"], letter["original"]["content"]
    if encoding == "utf-8":
        return content.encode()
    packed = base64.b64decode(content)
    return zlib.decompress(packed) if encoding == "zlib+base64" else packed


def train(**more: object) -> dict:
    """Give a train job."""
    return {"op": "train", "data_dirname": "city", "mask_dirname": "g22", **more}


def evaluate(**more: object) -> dict:
    """Give an eval job."""
    return {"op": "eval", "data_dirname": "city", "mask_dirname": "g22", **more}
