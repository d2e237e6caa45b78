"""Which job runs next, and where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator.errors import SettingsError
from mediator.records import Waiting
from mediator.scheduler import plan, pool_of
from mediator.slots import Pool, SlotPool, make_slots, parse_devices
from mediator.states import JobState

ONE_EACH = {Pool.WORK: 1, Pool.VIEW: 1}


def known(**states: JobState):
    """Give a lookup of job states."""
    return states.get


def _started(waiting: list[Waiting], free: dict[Pool, int], **states: JobState) -> list[str]:
    return [job_id for job_id, _ in plan(waiting, free, known(**states)).start]


def test_first_come_first_served() -> None:
    """Work in order; a view job that shares a slot does not wait for it."""
    waiting = [
        Waiting("a", False, None), Waiting("b", False, None), Waiting("v", True, None),
    ]  # fmt: skip
    assert plan(waiting, ONE_EACH, known()).start == (("a", Pool.WORK), ("v", Pool.VIEW))
    assert _started(waiting, {Pool.WORK: 2, Pool.VIEW: 0}) == ["a", "b"]


def test_a_job_waits_for_its_checkpoint_and_lets_others_pass() -> None:
    """The dependent one starts only after success."""
    waiting = [Waiting("e", False, "t"), Waiting("x", False, None)]
    assert _started(waiting, ONE_EACH, t=JobState.RUNNING) == ["x"]
    assert _started(waiting, ONE_EACH, t=JobState.INTERRUPTED) == ["x"]
    assert _started(waiting, ONE_EACH, t=JobState.SUCCEEDED) == ["e"]


@pytest.mark.parametrize(
    "end", [JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT, JobState.REJECTED]
)
def test_a_job_fails_with_the_job_it_waits_for(end: JobState) -> None:
    """The reason names the other job and its end."""
    chosen = plan([Waiting("e", False, "t")], ONE_EACH, known(t=end))
    assert chosen.start == ()
    ((job_id, reason),) = chosen.fail
    assert job_id == "e"
    assert "job t" in reason and end in reason


jobs = st.lists(
    st.builds(
        Waiting,
        st.uuids().map(str),
        st.booleans(),
        st.sampled_from([None, "done", "running", "failed"]),
    ),
    unique_by=lambda job: job.job_id,
)


@given(jobs, st.integers(0, 3), st.integers(0, 3))
def test_never_more_than_free_and_never_out_of_order(waiting, work: int, view: int) -> None:
    """Each pool is filled in order, as far as there are jobs that may start."""
    states = known(done=JobState.SUCCEEDED, running=JobState.RUNNING, failed=JobState.FAILED)
    free = {Pool.WORK: work, Pool.VIEW: view}
    chosen = plan(waiting, free, states)
    assert not {job_id for job_id, _ in chosen.start} & {job_id for job_id, _ in chosen.fail}
    for pool in Pool:
        may = [j.job_id for j in waiting
               if pool_of(j) is pool and j.waits_for in (None, "done")]  # fmt: skip
        started = [job_id for job_id, taken in chosen.start if taken is pool]
        assert started == may[: free[pool]]


def test_devices_and_slots() -> None:
    """GPUs are dealt round; the CPU shows none; None leaves the machine's choice."""
    assert [s.cuda_devices for s in make_slots(parse_devices("0,1"), None, 1)] == ["0", "1", "0"]
    assert [s.cuda_devices for s in make_slots(parse_devices("cpu"), 2, 0)] == ["", ""]
    assert [s.cuda_devices for s in make_slots(parse_devices("None"), None, 0)] == [None]


@pytest.mark.parametrize("text", ["gpu", "0,,1", "-1", "0,0", "²"])
def test_wrong_devices_are_refused(text: str) -> None:
    """The message says what to write."""
    with pytest.raises(SettingsError, match="--devices"):
        parse_devices(text)


@pytest.mark.parametrize(("work", "view"), [(0, 1), (65, 1), (1, -1), (1, 65)])
def test_wrong_numbers_of_slots_are_refused(work: int, view: int) -> None:
    """Bounds are named."""
    with pytest.raises(SettingsError, match="64"):
        make_slots(None, work, view)


def test_a_slot_is_free_until_taken_and_after_it_is_given_back() -> None:
    """A slot of an earlier layout does no harm."""
    pool = SlotPool(make_slots((), 2, 0))
    pool.take("work-0")
    pool.take("gone-9")
    assert [s.name for s in pool.free(Pool.WORK)] == ["work-1"]
    pool.give_back("work-0")
    pool.give_back("gone-9")
    assert len(pool.free(Pool.WORK)) == 2
