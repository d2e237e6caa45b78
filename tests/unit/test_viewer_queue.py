"""The render queue: newest pose wins, coarse to fine, no way back, errors do not end it."""

import itertools
import random
import threading
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from queue_pictures import DEADLINE_S, GatedRender, camera_at, picture_of, place_of, until

from nerfcore.viewer.queue import (
    COARSEST_DIVISOR,
    NARROWEST_PX,
    RenderFailedError,
    RenderQueue,
    ladder,
)


@pytest.fixture
def make_queue():
    queues = []

    def make(render, **options):
        queues.append(RenderQueue(render, **options))
        return queues[-1]

    yield make
    for queue in queues:
        queue.close()
    for queue in queues:
        assert queue.join(DEADLINE_S), "the worker outlived its queue"


class TestLadder:
    def test_a_view_within_the_budget_is_one_rung(self):
        camera = camera_at(0.0, 100, 50)
        assert ladder(camera, 5000.0) == (camera,)

    def test_rungs_triple_from_the_largest_that_fits_to_full_size(self):
        rungs = ladder(camera_at(0.0, 640, 480), 80 * 60)
        assert [(c.width_px, c.height_px) for c in rungs] == [
            (80, 60),
            (213, 160),
            (640, 480),
        ]

    @example(127, 3, 1.0)
    @given(st.integers(1, 4096), st.integers(1, 4096), st.floats(1, 1e8, allow_nan=False))
    def test_every_ladder_ends_at_full_size_and_only_grows(self, width, height, rays):
        camera = camera_at(0.0, width, height)
        rungs = ladder(camera, rays)
        widths = [rung.width_px for rung in rungs]
        assert rungs[-1] is camera
        assert widths == sorted(set(widths))
        first = rungs[0]
        is_floor = (
            first.width_px <= 2 * NARROWEST_PX or first.width_px <= width / COARSEST_DIVISOR + 1
        )
        assert len(rungs) == 1 or is_floor or (first.width_px - 1) * (first.height_px - 1) <= rays


