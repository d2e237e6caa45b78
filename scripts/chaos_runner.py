"""The real runner with a small operation in place of the engine's: chaos runs a thousand of these.

`dataset` says how long it works: "work:0.2". Everything around the operation is the real runner.
"""

import sys
import time
from typing import Any

from runner.__main__ import main
from runner.context import JobContext

STEPS = 10


def operation(context: JobContext[Any]) -> dict[str, Any]:
    """Work for as long as the job says, ending early when asked to."""
    length_s = float(context.job.dataset.partition(":")[2] or 0)
    for step in range(STEPS):
        context.stop.raise_if_asked()
        time.sleep(length_s / STEPS)
        context.progress.progress("train", step + 1, STEPS)
    return {"artifacts": []}


if __name__ == "__main__":
    sys.exit(main(operations={"train": operation, "eval": operation, "view": operation}))
