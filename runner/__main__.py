"""Owns the runner's command line: `python -m runner JOB.json`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs import ExitCode, Roots
from runner.context import Operations
from runner.execute import Request, execute
from runner.logs import begin_log
from runner.stopping import StopRequest

_CODES = "\n".join(f"  {int(code):>3}  {code.kind}: {code.meaning}" for code in ExitCode)


def main(argv: Sequence[str] | None = None, operations: Operations | None = None) -> int:
    """Run the job that the arguments name and return the exit code.

    Args:
        argv: arguments without the program's name; None = the process's own.
        operations: what runs instead of `runner.ops`, by op.
    """
    request = request_of(argv)
    begin_log()
    stop = StopRequest()
    stop.install()
    return int(execute(request, stop, operations))


def request_of(argv: Sequence[str] | None) -> Request:
    """Give what a command line asks for."""
    parser = argparse.ArgumentParser(
        prog="runner",
        description="Run one job in this process; artifacts go to <log root>/<job id>.",
        epilog=f"exit codes:\n{_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="the job's JSON file")
    parser.add_argument("--project-root", type=Path, default=Path(), help="default: here")
    parser.add_argument("--log-root", type=Path, help="default: <project root>/logs")
    parser.add_argument(
        "--data-root",
        type=Path,
        action="append",
        help="where datasets lie; may be given several times; default: <project root>/data",
    )
    given = parser.parse_args(argv)
    project = given.project_root.resolve()
    return Request(given.job, Roots.below(project, given.data_root, given.log_root))


if __name__ == "__main__":
    sys.exit(main())
