"""Owns the process that reconstructs: `python -m nerfcore.data.sfm_worker PARENT`.

COLMAP ends its whole process where it cannot go on, so it gets one of its own. The request comes
as JSON on standard input. JSON lines go to standard output: `{"progress": [phase, done, total]}`,
and at the end `{"done": true}`, `{"error": text}`, or `{"os_error": [number, text, file]}`. What
COLMAP itself says goes to standard error. The process ends with its parent.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TextIO

from nerfcore.data.reconstruction import Request, reconstruct_photographs
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import GeoPoint

_PR_SET_PDEATHSIG: Final = 1


def encode_request(request: Request) -> str:
    """Return a request as JSON; its folders become absolute."""
    places = {name: asdict(place) for name, place in request.places.items()}
    folders = {"folder": str(request.folder.absolute()), "work": str(request.work.absolute())}
    return json.dumps({**folders, "names": request.names, "places": places})


def decode_request(text: str) -> Request:
    """Return the request that was encoded."""
    read = json.loads(text)
    return Request(
        folder=Path(read["folder"]),
        work=Path(read["work"]),
        names=tuple(read["names"]),
        places={name: GeoPoint(**place) for name, place in read["places"].items()},
    )


def follow_parent(parent: int) -> None:
    """End this process when the parent ends, at once if it has.

    Args:
        parent: its process id.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def claim_output() -> TextIO:
    """Return standard output for ourselves; what others print goes to standard error."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return channel


def main() -> int:
    """Reconstruct what standard input asks for.

    Returns:
        The exit code: 0, or 1 with the reason on the channel.
    """
    follow_parent(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would go to a disk that is full
    channel = claim_output()

    def tell(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        reconstruct_photographs(
            decode_request(sys.stdin.read()), lambda *progress: tell(progress=progress)
        )
    except DataError as error:
        tell(error=str(error))
        return 1
    except OSError as error:
        tell(os_error=[error.errno, error.strerror, error.filename and str(error.filename)])
        return 1
    tell(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
