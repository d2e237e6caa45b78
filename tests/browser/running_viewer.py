"""A viewer running on a thread, for browser and wire tests."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from boxes_scene import BoxesAdapting, BoxesScene, BoxesVersions

from nerfcore.viewer import ViewEnd, overview_camera, serve

DEADLINE_S = 20.0


@dataclass
class RunningViewer:
    """What a test knows of the viewer it runs.

    Attributes:
        scene: the boxes it shows.
        folder: where screenshots and checkpoints go.
        port: where it listens.
        stop_asked: makes `should_stop` true.
        end: filled when it ended.
    """

    scene: BoxesScene
    folder: Path
    port: int = 0
    stop_asked: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)
    end: list[ViewEnd | BaseException] = field(default_factory=list)
    thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for_end(self) -> ViewEnd | BaseException:
        assert self.thread is not None
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the viewer did not end"
        return self.end[0]


def until(condition: Callable[[], object], what: str, within_s: float = DEADLINE_S) -> None:
    """Wait for a condition, failing by name when it does not come true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def running_viewer(folder: Path, **options) -> Iterator[RunningViewer]:
    """Serve the boxes on a free port until the block ends; `options` override `serve`'s."""
    scene = options.pop("scene", None) or BoxesScene()
    viewer = RunningViewer(scene, folder)

    def note_ready(url: str) -> None:
        viewer.port = int(url.rpartition(":")[2])
        viewer.ready.set()

    settings = {
        "host": "127.0.0.1",
        "port": 0,
        "idle_timeout_s": 120.0,
        "folder": folder,
        "start_camera": overview_camera(scene.frame, None),
        "adapting": BoxesAdapting(scene),
        "versions": BoxesVersions(scene),
        "should_stop": viewer.stop_asked.is_set,
        "on_ready": note_ready,
        "max_side_px": 480,
        **options,
    }

    def run() -> None:
        try:
            viewer.end.append(serve(scene, **settings))
        except BaseException as error:
            viewer.end.append(error)
            viewer.ready.set()
            raise

    viewer.thread = threading.Thread(target=run, name="viewer-under-test", daemon=True)
    viewer.thread.start()
    assert viewer.ready.wait(DEADLINE_S), "the viewer did not start"
    try:
        yield viewer
    finally:
        viewer.stop_asked.set()
        viewer.wait_for_end()
