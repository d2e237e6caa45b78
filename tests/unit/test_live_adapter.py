"""The viewer's adapter over the real one: surveys kept by version and batch, other rates, turns."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from painted_scene import FAST, Stores, painted_stores

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.viewer import AdaptChoice
from runner.ops.live import HELD_SURVEYS, LiveAdapter, Surveys

IMAGES = 8
CHOICE = AdaptChoice("b", 128, 0.0, 0.02, 0.005, 0.005)


class Preparing:
    """Counts who has the model, and the images that were looked over."""

    def __init__(self) -> None:
        self.users = 0
        self.told: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def model(self) -> Iterator[Callable[[], bool]]:
        self.users += 1
        yield lambda: False
        self.users -= 1

    def looked(self, done: int, total: int) -> None:
        assert self.users == 0, "the model is free between two images"
        self.told.append((done, total))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with painted_stores(tmp_path) as opened:
        yield opened


def live(stores: Stores, surveys: Surveys, key: tuple[str, str] | None, **changes) -> LiveAdapter:
    scene, old, new = stores
    settings = AdaptSettings(**{"rays": 128, "rates": FAST, "local": True, **changes})
    has_old = settings.local
    adapter = Adapter(scene, new, settings, old=old if has_old else None)
    return LiveAdapter(adapter, CHOICE.batch, 1e-3, IMAGES, has_old, surveys, key)


def looks(adapter: LiveAdapter) -> list[tuple[int, int]]:
    preparing = Preparing()
    adapter.prepare(preparing)
    return preparing.told


def test_a_version_is_looked_over_once_for_each_batch(stores: Stores) -> None:
    """Given a reset, a version loaded again or other rates, no image is rendered a second time."""
    surveys, every = Surveys(), [(done, IMAGES) for done in range(1, IMAGES + 1)]
    first = live(stores, surveys, ("step100", "b"))
    assert looks(first) == every
    first.step()
    assert looks(first) == []
    first.reset()
    assert looks(live(stores, surveys, ("step100", "b"))) == []
    assert looks(live(stores, surveys, ("step200", "b"))) == every
    assert looks(live(stores, surveys, None)) == every, "an adapted model is another one"
    for number in range(HELD_SURVEYS):
        looks(live(stores, surveys, (f"other{number}", "b")))
    assert looks(live(stores, surveys, ("step100", "b"))) == every


def test_other_rates_go_on_and_other_images_do_not(stores: Stores) -> None:
    adapter = live(stores, Surveys(), ("step100", "b"))
    looks(adapter)
    assert adapter.step().step == 1
    assert adapter.retune(AdaptChoice("b", 64, 0.5, 0.0, 0.0, 0.0))
    assert looks(adapter) == [] and adapter.step().step == 2
    assert not adapter.retune(AdaptChoice("c", 64))


def test_old_images_that_were_not_read_need_another_adapter(stores: Stores) -> None:
    adapter = live(stores, Surveys(), None, local=False)
    assert adapter.retune(CHOICE)
    assert not adapter.retune(AdaptChoice("b", 128, 0.25))
