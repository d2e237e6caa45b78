"""Owns the running jobs: starts them in slots, follows them, judges their end, finds them again.

`tick` is called by the service's loop and never blocks. The ledger is written before memory
changes, so a transaction that fails for want of disk space is simply tried again on the next tick.
"""

import errno
import logging
import time
import uuid
from collections.abc import Callable, Sequence

from configs.artifacts import JobFolder
from mediator.errors import LedgerWriteError, RunnerStartError
from mediator.events import EventKind
from mediator.failure_record import leave_failure
from mediator.gpus import GpuProbe
from mediator.job_folder import prepare
from mediator.ledger import Ledger
from mediator.limits import Limits, Watchdog, unix_time
from mediator.proc import tree_of
from mediator.process import Launch, RunnerCommand, RunnerProcess, clean_environment, start_runner
from mediator.progress import ProgressTail, Report
from mediator.records import JobRecord
from mediator.run import Run
from mediator.scheduler import plan
from mediator.slot_keeping import SlotKeeper
from mediator.slots import Pool, Slot
from mediator.states import JobState
from mediator.verdict import NOT_STARTED, Ending, Verdict, judge

STUCK_AFTER_S = 30.0
END_GRACE_S = 5.0
LOOK_EVERY_S = 1.0
CENSUS_EVERY_S = 5.0
_log = logging.getLogger("mediator")


