"""scripts/send_config.py over the wire: what it publishes, and how it follows a job to its end.

The test plays the mediator: it reads the jobs topic and writes events and dead letters.
"""

import json
import re
from pathlib import Path

import pytest
from config_sending import SCRIPTS, FakeMediator, finish, start
from kafka_brokers import free_port

from kafka_utils.admin import ensure_topics
from kafka_utils.consumer import Message
from kafka_utils.producer import Producer
from kafka_utils.settings import KafkaSettings

TRAIN = {"op": "train", "job_id": "t-1", "outer_steps": 10}


@pytest.fixture
def mediator(embedded_address, closing):
    """A mediator at the service's own topic names, with a jobs topic of this test."""
    settings = KafkaSettings(embedded_address, jobs_topic=f"send-{free_port()}", embedded=True)
    ensure_topics(settings)
    fake = FakeMediator(settings)
    closing(fake.consumer)
    return fake


@pytest.fixture
def config(tmp_path):
    """Write a job to a file."""

    def write(record: object, name: str = "job.json") -> Path:
        path = tmp_path / name
        path.write_text(record if isinstance(record, str) else json.dumps(record))
        return path

    return write


def test_a_file_is_published_as_it_is(mediator, config):
    """Given a config with a job id, its bytes arrive unchanged under the id as key."""
    path = config('{"op":  "train", "job_id": "t-1"}\n')
    process = start(mediator.settings, "--configPath", path)
    message = mediator.job()
    assert "t-1" in finish(process, 0)
    assert (message.key, message.value) == (b"t-1", path.read_bytes())


def test_a_config_without_an_id_gets_one(mediator, config):
    """The id is 12 hex digits, printed, and the key of the message."""
    process = start(mediator.settings, "--config-path", config({"op": "train", "job_id": None}))
    message = mediator.job()
    job_id = json.loads(message.value)["job_id"]
    assert re.fullmatch("[0-9a-f]{12}", job_id)
    assert message.key == job_id.encode()
    assert job_id in finish(process, 0)


def test_a_key_keeps_jobs_together(mediator, config):
    """With --key every config of a call is published under it; the id stays its own."""
    paths = [config({"op": "train", "job_id": name}, f"{name}.json") for name in ("a", "b")]
    options = [text for path in paths for text in ("--configPath", path)]
    process = start(mediator.settings, *options, "--key", "site-1")
    messages = [mediator.job(), mediator.job()]
    finish(process, 0)
    assert [message.key for message in messages] == [b"site-1", b"site-1"]
    assert [json.loads(message.value)["job_id"] for message in messages] == ["a", "b"]


def test_set_takes_json_or_text(mediator, config):
    """Numbers, lists and null are JSON; what is not JSON is text; a job id is always text."""
    options = ["outer_steps=500", "tto=0,16,64", "near=null", "name=[1, 2]", "job_id=123", "x=NaN"]
    sets = [word for option in options for word in ("--set", option)]
    process = start(mediator.settings, "--configPath", config(TRAIN), *sets)
    assert json.loads(mediator.job().value) == {
        "op": "train", "job_id": "123", "outer_steps": 500, "tto": "0,16,64", "near": None,
        "name": [1, 2], "x": "NaN",
    }  # fmt: skip
    finish(process, 0)


def test_wait_follows_a_job_to_its_success(mediator, config):
    """States and numbers are shown, other jobs' events are not, the exit code is 0."""
    process = start(mediator.settings, "--configPath", config(TRAIN), "--wait")
    mediator.take()
    mediator.event("other", "state", "failed", "not ours")
    mediator.event("t-1", "state", "running")
    mediator.event("t-1", "progress", "running", step=5, total=10, psnr=23.456, phase="train")
    mediator.event("t-1", "state", "succeeded")
    output = finish(process, 0)
    for text in ("queued", "running", "5/10", "23.46", "succeeded"):
        assert text in output
    assert "not ours" not in output


@pytest.mark.parametrize("state", ["failed", "rejected", "cancelled", "timed_out"])
def test_wait_fails_with_the_job_and_its_reason(mediator, config, state):
    """Any other end gives exit code 1 and the reason."""
    process = start(mediator.settings, "--configPath", config(TRAIN), "--wait")
    mediator.take()
    mediator.event("t-1", "state", "interrupted")
    mediator.event("t-1", "state", state, "the reason given")
    assert f"{state}: the reason given" in finish(process, 1)


def test_wait_for_several_needs_all_to_succeed(mediator, config):
    """Given two configs of which one fails, both are followed and the exit code is 1."""
    first, second = config(TRAIN, "1.json"), config({**TRAIN, "job_id": "t-2"}, "2.json")
    process = start(mediator.settings, "--configPath", first, "--configPath", second, "--wait")
    mediator.take()
    mediator.take()
    mediator.event("t-1", "state", "failed", "first failed")
    mediator.event("t-2", "state", "succeeded")
    output = finish(process, 1)
    assert "first failed" in output
    assert "t-2  succeeded" in output


