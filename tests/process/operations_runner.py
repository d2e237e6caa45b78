"""The runner's command line with small operations in place of the engine's, for process tests.

The dataset's name chooses what the operation does; everything around it is the real runner.
"""

import errno
import sys
import time
from typing import Any

from nerfcore.errors import (
    BackendUnavailableError,
    CheckpointError,
    DataError,
    NonFiniteError,
    PortInUseError,
)
from runner.__main__ import main
from runner.context import JobContext

DEADLINE_S = 30.0
ERRORS = {
    "data": DataError("photo.jpg: unreadable; replace it"),
    "checkpoint": CheckpointError("expert_00.safetensors: truncated"),
    "nonfinite": NonFiniteError("10 steps in a row were not finite; lower the rates"),
    "backend": BackendUnavailableError("backend torch: not here"),
    "port": PortInUseError("viewer_port 7070: taken"),
    "memory": MemoryError("no room for 8 GB"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "crash": RuntimeError("first line\nsecond line"),
}


def operation(context: JobContext[Any]) -> dict[str, Any]:
    """Succeed, raise or wait for a stop, as the dataset's name says."""
    wish = context.job.dataset
    context.progress.progress("train", 1, 10, loss=float("nan"), psnr=20.0)
    if wish == "wait":
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and not context.stop.is_asked():
            time.sleep(0.01)
        context.stop.raise_if_asked("step 1 of 10 is saved")
    if wish in ERRORS:
        raise ERRORS[wish]
    context.progress.event("checkpoint", path=context.folder.checkpoints / "step1", step=1)
    return {"step": 10, "torch_imported": "torch" in sys.modules}


if __name__ == "__main__":
    sys.exit(main(operations={"train": operation, "eval": operation, "view": operation}))
