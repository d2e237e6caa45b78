"""Starts a real mediator whose runners are `fake_runner.py`: PROJECT BROKER [key=value ...]."""

import sys
from pathlib import Path

from configs import Roots
from kafka_utils.errors import KafkaUtilsError
from mediator.assembly import Settings, serve
from mediator.errors import MediatorError
from mediator.limits import Limits
from mediator.slots import make_slots

FAKE_RUNNER = (sys.executable, str(Path(__file__).with_name("fake_runner.py")))


def _seconds(options: dict[str, str], name: str) -> float | None:
    return float(options[name]) if name in options else None


def _path(options: dict[str, str], name: str) -> Path | None:
    return Path(options[name]) if name in options else None


def main() -> int:
    """Serve until a signal; return the exit code."""
    project, broker, *pairs = sys.argv[1:]
    options = dict(pair.split("=", 1) for pair in pairs)
    settings = Settings(
        roots=Roots.below(Path(project), None, _path(options, "logs")),
        slots=make_slots((), int(options.get("slots", 1)), 1),
        topic=options.get("topic", "nerfConfigs"),
        group_id=options.get("group", f"group of {options.get('topic')}"),
        broker=None if broker == "none" else broker,
        broker_wait_s=float(options["broker_wait_s"]) if "broker_wait_s" in options else None,
        cleanup="cleanup" in options,
        grace_s=float(options.get("grace_s", 5)),
        lease_s=float(options["lease_s"]) if "lease_s" in options else None,
        limits=Limits(
            wait_s=_seconds(options, "wait_s"),
            run_s=_seconds(options, "run_s"),
            progress_s=_seconds(options, "progress_s"),
            max_attempts=int(options.get("max_attempts", 1)),
            backoff_s=0.05,
            log_bytes=int(options.get("log_bytes", 10**6)),
        ),
        detach="detach" in options,
    )
    try:
        serve(settings, FAKE_RUNNER)
    except (MediatorError, KafkaUtilsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
