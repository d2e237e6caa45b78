"""Experts are read when rays first meet them, and the least recently used are given up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene

from nerfcore.checkpoint import load_checkpoint
from nerfcore.checkpoint.files import save_checkpoint
from nerfcore.field.lazy import LazyExperts
from nerfcore.training.learner import Learner


def fake_experts(budget: int) -> tuple[LazyExperts, list[int]]:
    """Five experts of ten bytes, and the log of loads."""
    loads: list[int] = []

    def load(expert: int) -> dict[str, torch.Tensor]:
        loads.append(expert)
        return {"sigma.0": torch.full((1, 1), float(expert))}

    return LazyExperts(5, load, 10, budget), loads


def test_least_recently_used_goes_first() -> None:
    experts, loads = fake_experts(25)  # two fit
    for k in (0, 1, 0, 2):
        assert float(experts[k]["sigma.0"]) == k
    assert experts.held == [0, 2] and loads == [0, 1, 2]
    assert float(experts[1]["sigma.0"]) == 1 and experts.held == [2, 1]


def test_one_expert_always_fits() -> None:
    experts, _ = fake_experts(0)
    assert [float(e["sigma.0"]) for e in experts] == [0, 1, 2, 3, 4]
    assert experts.held == [4]


def test_holding_all_ends_giving_up() -> None:
    experts, loads = fake_experts(0)
    experts.hold_all()
    first = experts[0]
    assert experts.held[-1] == 0 and len(experts.held) == 5
    assert experts[0] is first and loads == [0, 1, 2, 3, 4]


def test_outside_indices_are_refused() -> None:
    with pytest.raises(IndexError, match="expert 5 of 5"):
        fake_experts(0)[0][5]


def test_rendering_reads_only_the_experts_that_rays_meet(tmp_path: Path) -> None:
    scene = tiny_scene(2, 2, margin=1.0)
    folder = save_checkpoint(scene, tmp_path / "step1", 1)
    again = load_checkpoint(folder, "cpu", budget_bytes=1 << 30)
    assert isinstance(again.experts, LazyExperts) and again.experts.held == []
    down = np.array([[1.0, 0, 0]], np.float32)
    corner = np.array([[-2.0, -0.6, -0.6]], np.float32)
    again.render_rays(corner, down)
    assert again.experts.held == [0]
    rays = rays_into(50)
    found, expected = again.render_rays(*rays), scene.render_rays(*rays)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))


def test_a_learner_holds_all_experts(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_scene(2, 2), tmp_path / "step1", 1)
    scene = load_checkpoint(folder, "cpu", budget_bytes=0)
    Learner(scene, np.random.default_rng(0))
    assert isinstance(scene.experts, LazyExperts) and len(scene.experts.held) == 4
