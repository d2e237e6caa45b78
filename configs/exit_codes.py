"""Owns the runner's exit codes, their kinds (the words in failure.json) and their meanings."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a runner process ended; every code the runner uses on purpose is listed here."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    BAD_SPEC = 10
    BAD_DATA = 11
    BAD_CHECKPOINT = 12
    NON_FINITE = 13
    OUT_OF_MEMORY = 14
    PORT_IN_USE = 15
    BACKEND_UNAVAILABLE = 16
    DISK_FULL = 17
    INTERRUPTED = 75

    @property
    def kind(self) -> str:
        """The snake-case word that failure.json carries."""
        return self.name.lower()

    @property
    def meaning(self) -> str:
        """One sentence for tables and messages."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "the job did what it was asked",
    ExitCode.INTERNAL: "an error nobody foresaw; failure.json holds the traceback",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.BAD_SPEC: "the job's JSON is wrong: a field, a value or a path",
    ExitCode.BAD_DATA: "the dataset, the partition or a photograph is missing or wrong",
    ExitCode.BAD_CHECKPOINT: "the checkpoint is missing, truncated or of another model or scene",
    ExitCode.NON_FINITE: "training or adaptation produced NaN or infinity too often to go on",
    ExitCode.OUT_OF_MEMORY: "main memory or GPU memory ran out",
    ExitCode.PORT_IN_USE: "the viewer's port is taken",
    ExitCode.BACKEND_UNAVAILABLE: "the device or backend the job names cannot be used here",
    ExitCode.DISK_FULL: "the disk is full or its quota is used up",
    ExitCode.INTERRUPTED: "stopped by SIGTERM or SIGINT after saving what there was to save",
}
