"""Starts a real mediator whose runners are `fake_runner.py`: PROJECT BROKER [key=value ...]."""

import sys
from pathlib import Path

from configs import Roots
from kafka_utils.errors import KafkaUtilsError
from mediator.assembly import Settings, serve
from mediator.errors import MediatorError
from mediator.slots import make_slots

FAKE_RUNNER = (sys.executable, str(Path(__file__).with_name("fake_runner.py")))


def main() -> int:
    """Serve until a signal; return the exit code."""
    project, broker, *pairs = sys.argv[1:]
    options = dict(pair.split("=", 1) for pair in pairs)
    settings = Settings(
        roots=Roots.below(Path(project)),
        slots=make_slots((), int(options.get("slots", 1)), 1),
        topic=options.get("topic", "nerfConfigs"),
        group_id=f"group of {options.get('topic')}",
        broker=None if broker == "none" else broker,
        broker_wait_s=float(options["broker_wait_s"]) if "broker_wait_s" in options else None,
        cleanup="cleanup" in options,
        grace_s=float(options.get("grace_s", 5)),
    )
    try:
        serve(settings, FAKE_RUNNER)
    except (MediatorError, KafkaUtilsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