def test_wait_for_a_view_ends_with_its_url(mediator, config):
    """A view job is followed until its viewer is up."""
    path = config({"op": "view", "job_id": "v-1"})
    process = start(mediator.settings, "--configPath", path, "--wait")
    mediator.take()
    mediator.event("v-1", "state", "running")
    mediator.event("v-1", "viewer_ready", "running", url="http://127.0.0.1:7070")
    assert "http://127.0.0.1:7070" in finish(process, 0)


def test_wait_ends_with_our_dead_letter_only(mediator, config):
    """A letter about our message ends the wait; one about another with the same id does not."""
    process = start(mediator.settings, "--configPath", config(TRAIN), "--wait")
    message = mediator.job()
    stranger = Message("t", 0, 0, b"t-1", b"", (("skyline-send-id", b"0"),), None, "c")
    mediator.letter(stranger, "someone else's")
    mediator.event("t-1", "duplicate", "running", "other spec", outcome="rejected")
    mediator.letter(message, "job_id: taken by a job with another spec")
    output = finish(process, 1)
    assert "rejected: job_id: taken" in output
    assert "someone else's" not in output


def test_wait_takes_the_outcome_of_the_first_of_duplicates(mediator, config):
    """Given a job that has already succeeded, sending it again ends with that."""
    process = start(mediator.settings, "--configPath", config(TRAIN), "--wait")
    mediator.job()
    mediator.event("t-1", "duplicate", "succeeded", "not run again", outcome="duplicate")
    assert "not run again" in finish(process, 0)


def test_wait_gives_up_at_its_timeout(mediator, config):
    """After --timeout the exit code is 4, with the last state; the job goes on."""
    process = start(mediator.settings, "--configPath", config(TRAIN), "--wait", "--timeout", "1.5")
    mediator.job()
    mediator.event("t-1", "state", "running")
    output = finish(process, 4)
    assert "within --timeout 1.5 s (last state: running)" in output


def test_garbage_events_do_not_end_the_wait(mediator, config):
    """Whatever else lies on the topics is passed over."""
    process = start(mediator.settings, "--configPath", config(TRAIN), "--wait")
    mediator.take()
    producer = Producer(mediator.settings)
    odd_progress = {"job_id": "t-1", "kind": "progress", "data": {"step": "x", "psnr": None}}
    texts = ["", "{", "[]", '"x"', '{"job_id": [1]}', '{"job_id": "t-1"}', json.dumps(odd_progress)]
    for junk in (None, b"\xff", *(text.encode() for text in texts)):
        producer.send(mediator.settings.events_topic, "t-1", junk)
        producer.send(mediator.settings.dlq_topic, None, junk)
    producer.send(mediator.settings.dlq_topic, None, b'{"headers": [1, {"value": 3}]}')
    mediator.event("t-1", "state", "succeeded")
    finish(process, 0)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("{", [], "is not JSON"),
        ("[1]", [], "not an object"),
        ("\udcff", [], "is not JSON"),
        ('{"op": "train", "job_id": 5}', ["--wait"], "job_id is not text"),
        ("{}", ["--set", "novalue"], "is not field=value"),
    ],
)
def test_a_wrong_config_is_one_line_and_exit_code_2(mediator, tmp_path, text, options, message):
    """What cannot be sent is named; nothing is published."""
    path = tmp_path / "job.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    output = finish(start(mediator.settings, "--configPath", path, *options), 2)
    assert message in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--wait"]])
def test_two_configs_under_one_id_are_refused(mediator, config, options):
    """Neither is sent: one of them would be no job of its own, and --wait would never end."""
    first, second = config(TRAIN, "1.json"), config({**TRAIN, "seed": 1}, "2.json")
    both = ["--configPath", first, "--configPath", second, "--set", "job_id=same", *options]
    output = finish(start(mediator.settings, *both), 2)
    assert f"{first} and {second} are both job_id 'same'" in output and output.count("\n") == 1


def test_a_missing_file_is_named(mediator, tmp_path):
    output = finish(start(mediator.settings, "--configPath", tmp_path / "absent.json"), 2)
    assert "absent.json" in output


def test_a_broker_that_is_down_is_one_line_with_the_mend(config):
    """Given nothing at the address, the error names it and how to start one."""
    down = KafkaSettings(f"127.0.0.1:{free_port()}")
    output = finish(start(down, "--configPath", config(TRAIN)), 3)
    assert down.bootstrap in output
    assert "python -m mediator" in output
    assert output.count("\n") == 1


def test_no_broker_at_all_says_where_it_looked(closed_port, tmp_path, monkeypatch):
    """Without --broker the error names localhost, the discovery file and the mediator."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import send_config

    with pytest.raises(send_config.KafkaUtilsError) as caught:
        send_config.connect(None, tmp_path, "nerfConfigs", None)
    for text in ("localhost:9092", str(tmp_path / "broker.json"), "python -m mediator"):
        assert text in str(caught.value)


def test_the_broker_is_found_by_its_discovery_file(broker_process, closed_port, monkeypatch):
    """Given only an embedded broker's file below the log root, it is found."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import send_config

    broker = broker_process()
    found = send_config.connect(None, broker.state.parent, "nerfConfigs", None)
    assert (found.bootstrap, found.embedded) == (broker.address, True)
