"""A while of random control changes and reconnecting clients: memory flat, no thread left behind.

Some seconds by default; an hour with SKYLINE_LONG_TESTS=1.
"""

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxes_scene import BoxesScene, boxes_photographs
from running_viewer import RunningViewer, running_viewer, until
from wire import WireClient

from nerfcore.geometry.aiming import looking_at
from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.colours import Show
from nerfcore.viewer.look import Compare

IS_LONG = os.environ.get("SKYLINE_LONG_TESTS") == "1"
SOAK_S = 3600.0 if IS_LONG else 20.0
WARM_UP_SHARE = 0.4
# In some seconds caches are still filling (photographs, threads of the pool): a leak of a view or
# a picture a visit shows all the same.
GROWTH = 1.05 if IS_LONG else 1.2
LATEST_END_S = 15.0
pytestmark = [
    pytest.mark.filterwarnings("ignore:Queued a .* on a closed connection"),
    pytest.mark.timeout(SOAK_S + 300),
]


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def random_value(rng: np.random.Generator, label: str) -> Any:
    """A value that a person could give this control; buttons take True."""
    choices: dict[str, list[Any]] = {
        "Show": [show.value for show in Show],
        "Compare with": [kind.value for kind in Compare],
        "Background": ["Black", "White", "Sky of the model"],
        "Expert": ["All", "0", "1"],
        "Flight": ["first flight", "batch_0001"],
        "Version": ["step100", "step200"],
        "Look": ["Down", "North", "East", "South", "West"],
        "Move": ["Closer", "Away"],
        "Next": ["◀ previous", "next ▶"],
        "Key frames": ["Undo", "Clear", "Show"],
        "Go to": ["47, 8", "nonsense", "47.0005, 8.0005"],
        "Exposure": [-1.0, 0.0, 2.5],
        "Gamma": [0.5, 1.0, 2.0],
        "Compare": [0.0, 30.0, 100.0],
        "Photograph": [1, 2, 4],
        "Near (m)": [0.0, 50.0],
        "Far (m)": [0.0, 40.0, 400.0],
        "Samples, still": [0, 64],
        "Samples, moving": [0, 16],
        "Crop box": [True, False],
        "Pick points": [True, False],
        "Show cameras": [True, False],
    }
    buttons = [
        "Reset view", "Jump there", "Go there", "Clear points", "Use preset", "Add this view",
        "Start adaptation", "Pause", "Single step", "Stop adaptation", "Reset adaptation",
        "Load version",
    ]  # fmt: skip
    if label in buttons:
        return True
    return rng.choice(np.array(choices[label], dtype=object)) if label in choices else None


def visit(viewer: RunningViewer, rng: np.random.Generator) -> None:
    """Come, move, turn some knobs, and leave at any moment."""
    with WireClient(viewer.port) as client:
        client.wait_for_control("Start adaptation")
        for _ in range(int(rng.integers(1, 12))):
            place = [0.0, *rng.uniform(-1.5, 1.5, 2)]
            client.look(looking_at(place, [0.8, 0.0, 0.0], 320, 240, 0.9))
            if "Show" not in client.controls:
                client.wait_for_control("Show")
            label = str(rng.choice(sorted(client.controls)))
            value = random_value(rng, label)
            if value is not None:
                client.set_control(label, value)
            if rng.random() < 0.5:
                client.picture(within_s=20.0)


def living_views() -> list[ClientView]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, ClientView)]


def test_memory_is_flat_and_no_thread_is_left(tmp_path):
    threads_before = set(threading.enumerate())
    rng = np.random.default_rng(0)
    scene = BoxesScene()
    warm = 0
    with running_viewer(
        tmp_path, scene=scene, max_side_px=320, photographs=boxes_photographs(tmp_path, scene)
    ) as viewer:
        began = time.monotonic()
        visits = 0
        while (elapsed := time.monotonic() - began) < SOAK_S:
            visit(viewer, rng)
            visits += 1
            assert not viewer.end, f"the viewer ended after {visits} visits: {viewer.end}"
            if elapsed < WARM_UP_SHARE * SOAK_S:
                gc.collect()
                warm = max(warm, resident_bytes())
        until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("view-")],
            "the views' threads ended",
            LATEST_END_S,
        )
        gc.collect()
        grown = resident_bytes() / warm
        # A control's action or the map may hold one for a moment after its own thread has ended.
        until(lambda: not living_views(), "views of gone clients are freed", LATEST_END_S)
        assert scene.most_users == 1, "renders and steps take turns"
    until(lambda: set(threading.enumerate()) <= threads_before, "threads ended", LATEST_END_S)
    print(f"{visits} visits in {SOAK_S:.0f} s, memory {grown:.3f} of what it was after warming up")
    assert visits > 5
    assert grown < GROWTH, f"memory grew by {grown - 1:.1%} over {visits} visits"
