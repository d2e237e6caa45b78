"""Owns living with other mediators: whose a job is, taking over from the dead, giving way.

What is promised, several mediators in one consumer group, each with a log root of its own:

- A job is run by the mediator whose claim (its `queued` event) came first on the status topic; it
  starts only after that mediator has read its own claim there. Two copies of a message on two
  partitions therefore run once.
- Kafka's group membership says who reads a partition. Nothing is committed beyond the lowest offset
  whose job has not ended, so whoever gets a partition reads its unfinished jobs again, finds them
  on the status topic under their owner, and watches them. Where that cannot be (a job that was
  queued anew on request, or one from before the broker lost its log) the owner puts the message on
  the status topic, and all others watch the job; of several that take it over the first claim
  holds, as ever.
- A mediator is gone when it said goodbye (a clean stop) or when nothing of it came on the status
  topic for its lease (10 s embedded broker, 60 s others; it beats four times a lease while it has
  unfinished jobs; an idle one answers when it is asked). Then the watcher claims its jobs under the
  next epoch (`adoption`). They go on from their last checkpoint where storage is shared
  (`inheritance`), else they begin anew.
- A mediator that was merely cut off or paused reads the status topic to its end before it publishes
  anything again; a job with a higher epoch is no longer its own: the runner is ended and nothing of
  it is told. One message that a paused client had handed to librdkafka already can still go out;
  its `seq` is below one seen before, so it is void for every reader.
- A request to cancel means the job as it was then: it still holds after every take-over, not after
  the job was queued anew on request (`requests`).
- Two specs under one id, taken by two mediators at the same moment: the first claim holds, the
  other message gets its dead letter when that shows.
- Cut off for longer than its lease, a mediator's runner may come to its end while another mediator
  runs the job too: then two runs took place, and one is told of.
- A broker that lost its log (an embedded one that was killed) gets the jobs' states told again, and
  nobody takes new jobs before all mediators known within the last week have done so or were silent
  for a lease (`retelling`, `settling`). Messages that no mediator had read are lost with it: their
  sender must publish them again. Who had met nobody before cannot know whose jobs such a broker has
  forgotten: a copy published again may then run twice.
- A job that builds on a job of another mediator runs here where that one's checkpoints can be read,
  else its message is left to the mediator that has them (`placement`).
- The event topic says nothing of a job before its claim has held.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from kafka_utils.errors import KafkaDeliveryError, KafkaQueueFullError
from kafka_utils.message import Message
from mediator.adoption import Adoption
from mediator.answered import Answered
from mediator.broker_link import Line
from mediator.intake import Intake
from mediator.ledger import Ledger
from mediator.offers import Offer
from mediator.peers import MEDIATOR_KEY, Known, SharedMemory
from mediator.records import Control, JobRecord
from mediator.requests import Requests
from mediator.retelling import Retelling
from mediator.settling import Settling
from mediator.states import ENDED, JobState
from mediator.supervisor import Supervisor
from mediator.text import utc_now

EMBEDDED_LEASE_S, LEASE_S = 10.0, 60.0
READ_BURST = 2000
LOOK_EVERY_S = 1.0
NOTE_PEERS_EVERY_S = 30.0
_log = logging.getLogger("mediator")


class Sharing:
    """Keeps this mediator's jobs its own, and those of the dead from being lost.

    Args:
        ledger: open for writing.
        memory: what the status topic says.
        intake: takes what others leave to this mediator.
        adoption: takes jobs over.
        supervisor: runs jobs.
        lease_s: silence after which a mediator is gone, s; None for the broker's default.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        memory: SharedMemory,
        intake: Intake,
        adoption: Adoption,
        supervisor: Supervisor,
        lease_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._intake = intake
        self._adoption = adoption
        self._supervisor = supervisor
        self._wished_lease_s = lease_s
        self._clock = clock
        self._lease_s = lease_s or LEASE_S
        self._line: Line | None = None
        self._caught_up = False
        self._told_all = False
        self._settling = Settling(ledger, memory)
        self._answered = Answered(ledger)
        self._furthest: Mapping[int, Message] = {}
        self.requests = Requests(ledger, memory, supervisor, clock)
        self._heard_itself = True
        self._retelling: Retelling | None = None
        self._offers: list[Offer] = []
        self._in_touch_at: float | None = None
        self._next_look = 0.0
        self._next_beat = 0.0
        self._next_note = 0.0
        self._company: set[str] = set()
        for mediator in ledger.late_peers() - {ledger.mediator}:
            memory.expect(mediator)
        supervisor.may_start = not memory.peers()

    def without_line(self) -> None:
        """Note that there is no broker: with others about, nothing new starts after a lease."""
        if self._memory.peers() and self._in_touch_at is not None:
            silent_s = self._clock() - self._in_touch_at
            self._supervisor.may_start = silent_s < self._lease_s

    def pump(self, line: Line) -> bool:
        """Read what is new on the status topic and act on it.

        Returns:
            True when messages may be taken and events published.
        """
        if line is not self._line:
            self._begin(line)
        late = self._in_touch_at is not None and (
            self._clock() - self._in_touch_at > self._lease_s / 2
        )
        if late:
            _log.warning("out of touch for a while; reading the status topic before going on")
        self._read(line, to_end=late or not self._caught_up)
        self._caught_up = self._caught_up or line.status.at_end()
        if not self._caught_up:
            return False
        if self._in_touch_at is None:
            self.requests.ask_again()
        now = self._in_touch_at = self._clock()
        if not self._supervisor.may_start:
            self._supervisor.may_start = True
            self._supervisor.wake()
        if self._retelling is not None and self._retelling.step():
            _log.info("the states of %d jobs are told again", self._retelling.told)
            self._retelling = None
        self._beat(line, now)
        self._take_offers()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            self._look_after_others(line, now)
        return True

    @property
    def may_take(self) -> bool:
        """Whether new jobs may be taken: every mediator has told a forgetful broker its jobs."""
        return self._settling.settled

    def all_told(self, furthest: Mapping[int, Message]) -> None:
        """Note that nothing is owed to the broker, so this mediator's jobs are all there.

        Args:
            furthest: by partition, the message up to which all are decided.
        """
        self._furthest = furthest
        if not self._told_all and self._retelling is None:
            self._told_all = True
            self._next_beat = 0.0

    @property
    def is_retelling(self) -> bool:
        """Whether the broker is still to hear of jobs that it forgot."""
        return self._retelling is not None

    def look_soon(self) -> None:
        """Look after the jobs of others without delay: one is to be left to another mediator.

        Nothing is done for them before this mediator's own word came back, so one is sent too.
        """
        self._next_look = self._next_beat = 0.0

    def say_goodbye(self, line: Line) -> None:
        """Tell the others that they may have what is left here."""
        if self._memory.peers():
            self._send_beat(line, left=True)

    # --- reading ----------------------------------------------------------------------------

    def _begin(self, line: Line) -> None:
        self._line = line
        self._caught_up = self._told_all = False
        self._furthest = {}
        embedded = line.settings.embedded
        self._lease_s = self._wished_lease_s or (EMBEDDED_LEASE_S if embedded else LEASE_S)
        self._memory.renew_leases()
        self._memory.own_word_at = None
        self._adoption.forget_asking()
        self._retelling = None
        before, cluster = self._ledger.cluster(), _cluster_of(line)
        self._settling.begin(cluster)
        if before != cluster:
            self._retelling = Retelling(self._ledger, cluster)
            if before is not None:
                _log.info("another cluster than before: the states of all jobs are told again")
        self._next_look = self._next_beat = 0.0
        self._in_touch_at = None

    def _read(self, line: Line, *, to_end: bool) -> None:
        changed: dict[str, None] = {}
        controls: list[Control] = []
        kept: list[Offer] = []
        for _ in range(READ_BURST):
            message = line.status.poll(0.02 if to_end and not line.status.at_end() else 0.0)
            if message is None:
                break
            told = self._memory.read(message.key, message.value)
            if told.job_id is not None:
                changed[told.job_id] = None
            if told.control is not None:
                controls.append(told.control)
            if told.offer is not None:
                self._offers.append(told.offer)
            if told.kept is not None:
                kept.append(told.kept)
        if not changed and not controls and not kept:
            return
        # what the topic says of jobs can be read there again
        with self._ledger.transaction(lasting=bool(controls)):
            self._settle_claims(changed)
            for offer in kept:
                self._adoption.keep(offer)
            for control in controls:
                self._ledger.note_control(control, line.settings.jobs_topic, None)
        for control in controls:
            self.requests.apply(control.job_id)
        if controls:
            self._next_beat = 0.0  # who passed a request on waits for a word

    def _settle_claims(self, changed: dict[str, None]) -> None:
        mine: list[tuple[str, int]] = []
        for job_id in changed:
            known = self._memory.known(job_id)
            if known is None:
                continue
            refused = known.state is JobState.REJECTED  # perhaps another message of the same id
            if known.ended and not refused and known.mediator != self._memory.me:
                self._ledger.unwatch(job_id)
                self._ledger.close_cancels(job_id, known.epoch)
            job = self._ledger.job(job_id)
            if job is None:
                continue
            if known.mediator == self._memory.me:
                if not job.claimed and known.epoch == job.epoch:
                    mine.append((job_id, job.epoch))
            elif self._has_lost(job, known):
                self._give_up(job, known)
        if mine:
            self._ledger.mark_claimed(mine)
            self._supervisor.wake()

    def _has_lost(self, job: JobRecord, known: Known) -> bool:
        """Tell whether a job is another mediator's now; a refused message's never was anybody's."""
        if known.state is JobState.REJECTED and job.state is not JobState.REJECTED:
            return False
        refused_here = job.state is JobState.REJECTED and known.state is not JobState.REJECTED
        return refused_here or known.epoch >= job.epoch

    def _give_up(self, job: JobRecord, known: Known) -> None:
        if job.state in ENDED:
            self._ledger.give_up(job.job_id)
            return
        _log.warning("job %s: mediator %s has it now (epoch %d, here %d); given up here",
                     job.job_id, known.mediator, known.epoch, job.epoch)  # fmt: skip
        if known.spec_sha256 != job.spec_sha256:
            self._ledger.note_lost_id(job.job_id)
        self._supervisor.relinquish(job.job_id)

    def _take_offers(self) -> None:
        """Take what others left to this mediator, once it knows all that the topic says of it."""
        while self._offers and self.may_take:
            self._intake.take_offer(self._offers[0])
            del self._offers[0]
            self._supervisor.wake()

    # --- others -----------------------------------------------------------------------------

    def _beat(self, line: Line, now: float) -> None:
        if now < self._next_beat:
            return
        first = self._next_beat == 0.0
        self._next_beat = now + self._lease_s / 4
        at_work = self._ledger.has_unfinished() or self._ledger.watches()
        if first or at_work or self.requests.awaits_word:
            self._send_beat(line, left=False)

    def _send_beat(self, line: Line, *, left: bool) -> None:
        record = {
            "kind": "mediator",
            "mediator": self._memory.me,
            "jobs_topic": line.settings.jobs_topic,
            "time": utc_now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "cluster_id": line.cluster_id if self._told_all else "",
            "left": left,
            "answered": self._answered.record(line, self._furthest) if self._told_all else {},
            "log_root": str(self._intake.roots.logs.resolve()),
        }
        try:
            key = MEDIATOR_KEY + self._memory.me
            line.producer.enqueue(
                line.settings.status_topic, key, json.dumps(record).encode(), None, _unconcerned
            )
        except (KafkaQueueFullError, KafkaDeliveryError) as error:
            _log.debug("no sign of life sent: %s", error)

    def _look_after_others(self, line: Line, now: float) -> None:
        for mediator in set(self._memory.peers()) - self._company:
            _log.info("mediator %s (log root %s) serves topic %s too, jobs are shared with it; to "
                      "keep them apart, give one of the two another --topic",
                      mediator, self._memory.log_root_of(mediator) or "not known",
                      line.settings.jobs_topic)  # fmt: skip
        met = self._company
        self._company = set(self._memory.peers())
        if self._company and (now >= self._next_note or self._company - met):
            self._next_note = now + NOTE_PEERS_EVERY_S
            self._ledger.note_peers(dict.fromkeys(self._company, time.time()))
        self._settling.look(_cluster_of(line), line.cluster_id, self._lease_s)
        ready = self.may_take and self._hears_itself(now)
        if ready:
            self.requests.look_after(self._lease_s)
        if ready and not self._adoption.look_after(self._lease_s):
            self._next_look = 0.0

    def _hears_itself(self, now: float) -> bool:
        """Tell whether the broker passes on signs of life: this mediator's own came back lately.

        While it does not, silence says nothing of the others; afterwards they get a new lease.
        """
        heard_at = self._memory.own_word_at
        hears = heard_at is not None and now - heard_at < self._lease_s / 2
        if hears and not self._heard_itself:
            self._memory.renew_leases()
        self._heard_itself = hears
        return hears


def _cluster_of(line: Line) -> str:
    return f"{line.cluster_id}/{line.settings.status_topic}"


def _unconcerned(reason: str | None) -> None:
    if reason is not None:
        _log.debug("a sign of life was not delivered: %s", reason)
