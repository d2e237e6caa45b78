"""Half a minute of chaos: what `make chaos` does in ten minutes, small."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"
ZERO = (
    "lost", "double_terminal", "run_twice", "repeated_events", "orphans", "zombie_slots",
    "unanswered_garbage", "unanswered_probes", "bad_exits",
)  # fmt: skip


def test_nothing_is_lost_told_twice_run_twice_or_left_over(tmp_path: Path) -> None:
    """Jobs from three clients under kill -9 of mediators, runners and the broker."""
    out = tmp_path / "chaos.json"
    command = [sys.executable, str(SCRIPT), "--jobs", "30", "--seconds", "30", "--garbage", "300",
               "--seed", "7", "--out", str(out)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert out.exists(), done.stderr
    numbers = json.loads(out.read_text())
    assert {name: numbers[name] for name in ZERO} == dict.fromkeys(ZERO, 0), done.stdout
    assert numbers["jobs"] == 30 and numbers["kills"] >= 3
    assert done.returncode == 0
