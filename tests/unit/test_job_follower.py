"""What send_config makes of the answers: whose they are, and when a job has ended for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from configs import canonical_json, parse_job
from kafka_utils.message import Message

TRAIN = {"op": "train", "job_id": "j", "data_dirname": "city", "mask_dirname": "g22"}
OTHER = {**TRAIN, "seed": 7}
VIEW = {"op": "view", "job_id": "j", "data_dirname": "city", "mask_dirname": "g22",
        "checkpoint_path": "t", "viewer_token": "hunter2hunter2"}  # fmt: skip
TAKEN = 'job_id = "j": is taken by a job with another spec; choose another job_id'


def _message(record: dict[str, Any]) -> Message:
    return Message("t", 0, 0, None, json.dumps(record).encode(), (), None, "c")


class Wait:
    """One config that was sent, and what is told of its id."""

    def __init__(self, follower: Any, config: dict[str, Any]) -> None:
        value = json.dumps(config).encode()
        self.sent = follower.Sent("c.json", "j", str(config["op"]), value)
        self.sent.source_place = "cluster/jobs/2/5"
        self.console = Console(record=True, width=300)
        self.follower = follower.Follower([self.sent], Progress(console=self.console, disable=True))
        self._seq = 0

    def event(self, kind: str, state: str, **more: Any) -> dict[str, Any]:
        self._seq += 1
        record = {"job_id": "j", "seq": self._seq, "kind": kind, "state": state, **more}
        self.follower.on_event(_message(record))
        return record

    def queued(self, spec: dict[str, Any]) -> None:
        told = json.loads(canonical_json(parse_job(spec)))
        if told.get("viewer_token"):
            told["viewer_token"] = "(not shown)"
        self.event("state", "queued", data={"spec": told})

    def letter(self, offset: int = 5, cluster: str = "cluster") -> None:
        source = {"cluster_id": cluster, "topic": "jobs", "partition": 2, "offset": offset}
        self.follower.on_letter(_message({"reason": TAKEN, "headers": [], "source": source}))

    def text(self) -> str:
        return self.console.export_text(clear=False)


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the module, which lies beside the script."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import job_follower

    return job_follower


@pytest.fixture
def wait(follower: Any) -> Callable[..., Wait]:
    """Give a config that was sent."""
    return lambda config=TRAIN: Wait(follower, config)


def test_the_success_of_another_spec_is_not_ours(wait: Callable[..., Wait]) -> None:
    """Given another job under the id, its end is passed over, and the late letter ends ours."""
    one = wait()
    one.queued(OTHER)
    one.event("state", "running")
    one.event("state", "succeeded")
    assert one.sent.outcome is None and "succeeded" not in one.text()
    one.letter()
    assert one.sent.outcome == "failed" and f"rejected: {TAKEN}" in one.text()


def test_without_a_letter_the_loser_ends_too(
    wait: Callable[..., Wait], follower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while it is said what is known, and that no mediator has answered."""
    one = wait()
    one.queued(OTHER)
    one.follower.end_displaced()
    assert one.sent.outcome is None
    monkeypatch.setattr(follower, "ANSWER_S", -1.0)
    one.follower.end_displaced()
    assert one.sent.outcome == "failed"
    assert TAKEN in one.text() and "no mediator has answered" in one.text()


def test_a_letter_counts_by_its_place_in_its_cluster(wait: Callable[..., Wait]) -> None:
    """One about the message beside ours, or at the same place of another cluster, does not."""
    one = wait()
    one.letter(offset=4)
    one.letter(cluster="another")
    assert one.sent.outcome is None
    one.letter()
    assert one.sent.outcome == "failed"


@pytest.mark.parametrize(("config", "kind", "state"), [
    (TRAIN, "state", "succeeded"), (TRAIN, "state", "failed"), (VIEW, "viewer_ready", "running"),
])  # fmt: skip
def test_an_end_before_our_answer_waits_for_it(
    wait: Callable[..., Wait], config: dict[str, Any], kind: str, state: str
) -> None:
    """A job that was there before may end just now; whose end it is comes with the answer."""
    refused, known = wait(config), wait(config)
    for one in (refused, known):
        one.event(kind, state, data={"url": "http://x"})
        assert one.sent.outcome is None
    refused.letter()
    assert refused.sent.outcome == "failed"
    known.event("duplicate", state, data={"outcome": "duplicate"})
    assert known.sent.outcome == ("failed" if state == "failed" else "ok")


@pytest.mark.parametrize("config", [TRAIN, {**VIEW, "bm": 1.1}, {**TRAIN, "lr": 0.002}])
def test_our_own_spec_is_known_whatever_its_form(
    wait: Callable[..., Wait], config: dict[str, Any]
) -> None:
    """Defaults written out, short names and hidden secrets make no other job."""
    one = wait(config)
    one.queued(config)
    one.event("state", "succeeded", data={"artifacts": ["checkpoints/step2"]})
    assert one.sent.outcome == "ok" and "wrote checkpoints/step2" in one.text()


def test_a_spec_of_another_version_is_not_judged(follower: Any) -> None:
    """A field that this version does not know says nothing; a value that differs does."""
    value = json.dumps(TRAIN).encode()
    assert not follower.is_other_spec(value, {**TRAIN, "field_to_come": 1})
    assert not follower.is_other_spec(b'{"op": "train"}', OTHER)
    assert follower.is_other_spec(value, OTHER)


def test_an_event_told_twice_is_said_once(wait: Callable[..., Wait]) -> None:
    """As when a new broker's topics are read from their beginning."""
    one = wait()
    one.queued(TRAIN)
    record = one.event("waiting", "queued", reason="no slot is free")
    one.follower.on_event(_message(record))
    assert one.text().count("no slot is free") == 1


def test_what_a_new_broker_is_told_again_ends_the_wait(wait: Callable[..., Wait]) -> None:
    """The status topic counts where mediators tell again; a claim there may not hold."""
    one = wait()
    claim = {"job_id": "j", "seq": 9, "kind": "state", "state": "succeeded", "data": {},
             "source": "cluster/jobs/2/5"}  # fmt: skip
    one.follower.on_status(_message(claim))
    assert one.sent.outcome is None
    one.follower.on_status(
        _message({**claim, "data": {"told_again": True}, "source": "c/jobs/0/0"})
    )
    assert one.sent.outcome is None
    one.follower.on_status(_message({**claim, "data": {"told_again": True}}))
    assert one.sent.outcome == "ok"


def test_a_request_is_no_job_of_its_own(wait: Callable[..., Wait]) -> None:
    """What is told of the id is the answer."""
    one = wait({"op": "cancel", "job_id": "j"})
    one.event("state", "cancelled", reason="cancelled by request")
    assert one.sent.outcome == "failed" and "cancelled by request" in one.text()
