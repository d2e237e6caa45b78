"""What an adapter keeps: models of earlier moments, and each step's learned share."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_scene import FAST, Stores, painted_stores

from nerfcore.adaptation import Adapter, AdaptSettings
from nerfcore.evaluation.evaluate import camera_of
from nerfcore.field.parameters import Parameters
from nerfcore.scene import SceneModel
from nerfcore.training.inner_rates import InnerRates

PLAIN = AdaptSettings(rays=256, rates=FAST)
LOCAL = AdaptSettings(rays=256, rates=FAST, replay=0.25, exposure=True, local=True)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with painted_stores(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("settings", [PLAIN, LOCAL])
def test_a_snapshot_shows_the_model_of_its_moment_after_later_steps(
    stores: Stores, settings: AdaptSettings
) -> None:
    """Bit for bit, before the first step and between steps, however often one steps and asks."""
    scene, old, new = stores
    camera = camera_of(new, 0)
    adapter = Adapter(scene, new, settings, old=old)
    kept, pictures = [], []
    for steps in (0, 2, 2):
        for _ in range(steps):
            adapter.step()
        kept.append(adapter.snapshot())
        pictures.append(picture(scene, new))
        assert kept[-1].bytes == adapter.snapshot_bytes
    adapter.step()
    assert not kept[0].changed and len(kept[1].changed) == 4
    assert not any((a == b).all() for a, b in pairwise(pictures))
    for snapshot, expected in zip(kept, pictures, strict=True):
        np.testing.assert_array_equal(picture(adapter.shown(snapshot), new), expected)
    rendered = scene.render(camera)
    assert rendered is not None and (rendered.rgb != pictures[-1]).any()


def picture(scene: SceneModel, new: object) -> np.ndarray:
    rendered = scene.render(camera_of(new, 0))  # type: ignore[arg-type]
    assert rendered is not None
    return rendered.rgb


def test_showing_a_snapshot_leaves_the_adaptation_as_it_is(stores: Stores) -> None:
    """Parameters, occupancy and the next step are those of an adaptation without snapshots."""
    scene, _, new = stores
    ends = []
    for keeps in (False, True):
        adapter = Adapter(scene, new, PLAIN)
        for _ in range(3):
            if keeps:
                picture(adapter.shown(adapter.snapshot()), new)
            adapter.step()
        ends.append([v.clone() for own in scene.experts for v in own.values()])
        ends[-1] += [torch.from_numpy(cells) for cells in scene.occupancy.state()]
        adapter.reset()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("local", [False, True])
def test_learned_rates_scale_each_groups_step(stores: Stores, local: bool) -> None:
    """theta' = theta + m (step of Adam): by level, by MLP, by expert; a local copy has its base's.

    One step each from the same state on the same rays, with and without factors.
    """
    scene, old, new = stores
    layout = scene.architecture.layout
    assert layout is not None
    factors = InnerRates(len(scene.experts), layout)
    factors.logs[:] = np.random.default_rng(0).uniform(-1.5, 1.0, factors.logs.shape)
    settings = AdaptSettings(rays=256, rates=FAST, local=local)
    plain, scaled = (
        one_step(scene, Adapter(scene, new, own, old=old if local else None))
        for own in (settings, AdaptSettings(**{**vars(settings), "factors": factors}))
    )
    assert plain.keys() == scaled.keys() and len(plain) > 1
    for (base, name), moved in plain.items():
        own = factors.of(base)
        if name == "table":
            shares = np.repeat(own[: layout.levels], np.diff(layout.offsets))[:, None]
        else:
            shares = np.array(own[layout.levels + ("sigma", "color").index(name.split(".")[0])])
        expected = moved * torch.from_numpy(shares).float()
        assert torch.allclose(scaled[base, name], expected, atol=2e-6), (base, name)
        assert moved.any()


def one_step(scene: SceneModel, adapter: Adapter) -> dict[tuple[int, str], torch.Tensor]:
    """How far one step moves what it changes, by base expert and name; the scene is put back."""
    before = {k: {n: v.clone() for n, v in own.items()} for k, own in enumerate(scene.experts)}
    adapter.step()
    moved: dict[tuple[int, str], torch.Tensor] = {}
    for k, own in enumerate(scene.experts):
        base = k if scene.variants is None else int(scene.variants.bases[k])
        change: Parameters = {name: value - before[base][name] for name, value in own.items()}
        if any(value.any() for value in change.values()):
            assert (scene.variants is None) == (k == base)
            moved |= {(base, name): value for name, value in change.items()}
    adapter.reset()
    return moved