class TestQueue:
    def test_a_view_comes_coarse_to_fine(self, make_queue):
        """Given a slow render, one view gives every rung in order, the last at full size."""
        seen = []
        queue = make_queue(
            lambda camera, cancelled: picture_of(camera, busy_s=0.5),
            on_news=lambda: seen.append(queue.get_picture()),
        )
        queue._rays_per_s = 1000.0
        queue.update_camera(camera_at(0.5, 256, 192))
        assert queue.wait_until_still(DEADLINE_S)
        assert [p.camera.width_px for p in seen] == [32, 85, 256]
        assert [p.is_final for p in seen] == [False, False, True]
        assert {p.update for p in seen} == {1}

    def test_a_read_picture_is_not_given_twice(self, make_queue):
        queue = make_queue(lambda camera, cancelled: picture_of(camera))
        assert queue.get_rgb_image() is None
        queue.update_camera(camera_at(0.25))
        assert queue.wait_until_still(DEADLINE_S)
        image = queue.get_rgb_image()
        assert image is not None and image.shape == (48, 64, 3) and image[0, 0, 0] == 0.25
        assert queue.get_rgb_image() is None

    def test_the_same_view_again_is_ignored(self, make_queue):
        render = GatedRender()
        queue = make_queue(render)
        assert queue.update_camera(camera_at(1.0)) == 1
        assert queue.update_camera(camera_at(1.0)) == 1
        assert queue.update_camera(camera_at(2.0)) == 2
        render.gate.release(10)
        assert queue.wait_until_still(DEADLINE_S)
        assert queue.update_camera(camera_at(2.0)) == 2

    def test_only_the_newest_waiting_view_is_rendered(self, make_queue):
        """Given a render under way, of five views asked meanwhile only the last is rendered."""
        render = GatedRender()
        queue = make_queue(render)
        queue.update_camera(camera_at(0.0))
        assert render.has_started.acquire(timeout=DEADLINE_S)
        for place in range(1, 6):
            queue.update_camera(camera_at(float(place)))
        render.gate.release(10)
        assert queue.wait_until_still(DEADLINE_S)
        assert [float(c.c2w[0, 3]) for c in render.started] == [0.0, 5.0]

    def test_a_finer_rung_is_abandoned_for_a_newer_view_but_a_first_rung_is_not(self, make_queue):
        """Given a stream of views, each first rung is finished: a moving camera gets pictures."""
        render = GatedRender(chunks=2)
        seen = []
        queue = make_queue(render, on_news=lambda: seen.append(queue.get_picture()))
        queue._rays_per_s = 64 * 48 / 4 / 0.1
        queue.update_camera(camera_at(1.0))
        assert render.has_started.acquire(timeout=DEADLINE_S)
        render.gate.release(2)
        assert render.has_started.acquire(timeout=DEADLINE_S)
        queue.update_camera(camera_at(2.0))
        render.gate.release(1)
        assert render.has_started.acquire(timeout=DEADLINE_S)
        assert [c.width_px for c in render.abandoned] == [64]
        queue.update_camera(camera_at(3.0))
        render.gate.release(20)
        assert queue.wait_until_still(DEADLINE_S)
        first_rungs = [place_of(p) for p in seen if p.rung == 0]
        assert first_rungs == [1.0, 2.0, 3.0]
        assert seen[-1].is_final and place_of(seen[-1]) == 3.0

    def test_a_refresh_renders_the_same_view_under_a_new_number(self, make_queue):
        queue = make_queue(lambda camera, cancelled: picture_of(camera))
        assert queue.refresh() is None
        queue.update_camera(camera_at(1.0))
        assert queue.refresh() == 2
        assert queue.wait_until_still(DEADLINE_S)
        picture = queue.get_picture()
        assert picture is not None and picture.update == 2 and place_of(picture) == 1.0

    def test_a_patient_refresh_comes_after_the_running_series(self, make_queue):
        """Given a series under way, however many patient refreshes make one more series."""
        render = GatedRender()
        queue = make_queue(render)
        queue.update_camera(camera_at(1.0))
        assert render.has_started.acquire(timeout=DEADLINE_S)
        assert queue.refresh(after_this=True) is None
        assert queue.refresh(after_this=True) is None
        render.gate.release(10)
        until(lambda: queue._ready_mark[0] == 2)
        assert queue.wait_until_still(DEADLINE_S)
        picture = queue.get_picture()
        assert picture is not None and picture.update == 2
        assert queue.refresh(after_this=True) == 3, "nothing runs, so it begins at once"

    def test_an_error_goes_to_the_caller_once_and_the_queue_lives_on(self, make_queue):
        def render(camera, cancelled):
            if camera.c2w[0, 3] == 13.0:
                raise ValueError("unlucky")
            return picture_of(camera)

        queue = make_queue(render)
        queue.update_camera(camera_at(13.0))
        assert queue.wait_until_still(DEADLINE_S)
        with pytest.raises(RenderFailedError, match="view 1: unlucky") as caught:
            queue.get_picture()
        assert isinstance(caught.value.__cause__, ValueError)
        assert queue.get_picture() is None
        assert queue.update_camera(camera_at(13.0)) == 2, "a failed view may be asked for again"
        queue.update_camera(camera_at(14.0))
        assert queue.wait_until_still(DEADLINE_S)
        picture = queue.get_picture()
        assert picture is not None and place_of(picture) == 14.0

    def test_a_listener_that_raises_does_not_end_the_worker(self, make_queue, caplog):
        queue = make_queue(lambda camera, cancelled: picture_of(camera), on_news=lambda: 1 / 0)
        queue.update_camera(camera_at(1.0))
        assert queue.wait_until_still(DEADLINE_S)
        queue.update_camera(camera_at(2.0))
        assert queue.wait_until_still(DEADLINE_S)
        assert queue.get_picture() is not None
        assert "listener of a render queue failed" in caplog.text

    def test_the_first_rung_follows_the_measured_speed(self, make_queue):
        """Given a fast renderer, a moving view soon starts at full size."""
        firsts = []
        queue = make_queue(
            lambda camera, cancelled: picture_of(camera, busy_s=camera.width_px**2 / 1e9),
            on_news=lambda: firsts.append(queue.get_picture()),
        )
        for place in range(5):
            queue.update_camera(camera_at(float(place), 640, 480))
            assert queue.wait_until_still(DEADLINE_S)
        widths = [p.camera.width_px for p in firsts if p.rung == 0]
        assert widths[0] < 640 and widths[-1] == 640

    def test_a_look_at_the_sky_teaches_nothing_about_the_ground(self, make_queue):
        """Given sky a hundred times cheaper, the first rung of the ground is as it was before."""
        speed, firsts = 40_000.0, []

        def render(camera, cancelled):
            is_sky = camera.c2w[0, 3] < 0.0
            cost = camera.width_px * camera.height_px / speed
            shot = picture_of(camera, busy_s=cost / 100 if is_sky else cost)
            shot.rendered.opacity[:] = 0.0 if is_sky else 1.0
            return shot

        queue = make_queue(render, on_news=lambda: firsts.append(queue.get_picture()))
        for place in [*range(1, 6), *range(-9, 0), 7]:
            queue.update_camera(camera_at(float(place), 640, 480))
            assert queue.wait_until_still(DEADLINE_S)
        widths = [p.camera.width_px for p in firsts if p.rung == 0]
        assert widths[-1] <= 1.5 * widths[4], widths

    def test_a_first_rung_that_takes_too_long_begins_again_smaller(self, make_queue):
        """Given a speed taken for far too high, a small picture comes before the large one."""
        started, seen = [], []

        def render(camera, cancelled):
            started.append(camera.width_px)
            while camera.width_px > 200:
                if cancelled():
                    return None
                if len(seen) > 0:
                    break
                time.sleep(0.005)
            return picture_of(camera, busy_s=0.05)

        queue = make_queue(render, on_news=lambda: seen.append(queue.get_picture()))
        queue._rays_per_s = 1e8
        queue.update_camera(camera_at(1.0, 640, 480))
        assert queue.wait_until_still(DEADLINE_S)
        assert started[0] == 640 and seen[0].camera.width_px <= 200
        assert [p.rung for p in seen] == list(range(len(seen))) and seen[-1].is_final
        assert {p.update for p in seen} == {1}

    def test_a_refresh_gives_back_what_the_view_was_asked_with(self, make_queue):
        queue = make_queue(lambda camera, cancelled: picture_of(camera))
        for tag, number in (("first", 1), ("second", 3)):
            assert queue.update_camera(camera_at(1.0), tag) == number
            assert queue.update_camera(camera_at(1.0), tag) == number
            assert queue.refresh() == number + 1
            assert queue.wait_until_still(DEADLINE_S)
            picture = queue.get_picture()
            assert picture is not None and picture.tag == tag

    def test_closing_abandons_even_a_first_rung(self, make_queue):
        render = GatedRender(chunks=1000)
        queue = make_queue(render)
        queue.update_camera(camera_at(1.0))
        assert render.has_started.acquire(timeout=DEADLINE_S)
        queue.close()
        render.gate.release(1)
        assert queue.join(DEADLINE_S)
        with pytest.raises(RuntimeError, match="closed"):
            queue.update_camera(camera_at(2.0))


