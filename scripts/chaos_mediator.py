"""A real mediator whose runners are `chaos_runner.py`: PROJECT LOG_ROOT BROKER TOPIC SLOTS."""

import sys
from pathlib import Path

from configs import Roots
from kafka_utils.errors import KafkaUtilsError
from mediator.assembly import Settings, serve
from mediator.errors import MediatorError
from mediator.limits import Limits
from mediator.slots import make_slots

RUNNER = (sys.executable, str(Path(__file__).with_name("chaos_runner.py")))


def main() -> int:
    """Serve until a signal; return the exit code."""
    project, logs, broker, topic, slots, lease_s = sys.argv[1:]
    settings = Settings(
        roots=Roots.below(Path(project), None, Path(logs)),
        slots=make_slots((), int(slots), 0),
        topic=topic,
        group_id="chaos",
        broker=broker,
        grace_s=5.0,
        lease_s=float(lease_s),
        limits=Limits(max_attempts=1000, backoff_s=0.1),
    )
    try:
        serve(settings, RUNNER)
    except (MediatorError, KafkaUtilsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
