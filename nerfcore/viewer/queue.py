"""Owns the render queue: the newest pose wins and is rendered coarse to fine.

`update_camera` returns at once; one worker thread renders each accepted pose as a series of ever
larger pictures (rungs). The first rung is sized so that it fits the frame budget at the measured
speed, so a moving camera always gets pictures; later rungs are abandoned between chunks of rays as
soon as a newer pose is asked for. The speed is learned from rays that meet something, because
sky is cheap and the next view may hold none; a first rung that takes far longer than it should is
begun again smaller.

No way back: once a picture of update k is ready, read or not, nothing of an earlier update is ever
given out; within an update pictures only get finer. All state lies behind one lock, and pictures
enter it in one place that compares (update, rung) with what was ready before.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.errors import NerfcoreError
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import TimedRender

RenderFunction = Callable[[Camera, Callable[[], bool]], TimedRender | None]

MOVING_BUDGET_S: Final = 0.07
FOLLOWING_BUDGET_S: Final = 0.5
COARSEST_DIVISOR: Final = 32
NARROWEST_PX: Final = 32
GROWTH: Final = 3
LEAST_GROWTH: Final = 1.5
FIRST_GUESS_RAYS_PER_S: Final = 30_000.0
MOST_BUDGETS: Final = 3.0  # of a first rung, before it is begun again smaller
RETREAT: Final = 10.0  # by which the speed is then taken for lower

_log = logging.getLogger(__name__)


class RenderFailedError(NerfcoreError):
    """A render raised; the queue goes on with the next pose. The cause is chained."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One rung of one update.

    Attributes:
        update: number of the update it shows (1, 2, ...).
        rung: 0 is the coarsest of its series.
        is_final: at full size, nothing finer follows.
        camera: the view at this rung's size.
        rendered: colour, depth and opacity.
        busy_s: time the render held the model, s.
        other: the same view before adaptation, where that is compared.
        tag: what the update was asked with.
    """

    update: int
    rung: int
    is_final: bool
    camera: Camera
    rendered: Rendered
    busy_s: float
    other: Rendered | None = None
    tag: object = None


@dataclass(frozen=True, eq=False)
class _Request:
    number: int
    camera: Camera
    budget_s: float
    tag: object


def same_view(a: Camera, b: Camera) -> bool:
    """Say whether two cameras give the same picture."""
    return (
        (a.fx, a.fy, a.cx, a.cy, a.width_px, a.height_px)
        == (b.fx, b.fy, b.cx, b.cy, b.width_px, b.height_px)
    ) and np.array_equal(a.c2w, b.c2w)


def ladder(camera: Camera, first_rays: float) -> tuple[Camera, ...]:
    """Return the series of cameras from coarse to full size, each about three times wider.

    All before the last then cost an eighth of it, so that full size is not kept waiting.

    Args:
        camera: the view at full size.
        first_rays: most rays of the first rung (it is never narrower than `NARROWEST_PX` or
            coarser than 1 / `COARSEST_DIVISOR`, whatever this says).
    """
    full = camera.width_px
    fitting = math.floor(math.sqrt(first_rays * full / camera.height_px))
    first = max(fitting, NARROWEST_PX, math.ceil(full / COARSEST_DIVISOR))
    widths = [full]
    while widths[-1] > LEAST_GROWTH * first:
        following = round(widths[-1] / GROWTH)
        widths.append(following if following >= LEAST_GROWTH * first else first)
    return (*(camera.scaled_to(width) for width in reversed(widths[1:])), camera)


def learned_speed(rays_per_s: float, shot: TimedRender) -> float:
    """Return what a render teaches about the speed of views full of surfaces, rays a second.

    A ray that meets nothing is cheap. So the speed lies between that of the rays that met something
    (as if the others had cost nothing) and that of all rays; an estimate outside goes half way.

    Args:
        rays_per_s: estimated so far.
        shot: the render and its time.
    """
    if shot.busy_s <= 0:
        return rays_per_s
    opacity = shot.rendered.opacity
    met = float(np.clip(np.nan_to_num(opacity), 0.0, 1.0).sum())
    bounded = min(max(rays_per_s, met / shot.busy_s), opacity.size / shot.busy_s)
    return 0.5 * rays_per_s + 0.5 * bounded


class _Patience:
    """Gives a first rung up at the queue's end, or once it has used its time.

    The time counts from the first question, which comes when the render has its turn.
    """

    def __init__(self, limit_s: float, is_closed: Callable[[], bool]) -> None:
        self._limit_s = limit_s
        self._is_closed = is_closed
        self._began: float | None = None
        self.is_over = False

    def __call__(self) -> bool:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self.is_over = now - self._began > self._limit_s
        return self.is_over or self._is_closed()


class RenderQueue:
    """Renders the newest camera asked for, coarse to fine, on a thread of its own.

    Args:
        render: renders one camera; asks its second argument between chunks of rays and returns
            None when that said True.
        on_news: called on the worker thread, without the lock, after a picture or an error became
            ready.
        name: of the worker thread.
    """

    def __init__(
        self,
        render: RenderFunction,
        *,
        on_news: Callable[[], None] | None = None,
        name: str = "render-queue",
    ) -> None:
        self._render = render
        self._on_news = on_news
        self._changed = threading.Condition()
        self._request: _Request | None = None
        self._taken = 0
        self._is_busy = False
        self._ready_mark = (0, -1)
        self._unread: Picture | None = None
        self._error: tuple[int, Exception] | None = None
        self._is_failed = False
        self._is_refresh_due = False
        self._is_closed = False
        self._rays_per_s = FIRST_GUESS_RAYS_PER_S
        self._worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._worker.start()

    def update_camera(self, camera: Camera, tag: object = None) -> int:
        """Ask for a view; the same view and tag again are ignored, unless the render failed.

        Args:
            camera: the view at full size.
            tag: given back with every picture of this view, refreshed ones too.

        Returns:
            The number of the update that shows this view.

        Raises:
            RuntimeError: the queue is closed.
        """
        with self._changed:
            current = self._request
            if (
                current is not None
                and not self._is_failed
                and current.tag == tag
                and same_view(current.camera, camera)
            ):
                return current.number
            return self._ask(camera, MOVING_BUDGET_S, tag)

    def refresh(self, *, after_this: bool = False) -> int | None:
        """Render the newest view again because the scene changed.

        Args:
            after_this: let the running series come to its end first.

        Returns:
            The number of the update that will show it; None before any view, after `close`, and
            where the number is not given yet because a series runs.
        """
        with self._changed:
            if self._request is None or self._is_closed:
                return None
            if after_this and self._has_work():
                self._is_refresh_due = True
                return None
            return self._ask(self._request.camera, FOLLOWING_BUDGET_S, self._request.tag)

    def get_picture(self) -> Picture | None:
        """Return the newest picture not yet returned, or None.

        Raises:
            RenderFailedError: a render failed since the last call (said once).
        """
        with self._changed:
            if self._error is not None:
                (number, cause), self._error = self._error, None
                raise RenderFailedError(f"view {number}: {reason_of(cause)}") from cause
            picture, self._unread = self._unread, None
            return picture

    def get_rgb_image(self) -> NDArray[np.float32] | None:
        """Return the newest unread picture's colour, f32[H, W, 3] sRGB in [0, 1], or None."""
        picture = self.get_picture()
        return None if picture is None else picture.rendered.rgb

    def wait_until_still(self, timeout_s: float) -> bool:
        """Wait until every accepted view is rendered to its end; False when time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work(), timeout_s)

    def is_still(self) -> bool:
        """Say whether every accepted view is rendered to its end."""
        with self._changed:
            return not self._has_work()

    def close(self) -> None:
        """Take no more views and abandon the running render; returns at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the worker's end after `close`; False when it still runs."""
        self._worker.join(timeout_s)
        return not self._worker.is_alive()

    def _ask(self, camera: Camera, budget_s: float, tag: object) -> int:
        if self._is_closed:
            raise RuntimeError("the render queue is closed")
        number = 1 if self._request is None else self._request.number + 1
        self._request = _Request(number, camera, budget_s, tag)
        self._is_failed = False
        self._is_refresh_due = False
        self._changed.notify_all()
        return number

    def _has_work(self) -> bool:
        waiting = self._request is not None and self._request.number > self._taken
        return not self._is_closed and (waiting or self._is_busy)

    def _work(self) -> None:
        while (request := self._next_request()) is not None:
            self._render_series(request)
            with self._changed:
                self._is_busy = False
                if self._is_refresh_due and not self._has_work() and not self._is_closed:
                    self._ask(request.camera, FOLLOWING_BUDGET_S, request.tag)
                self._changed.notify_all()

    def _next_request(self) -> _Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_work())
            if self._is_closed or self._request is None:
                return None
            self._is_busy = True
            self._taken = self._request.number
            return self._request

    def _render_series(self, request: _Request) -> None:
        while self._climb(request):
            self._rays_per_s /= RETREAT
            if self._is_superseded(request.number):
                return

    def _climb(self, request: _Request) -> bool:
        """Render the rungs in turn; True when the first one took too long and was given up."""
        cameras = ladder(request.camera, self._rays_per_s * request.budget_s)
        for rung, camera in enumerate(cameras):
            patience = self._patience_with(camera, request)
            is_abandoned = patience if rung == 0 else self._abandon_rule(request.number)
            try:
                shot = self._render(camera, is_abandoned)
            except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
                self._fail(request.number, error)
                return False
            if shot is None:
                return rung == 0 and patience.is_over and not self._is_closed
            is_final = rung == len(cameras) - 1
            self._rays_per_s = learned_speed(self._rays_per_s, shot)
            self._deliver(
                Picture(
                    request.number, rung, is_final, camera,
                    shot.rendered, shot.busy_s, shot.other, request.tag,
                )
            )  # fmt: skip
            if self._is_superseded(request.number):
                return False
        return False

    def _patience_with(self, camera: Camera, request: _Request) -> "_Patience":
        # The first rung is finished even when a newer pose waits: under a steady stream of poses
        # no picture would ever be ready otherwise.
        is_smallest = ladder(request.camera, 1.0)[0].width_px >= camera.width_px
        limit_s = math.inf if is_smallest else MOST_BUDGETS * request.budget_s
        return _Patience(limit_s, lambda: self._is_closed)

    def _abandon_rule(self, number: int) -> Callable[[], bool]:
        return lambda: self._is_superseded(number)

    def _is_superseded(self, number: int) -> bool:
        with self._changed:
            newest = self._request
            return self._is_closed or newest is None or newest.number > number

    def _deliver(self, picture: Picture) -> None:
        mark = (picture.update, picture.rung)
        with self._changed:
            if self._is_closed or mark <= self._ready_mark:
                return
            self._ready_mark = mark
            self._unread = picture
            if self._error is not None and self._error[0] < picture.update:
                self._error = None
        self._tell()

    def _fail(self, number: int, error: Exception) -> None:
        with self._changed:
            if self._is_closed or number < self._ready_mark[0]:
                return
            self._error = (number, error)
            self._is_failed = self._request is not None and self._request.number == number
        self._tell()

    def _tell(self) -> None:
        if self._on_news is None:
            return
        try:
            self._on_news()
        except Exception:  # noqa: BLE001 - the listener's fault must not end the worker
            _log.exception("the listener of a render queue failed")