class TestNoWayBack:
    @settings(max_examples=12, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 4))
    def test_under_many_threads(self, seed, writer_count, reader_count):
        """Whatever the interleaving: no read gives less than what was ready before it began."""
        clock = itertools.count()
        ready: list[tuple[int, int]] = []
        reads: list[tuple[int, int, tuple[int, int]]] = []
        chance = random.Random(seed)

        def render(camera, cancelled):
            for _ in range(chance.randrange(3)):
                time.sleep(0)
                if cancelled():
                    return None
            if chance.random() < 0.1:
                raise ValueError("now and then")
            return picture_of(camera, busy_s=chance.choice([1e-3, 1e-2, 1.0]))

        def note_ready():
            ready.append((next(clock), queue._ready_mark[0]))

        queue = RenderQueue(render, on_news=note_ready)
        done = threading.Event()

        def write(number):
            for turn in range(30):
                queue.update_camera(camera_at(number + turn / 100))
                if turn % 7 == 0:
                    queue.refresh()
                queue.wait_until_still(chance.choice([0.0, 0.0, 1e-3]))

        def read():
            while not done.is_set() or queue._unread is not None:
                began = next(clock)
                try:
                    picture = queue.get_picture()
                except RenderFailedError:
                    continue
                if picture is not None:
                    reads.append((began, next(clock), (picture.update, picture.rung)))

        readers = [threading.Thread(target=read) for _ in range(reader_count)]
        writers = [threading.Thread(target=write, args=(n,)) for n in range(writer_count)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join(DEADLINE_S)
        assert queue.wait_until_still(DEADLINE_S)
        done.set()
        for thread in readers:
            thread.join(DEADLINE_S)
        queue.close()
        assert queue.join(DEADLINE_S)
        assert reads or max(ready, default=(0, 0))[1] == 0
        assert_no_way_back(ready, reads)


def assert_no_way_back(ready, reads):
    """Slow reference: compare every read with every ready picture and every other read."""
    for began, _, mark in reads:
        assert all(update <= mark[0] for at, update in ready if at < began)
    for (_, ended, earlier), (began, _, later) in itertools.permutations(reads, 2):
        if ended < began:
            assert earlier < later


class QueueMachine(RuleBasedStateMachine):
    """The queue against a model: renders advance one chunk at a time, when the machine says."""

    def __init__(self):
        super().__init__()
        self.render = GatedRender(chunks=2)
        self.queue = RenderQueue(self.render)
        self.asked = 0
        self.newest_ready = 0
        self.last_read = (0, -1)

    @rule(place=st.integers(0, 3))
    def update(self, place):
        number = self.queue.update_camera(camera_at(float(place), 128, 96))
        assert self.asked <= number <= self.asked + 1
        self.asked = number

    @precondition(lambda self: self.asked > 0)
    @rule()
    def refresh(self):
        self.asked += 1
        assert self.queue.refresh() == self.asked

    @precondition(lambda self: self.asked > 0)
    @rule(chunks=st.integers(1, 5))
    def let_render_advance(self, chunks):
        self.render.gate.release(chunks)

    @rule()
    def read(self):
        floor = self.newest_ready
        picture = self.queue.get_picture()
        if picture is not None:
            mark = (picture.update, picture.rung)
            assert mark > self.last_read, "a read went back"
            assert picture.update >= floor, "an update older than a ready one was given"
            self.last_read = mark

    @precondition(lambda self: self.asked > 0)
    @rule()
    def rest(self):
        """Left alone, the newest view ends at full size."""
        self.render.gate.release(100)
        assert self.queue.wait_until_still(DEADLINE_S)
        while self.render.gate.acquire(blocking=False):
            pass
        assert self.queue._ready_mark[0] == self.asked

    @invariant()
    def readiness_only_grows(self):
        mark = self.queue._ready_mark
        assert mark[0] >= self.newest_ready
        self.newest_ready = mark[0]

    def teardown(self):
        self.queue.close()
        self.render.gate.release(1000)
        assert self.queue.join(DEADLINE_S)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
