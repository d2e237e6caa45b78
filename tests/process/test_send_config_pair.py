"""scripts/send_config.py --wait beside two mediators that read one job id with several specs."""

import json
import subprocess
import sys
from pathlib import Path

from two_mediators import Two, base

SCRIPT = Path(__file__).parents[2] / "scripts/send_config.py"
REASON = 'rejected: job_id = "same": is taken by a job with another spec; choose another job_id'


def test_only_the_sender_of_the_spec_that_runs_hears_of_success(two: Two, tmp_path: Path) -> None:
    """Each of the others ends with exit code 1 and the reason of its own dead letter."""
    two.start()
    senders = []
    for number in range(4):
        config = tmp_path / f"{number}.json"
        config.write_text(json.dumps(base("same", "work", seed=number)))
        command = [
            sys.executable, str(SCRIPT), "--configPath", str(config), "--broker", two.one.address,
            "--topic", two.one.settings.jobs_topic, "--key", f"key {number}", "--wait",
        ]  # fmt: skip
        senders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = [sender.communicate(timeout=60)[0] for sender in senders]
    assert sorted(sender.returncode for sender in senders) == [0, 1, 1, 1], said
    for sender, text in zip(senders, said, strict=True):
        assert (REASON in text) == (sender.returncode == 1), text
