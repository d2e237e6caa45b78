"""Stands in for `python -m runner`: does what the job's `dataset` field tells it to.

Behaviours are words with an optional number, joined by "+": `sleep:2` works for that many seconds
and ends early by SIGTERM, `deaf` ignores SIGTERM, `grandchild` leaves a process behind, `escapee`
leaves one behind in a session of its own, `exit:N` ends with that code and no files, `fail` writes
failure.json, `noresult` ends well without a result, `garbage` writes a broken progress line,
`hold:PATH` works until that file exists, `saves` leaves a checkpoint at the beginning; one that is
there already is named in the log.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

INTERRUPTED = 75


def main() -> int:
    """Do what the job says; return the exit code."""
    job_json = Path(sys.argv[1])
    job = json.loads(job_json.read_text())
    folder = job_json.parent
    words = dict((*word.split(":", 1), "")[:2] for word in job["dataset"].split("+"))
    stopped: list[int] = []
    if "deaf" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with (folder / "runs.txt").open("a") as handle:
        handle.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}\n")
    progress = (folder / "progress.jsonl").open("a")

    def tell(**record: object) -> None:
        progress.write(json.dumps(record) + "\n")
        progress.flush()

    print("fake runner at work", flush=True)
    if (folder / "checkpoints/index.json").exists():
        print("going on from", (folder / "checkpoints/index.json").read_text(), flush=True)
    elif "saves" in words:
        (folder / "checkpoints/step1").mkdir(parents=True)
        (folder / "checkpoints/step1/weights").write_text("1")
        (folder / "checkpoints/index.json").write_text('{"last": "step1"}')
    tell(event="progress", phase="train", step=1, total=2, loss=float("nan"))
    if "garbage" in words:
        progress.write("{broken\n")
    if "grandchild" in words:
        subprocess.Popen(["sleep", "300"])
    if "escapee" in words:
        subprocess.Popen(["sleep", "300"], start_new_session=True)
    until = time.monotonic() + float(words.get("sleep", 0))
    held = Path(words["hold"]) if "hold" in words else None
    while time.monotonic() < until or (held is not None and not held.exists()):
        if stopped:
            return INTERRUPTED
        time.sleep(0.02)
    tell(event="checkpoint", path="checkpoints/step2")
    tell(event="progress", phase="train", step=2, total=2, loss=0.5)
    return end(words, folder)


def end(words: dict[str, str], folder: Path) -> int:
    """Leave what the words say; return the exit code."""
    if "fail" in words:
        failure = {"kind": "bad_data", "message": "image 7 is missing", "traceback": "..."}
        (folder / "failure.json").write_text(json.dumps(failure))
        return 11
    if "exit" in words:
        return int(words["exit"])
    if "noresult" not in words:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "index.json").write_text('{"last": "step2"}')
        (folder / "result.json").write_text(json.dumps({"artifacts": ["checkpoints/step2"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
