"""Owns reading a runner's log while its keeper writes it and cuts its middle (`runner/keeper.py`).

A cut log is a new file under the old name, with a line in it that says how many bytes are gone. So
the old file, still open here, is read to its end, and in the new one the place is found again.
"""

import mmap
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

FOLLOW_S = 0.25
CHUNK_BYTES = 1 << 16
CUT_LINE = re.compile(rb"\n\[\.\.\. (\d+) bytes of this log were cut here: [^\n]*\n")


def follow_log(path: Path, ended: Callable[[], bool], *, follow: bool) -> Iterator[str]:
    """Give a log's text in pieces, and what is added to it until the job has ended.

    Args:
        path: the log; it need not exist yet.
        ended: whether the job has ended.
        follow: wait for more; a log that was cut is gone on with where it was read to, another
            attempt's is read from its beginning.
    """
    handle: BinaryIO | None = None
    read = 0  # bytes of all that was ever written to this log
    try:
        while True:
            last = ended()
            while True:
                if handle is not None:
                    while chunk := handle.read(CHUNK_BYTES):
                        read += len(chunk)
                        yield chunk.decode("utf-8", "replace")
                newer = _other_file(path, handle)
                if newer is None:
                    break
                if handle is not None:
                    handle.close()
                handle, read = newer, _go_to(newer, read)
            if not follow or last:
                return
            time.sleep(FOLLOW_S)
    finally:
        if handle is not None:
            handle.close()


def _other_file(path: Path, handle: BinaryIO | None) -> BinaryIO | None:
    """Open the log if its name leads to another file than the one that is open."""
    try:
        newer = path.open("rb")
    except FileNotFoundError:
        return None
    if handle is not None:
        here, there = _identity(handle), _identity(newer)
        if here == there:
            newer.close()
            return None
    return newer


def _identity(handle: BinaryIO) -> tuple[int, int]:
    status = Path(f"/proc/self/fd/{handle.fileno()}").stat()
    return status.st_dev, status.st_ino


def _go_to(handle: BinaryIO, read: int) -> int:
    """Go to where a log was read to; give how much of all that was written lies before.

    Args:
        handle: the log, just opened.
        read: bytes read of all that was ever written; 0 for its beginning as it is now.
    """
    found = _cut_line(handle) if read else None
    if found is None:
        handle.seek(0)
        return 0
    start, after, cut = found
    if read >= start + cut:
        handle.seek(after + read - start - cut)
        return read
    # what comes next is gone: go on with the line that says so
    handle.seek(min(read, start))
    return min(read, start) + cut - (after - start)


def _cut_line(handle: BinaryIO) -> tuple[int, int, int] | None:
    """Give where the line about the cut begins and ends, and the bytes it tells of."""
    with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = CUT_LINE.search(content)
        return None if match is None else (match.start(), match.end(), int(match[1]))
