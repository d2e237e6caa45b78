"""Owns the plain values the ledger stores and gives back."""

from dataclasses import dataclass, field

from mediator.states import JobState


@dataclass(frozen=True)
class Source:
    """Where a message came from; unique over restarts of any broker, as the cluster id is in it.

    Attributes:
        cluster_id: the broker's cluster id ("" when it names none).
        topic: the topic.
        partition: the partition, from 0.
        offset: the offset in the partition, from 0.
        digest: of the message's time and content, to know it from another one that came to the
            same place after its topic was made anew; "" where it is not known.
    """

    cluster_id: str
    topic: str
    partition: int
    offset: int
    digest: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.cluster_id}/{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, safe against reuse of its number.

    Attributes:
        boot_id: the kernel's boot id.
        pid: the process number; the runner's session has the same number.
        start_ticks: the start time in clock ticks since boot (field 22 of /proc/PID/stat).
    """

    boot_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True)
class NewJob:
    """A job that passed every check and is about to be written down.

    Attributes:
        job_id: its id, given or derived from the message's source.
        op: train, eval or view.
        spec: the whole spec as canonical JSON, defaults filled in, with the job id.
        spec_sha256: hash of the spec without the job id and without values equal to the default.
        waits_for: the job whose checkpoint this one starts from, when that job is in the ledger.
        priority: larger runs first; jobs of one priority run in the order they came.
    """

    job_id: str
    op: str
    spec: str
    spec_sha256: str
    waits_for: str | None = None
    priority: int = 0


@dataclass(frozen=True)
class Watch:
    """A job of another mediator, with the message that would bring it here.

    Attributes:
        message: the message itself where no mediator has claimed the job yet.
    """

    job: NewJob
    source: Source
    message: bytes | None = None


@dataclass(frozen=True)
class Control:
    """A request about a job.

    Attributes:
        op: "cancel" or "retry".
        job_id: the job.
        source: the message it came with, as text; unique.
        epoch: the job's when the request was read; 0 where the job was not known.
    """

    op: str
    job_id: str
    source: str
    epoch: int = 0

    def cancels(self, anew_epoch: int) -> bool:
        """Tell whether it cancels a job: not one queued anew on request since.

        Args:
            anew_epoch: the epoch in which that was last done; 1 where it never was.
        """
        return self.op == "cancel" and max(self.epoch, 1) >= anew_epoch


@dataclass(frozen=True)
class JobRecord:
    """One row of the ledger's jobs table; times are ISO 8601 UTC.

    Attributes:
        epoch: how often the job began under a new owner or anew on request, from 1; a higher one
            fences lower ones out.
        claimed: the status topic has shown that no other mediator was first; only then it runs.
        failures: attempts that failed in a way that may heal.
        not_before: Unix time before which it is not tried again, s.
        cancel_reason: why it is to be cancelled; None while nobody asked.
        interruptions: attempts of this epoch that were broken off though nobody here asked for it.
        message_kept: its message was put on the status topic too.
        anew_epoch: the epoch in which it was last queued anew on request; 1 where it never was.
    """

    job_id: str
    op: str
    spec: str
    spec_sha256: str
    state: JobState
    priority: int
    sequence: int
    attempt: int
    waits_for: str | None
    slot: str | None
    run_token: str | None
    process: ProcessIdentity | None
    received_at: str
    started_at: str | None
    ended_at: str | None
    reason: str | None
    exit_code: int | None
    event_seq: int
    progress_offset: int
    epoch: int
    claimed: int
    failures: int
    not_before: float
    cancel_reason: str | None
    source_cluster: str
    source_topic: str
    source_partition: int
    source_offset: int
    interruptions: int
    message_kept: int
    anew_epoch: int

    @property
    def source(self) -> Source:
        """The message it came with."""
        return Source(
            self.source_cluster, self.source_topic, self.source_partition, self.source_offset
        )


@dataclass(frozen=True)
class Waiting:
    """A queued job as the scheduler sees it; `shares`: it takes a view place, not a work slot."""

    job_id: str
    shares: bool
    waits_for: str | None


@dataclass(frozen=True)
class OutboxEntry:
    """A message the mediator owes the broker."""

    entry_id: int
    topic: str
    key: str | None
    payload: bytes
    headers: tuple[tuple[str, str], ...] = field(default=())
