"""Jobs published by a client that is not ours: Debian's kcat, raw bytes, no key.

SKYLINE_LONG_TESTS=1 also lets the shipped train job run to its own end (about three minutes).
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from kafka_brokers import missing
from mediator_bench import end
from running_system import ROOT, System, demo_spec, small_train

from kafka_utils.settings import KafkaSettings

SHIPPED = ROOT / "configs/demo/train.json"
LONG = "SKYLINE_LONG_TESTS"


@pytest.fixture(scope="module")
def kcat() -> str:
    """Give the path of kcat; without it the tests fail in CI and are skipped elsewhere."""
    return shutil.which("kcat") or missing("kcat is not installed: apt-get install kcat")


def publish(kcat: str, settings: KafkaSettings, path: Path) -> None:
    """Send a file's bytes as one message."""
    command = [kcat, "-b", settings.bootstrap, "-P", "-t", settings.jobs_topic, str(path)]
    subprocess.run(command, check=True, timeout=20)


def test_a_job_sent_by_kcat_runs_to_success(system: System, kcat: str) -> None:
    """Given the demo's train job with a short time limit, its bytes are enough.

    An eval job sent at once, to any partition, waits for its checkpoint.
    """
    spec = small_train(job_id="kcat-train", time_limit_s=2.0)
    scored = {"tto": "0", "max_images": 1, "save_adapted": False, "checkpoint_path": "kcat-train"}
    publish(kcat, system.settings, system.write_config(spec))
    publish(
        kcat, system.settings, system.write_config(demo_spec("eval", job_id="kcat-eval", **scored))
    )
    for job_id in ("kcat-train", "kcat-eval"):
        system.wait_state(job_id, "succeeded", 60.0)
        system.assert_told(job_id, "queued", "running", "succeeded")
    assert system.folder("kcat-eval").metrics_csv.exists()
    accepted = json.loads(system.folder("kcat-train").job_json.read_text())
    assert {name: accepted[name] for name in spec} == spec
    assert (system.folder("kcat-train").checkpoints / "index.json").exists()


def test_the_shipped_bytes_train_and_a_stop_saves_the_work(own_system: System, kcat: str) -> None:
    """configs/demo/train.json as it is trains; SIGTERM ends mediator and runner, nothing lost."""
    publish(kcat, own_system.settings, SHIPPED)
    own_system.wait_training("demo-train")
    accepted = json.loads(own_system.folder("demo-train").job_json.read_text())
    shipped = json.loads(SHIPPED.read_text())
    assert {name: accepted[name] for name in shipped} == shipped
    tree = own_system.tree("demo-train")
    assert len(tree) >= 1
    assert end(own_system.mediators[-1], signal.SIGTERM) == 0
    assert own_system.tree("demo-train") == []
    job = own_system.job("demo-train")
    assert job is not None and job.state == "interrupted"
    assert "is saved" in (job.reason or "")
    folder = own_system.folder("demo-train")
    saved = json.loads((folder.checkpoints / "index.json").read_text())["last"]
    assert (folder.checkpoints / saved / "manifest.json").exists()


@pytest.mark.skipif(not os.environ.get(LONG), reason=f"takes minutes; set {LONG}=1")
def test_the_shipped_bytes_run_to_success(own_system: System, kcat: str) -> None:
    """configs/demo/train.json as it is, to its own end."""
    publish(kcat, own_system.settings, SHIPPED)
    own_system.wait_state("demo-train", "succeeded", 280.0)
    result = json.loads(own_system.folder("demo-train").result_json.read_text())
    assert result["psnr"] > 18.0
    own_system.assert_told("demo-train", "queued", "running", "succeeded")