class Supervisor:
    """Runs the ledger's queued jobs.

    Args:
        ledger: open for writing.
        slots: every slot there is.
        command: how runners are started.
        limits: how long jobs may take, and what is tried again.
        launch: starts a runner; the warm spawner's, or a cold start.
        tend: keeps the spawner well, about once a second.
        gpus: tells which processes are on the GPUs; None where there is none to ask.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        slots: Sequence[Slot],
        command: RunnerCommand,
        limits: Limits | None = None,
        launch: Launch = start_runner,
        tend: Callable[[], None] | None = None,
        gpus: GpuProbe | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._slots = SlotKeeper(slots, ledger, gpus, clock)
        self._command = command
        self._limits = limits or Limits()
        self._launch = launch
        self._tend = tend
        self._clock = clock
        self.may_start = True
        self._next_look = self._next_census = 0.0
        self._runs: dict[str, Run] = {}
        self._look_for_work = True
        self._stopping = False

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that have a living runner."""
        return tuple(self._runs)

    @property
    def has_new_work(self) -> bool:
        """Whether something may be startable since the last look."""
        return self._look_for_work and self.may_start and not self._stopping

    def wake(self) -> None:
        """Say that a job was queued."""
        self._look_for_work = True

    def tick(self) -> None:
        """Follow the running jobs and start what can be started."""
        for run in list(self._runs.values()):
            self._follow(run)
        if self._slots.released():
            self._look_for_work = True
        due = self._clock() >= self._next_look
        if due or self._look_for_work:
            self._next_look = self._clock() + LOOK_EVERY_S
            self._look_around()
        if self._look_for_work and not self._stopping and self.may_start:
            self._start_what_can_start()
            self._look_for_work = False

    def _look_around(self) -> None:
        """Cancel what is to be cancelled, and end what is out of time."""
        if self._tend is not None:
            self._tend()
        for job_id in self._ledger.to_cancel():
            job = self._ledger.job(job_id)
            if job is not None:
                self._end_job(job_id, JobState.CANCELLED, job.cancel_reason or "cancelled")
        if self._limits.wait_s is not None:
            for job_id in self._ledger.never_begun_since(time.time() - self._limits.wait_s):
                reason = f"waited for longer than {self._limits.wait_s:g} s (--wait-limit-s)"
                self._end_job(job_id, JobState.TIMED_OUT, reason)
        for run in list(self._runs.values()):
            if (reason := run.watchdog.overdue()) is not None and run.end_as is None:
                self._end_job(run.job_id, JobState.TIMED_OUT, reason)
        if self._clock() >= self._next_census:
            self._next_census = self._clock() + CENSUS_EVERY_S
            self._take_census()
        if self._ledger.resting_until(time.time()):
            self._look_for_work = True

    def _take_census(self) -> None:
        """See which processes the runs have, to know them again should they lose their way home.

        Where a slot is given back only when its GPU is clear they are written down too.
        """
        for run in self._runs.values():
            run.process.look()
            if self._slots.is_watched(run.slot):
                self._slots.note(run.slot, run.process.members)

    def _end_job(self, job_id: str, state: JobState, reason: str) -> None:
        """End an unfinished job: at once where nothing runs, else through its processes' end."""
        run = self._runs.get(job_id)
        if run is None:
            self._settle(job_id, Verdict(state, reason), None)
        elif run.end_as is None:
            run.end_as = (state, reason)
            self._push(run, END_GRACE_S)
            _log.info("job %s: asked to stop (%s)", job_id, reason)

    def relinquish(self, job_id: str) -> None:
        """Give a job up that another mediator has taken: end its processes and tell nothing."""
        run = self._runs.get(job_id)
        if run is None:
            self._ledger.give_up(job_id)
        elif not run.given_up:
            run.given_up = True
            self._push(run, 0.0)

    def detach(self) -> None:
        """Start no other job and leave the running ones alone; the next start finds them again."""
        self._stopping = True
        for run in self._runs.values():
            _log.info("job %s: left running", run.job_id)

    def _push(self, run: Run, grace_s: float) -> None:
        now = self._clock()
        run.kill_due = now + grace_s
        run.process.ask_to_stop(now, grace_s)

    def stop(self, grace_s: float) -> None:
        """Ask every runner to save its work and end; start no other."""
        self._stopping = True
        for run in self._runs.values():
            run.asked_to_stop = True
            self._push(run, grace_s)
            _log.info("job %s: asked to stop, grace %g s", run.job_id, grace_s)

    # --- after a restart -------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the jobs an earlier mediator left: running ones by what /proc says of them."""
        for job in self._ledger.jobs(JobState.RUNNING):
            if job.job_id not in self._runs:
                self._find_again(job)
        for job in self._ledger.jobs(JobState.INTERRUPTED):
            self._queue_again(job.job_id)
        self._slots.recover([run.slot for run in self._runs.values()])

    def _find_again(self, job: JobRecord) -> None:
        token = job.run_token or ""
        tree = tree_of(job.process, token)
        if tree:
            process = RunnerProcess(job.process or min(tree, key=lambda p: p.start_ticks), token)
            began = unix_time(job.started_at)
            run = self._new_run(job.job_id, job.slot or "", process, job.progress_offset, began)
            pids = ", ".join(str(member.pid) for member in tree)
            _log.info("job %s: found running (pid %s) and taken up again", run.job_id, pids)
            return
        folder = self._folder(job.job_id)
        left_nothing = not any(
            path.exists() for path in (folder.progress, folder.result_json, folder.failure_json)
        )
        if job.process is None and left_nothing:
            self._ledger.move(job.job_id, JobState.QUEUED, reason="its runner never started")
            return
        tail = ProgressTail(folder.progress, job.progress_offset)
        self._ledger.add_events(job.job_id, tail.read_new(), tail.offset)
        verdict = leave_failure(folder, judge(folder, Ending(exit_code=None)), None)
        self._settle(job.job_id, verdict, None)

    # --- following -------------------------------------------------------------------------

    def _follow(self, run: Run) -> None:
        now = self._clock()
        gone = run.process.advance(now)
        self._tell_progress(run, now, last=gone)
        if not gone:
            self._warn_if_stuck(run, now)
            return
        self._slots.note(run.slot, run.process.members)
        if run.given_up:
            self._ledger.give_up(run.job_id)
        else:
            self._judge(run)
        del self._runs[run.job_id]
        if self._slots.end(run.slot, run.process.members):
            self._look_for_work = True

    def _judge(self, run: Run) -> None:
        """Settle what becomes of a job whose processes are gone."""
        folder, code = self._folder(run.job_id), run.process.exit_code
        stopped = run.asked_to_stop or run.end_as is not None
        verdict = judge(
            folder, Ending(code, stopped, run.process.killed, run.process.keeper_killed)
        )
        if run.end_as is not None and verdict.state is not JobState.SUCCEEDED:
            verdict = Verdict(run.end_as[0], run.end_as[1])
        unasked = verdict.state is JobState.INTERRUPTED and not stopped
        if unasked and self._ledger.count_interruption(run.job_id) > self._limits.max_interruptions:
            reason = (
                f"broken off {self._limits.max_interruptions + 1} times by someone else than the "
                f"mediator, limit {self._limits.max_interruptions}; last: {verdict.reason}"
            )
            verdict = Verdict(JobState.FAILED, reason)
        self._settle(run.job_id, leave_failure(folder, verdict, code), code)

    def _tell_progress(self, run: Run, now: float, *, last: bool) -> None:
        before = run.tail.offset
        reports: list[Report] = run.tail.read_new()
        while last and reports and (more := run.tail.read_new()):
            reports += more
        run.watchdog.see(reports)
        told = run.thinner.pass_on(reports, now) + (run.thinner.release() if last else [])
        if not told:
            return
        try:
            self._ledger.add_events(run.job_id, told, run.tail.offset)
        except LedgerWriteError:
            run.tail.offset = before
            raise
        for kind, data in told:
            if kind is EventKind.VIEWER_READY:
                _log.info("job %s: viewer at %s", run.job_id, data.get("url"))

    def _warn_if_stuck(self, run: Run, now: float) -> None:
        if run.kill_due is not None and now > run.kill_due + STUCK_AFTER_S:
            run.kill_due = now
            _log.error("job %s: its processes survive SIGKILL; slot %s stays taken",
                       run.job_id, run.slot)  # fmt: skip

    def _settle(self, job_id: str, verdict: Verdict, exit_code: int | None) -> None:
        job = self._ledger.job(job_id) if verdict.may_heal else None
        if job is not None and job.failures + 1 < self._limits.max_attempts:
            self._try_again(job, verdict, exit_code)
            return
        self._ledger.move(
            job_id,
            verdict.state,
            reason=verdict.reason,
            exit_code=exit_code,
            data=verdict.data,
        )
        level = logging.WARNING if verdict.state is JobState.FAILED else logging.INFO
        _log.log(level, "job %s: %s%s", job_id, verdict.state,
                 f": {verdict.reason}" if verdict.reason else "")  # fmt: skip
        if verdict.state is JobState.INTERRUPTED and not self._stopping:
            self._queue_again(job_id)

    def _try_again(self, job: JobRecord, verdict: Verdict, exit_code: int | None) -> None:
        pause_s = self._limits.pause_s(job.failures + 1)
        reason = f"attempt {job.attempt} failed ({verdict.reason}); tried again in {pause_s:g} s"
        with self._ledger.transaction():
            self._ledger.put_off(job.job_id, time.time() + pause_s)
            if job.state is JobState.RUNNING:
                self._ledger.move(job.job_id, JobState.INTERRUPTED, reason=reason,
                                  exit_code=exit_code, data=verdict.data)  # fmt: skip
            self._ledger.move(job.job_id, JobState.QUEUED, reason=reason)
        _log.warning("job %s: %s", job.job_id, reason)
        self._look_for_work = True

    def _queue_again(self, job_id: str) -> None:
        self._ledger.move(job_id, JobState.QUEUED, reason="interrupted before; queued again")
        _log.info("job %s: interrupted before; queued again", job_id)
        self._look_for_work = True

    # --- starting --------------------------------------------------------------------------

    def _start_what_can_start(self) -> None:
        free = {pool: len(self._slots.free(pool)) for pool in Pool}
        if not any(free.values()):
            return
        places = self._slots.has_view_places
        ready = self._ledger.startable(
            free[Pool.WORK], free[Pool.VIEW], time.time(), view_places=places
        )
        chosen = plan(ready, free, self._ledger.state_of)
        for job_id, reason in chosen.fail:
            self._settle(job_id, Verdict(JobState.FAILED, reason), None)
        for job_id, pool in chosen.start:
            self._start(job_id, pool)
        # a job that failed here may be the one another waits for, and of one pool's jobs at the
        # head of the queue there may be more than slots
        if chosen.fail or (chosen.start and len(chosen.start) < sum(free.values())):
            self._start_what_can_start()

    def _start(self, job_id: str, pool: Pool) -> None:
        job = self._ledger.job(job_id)
        if job is None:
            return
        slot = self._slots.free(pool)[0]
        folder = self._folder(job_id)
        try:
            prepare(folder, job.spec, job.attempt)
        except OSError as error:
            reason = f"the job's folder {folder.root} cannot be written: {error}"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._settle(job_id, Verdict(JobState.FAILED, reason, may_heal=full), None)
            return
        token = uuid.uuid4().hex
        attempt = self._ledger.begin_run(job_id, slot.name, token)
        try:
            process = self._launch(
                self._command.for_job(folder.job_json),
                clean_environment(token, slot.cuda_devices),
                self._command.project_root,
                folder.runner_log,
                self._limits.log_bytes,
            )
        except RunnerStartError as error:
            verdict = Verdict(JobState.FAILED, str(error), may_heal=True)
            self._settle(job_id, leave_failure(folder, verdict, None, NOT_STARTED), None)
            return
        run = self._new_run(job_id, slot.name, process, 0, time.time())
        self._ledger.record_process(job_id, process.identity)
        self._slots.note(slot.name, process.members)
        process.begin()
        # the runner begins meanwhile; only a power cut, which ends it too, could come between
        self._ledger.make_lasting()
        _log.info("job %s: running (attempt %d, slot %s, pid %d)",
                  run.job_id, attempt, slot.name, process.identity.pid)  # fmt: skip

    def _new_run(
        self, job_id: str, slot: str, process: RunnerProcess, offset: int, began: float
    ) -> Run:
        tail = ProgressTail(self._folder(job_id).progress, offset)
        run = Run(job_id, slot, process, tail, Watchdog(self._limits, began))
        self._runs[job_id] = run
        self._slots.take(slot)
        return run

    def _folder(self, job_id: str) -> JobFolder:
        return JobFolder(self._command.log_root / job_id)
