"""Checkpoints: exact round trips, pruning, and refusal of what is missing, cut or foreign."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene

from nerfcore.checkpoint import (
    CheckpointStore,
    announce,
    load_checkpoint,
    load_optimiser,
    resolve_checkpoint,
    save_checkpoint,
)
from nerfcore.errors import CheckpointError
from nerfcore.settings import BackendName
from nerfcore.training.learner import Learner, Rates
from nerfcore.training.pixels import RayBatch


def test_round_trip_renders_identically(tmp_path: Path) -> None:
    scene = tiny_scene(2, 1)
    state = scene.occupancy.state()
    state[1][::7] = 0
    scene.occupancy.restore(state)
    folder = save_checkpoint(scene, tmp_path / "step1", 1)
    rays = rays_into(64)
    for backend in ("numba", "torch"):
        again = load_checkpoint(folder, "cpu", backend)
        found, expected = again.render_rays(*rays), scene.render_rays(*rays)
        # Another backend may leave out samples too faint for a quarter of an 8-bit step.
        atol = 0.0 if backend == "numba" else 1e-3
        for a, b in zip(found[:2], expected[:2], strict=True):
            assert np.allclose(a, b, atol=atol, rtol=0)
        assert np.allclose(found[2], expected[2], atol=10 * atol, rtol=0, equal_nan=True)


@pytest.mark.parametrize("writer", ["numba", "torch"])
def test_what_one_backend_trained_the_others_show(tmp_path: Path, writer: BackendName) -> None:
    """Tables that each backend changed itself, in places where no other put them."""
    scene = tiny_scene(2, 1, backend=writer, margin=1.5)
    rays = rays_into(64)
    truth = np.full((64, 3), 0.25, np.float32)
    learner = Learner(scene, np.random.default_rng(0))
    for _ in range(3):
        learner.step(RayBatch(*rays, truth, np.zeros(64, np.int64)), Rates(encoding=0.3))
    folder = save_checkpoint(scene, tmp_path / "step3", 3)
    pictures = {
        reader: load_checkpoint(folder, "cpu", reader).render_rays(*rays)
        for reader in ("numba", "torch")
    }
    own = scene.render_rays(*rays)
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(pictures[writer], own, strict=True)
    )
    for one, other in zip(pictures["numba"][:2], pictures["torch"][:2], strict=True):
        assert np.allclose(one, other, atol=1e-3, rtol=0)  # samples too faint to colour


def test_optimiser_state_round_trip(tmp_path: Path) -> None:
    scene = tiny_scene()
    learner = Learner(scene, np.random.default_rng(0))
    learner.adams[0].step = 7
    learner.adams[0].first["sigma.0"] = torch.full_like(scene.experts[0]["sigma.0"], 0.5)
    folder = save_checkpoint(
        scene, tmp_path / "s", 7, None, (learner.adams, learner.background_adam)
    )
    adams, _ = load_optimiser(folder, scene)
    assert adams[0].step == 7
    assert torch.equal(adams[0].first["sigma.0"], learner.adams[0].first["sigma.0"])


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_scene(), tmp_path / "s", 1)
    path = folder / "expert_00.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"expert_00\.safetensors: \d+ bytes, \d+ expected"):
        load_checkpoint(folder, "cpu")


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_scene(), tmp_path / "s", 1)
    path = folder / "background.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"background\.safetensors: content differs"):
        load_checkpoint(folder, "cpu")


def test_a_missing_file_and_manifest_are_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_scene(), tmp_path / "s", 1)
    (folder / "expert_00.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expert_00\.safetensors: missing"):
        load_checkpoint(folder, "cpu")
    with pytest.raises(CheckpointError, match=r"manifest\.json: missing"):
        load_checkpoint(tmp_path, "cpu")


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_scene(), tmp_path / "s", 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="format_version 99"):
        load_checkpoint(folder, "cpu")


def test_store_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    scene = tiny_scene()
    learner = Learner(scene, np.random.default_rng(0))
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    optimisers = (learner.adams, learner.background_adam)
    for step, psnr in [(1, 10.0), (2, 30.0), (3, 20.0), (4, 21.0), (5, 22.0)]:
        store.save(scene, step, psnr, None, optimisers)
    assert {p.name for p in store.folder.iterdir()} == {"index.json", "step2", "step4", "step5"}
    with_state = {p.parent.name for p in store.folder.glob("step*/optimizer_*")}
    assert with_state == {"step5"}
    assert resolve_checkpoint(tmp_path, "last").name == "step5"
    assert resolve_checkpoint(tmp_path, "best").name == "step2"
    assert resolve_checkpoint(tmp_path / "checkpoints", "step4").name == "step4"
    assert load_checkpoint(resolve_checkpoint(tmp_path, "step2"), "cpu")
    with pytest.raises(CheckpointError, match="there are: step2, step4, step5"):
        resolve_checkpoint(tmp_path, "step3")
    with pytest.raises(CheckpointError, match="allowed are"):
        resolve_checkpoint(tmp_path, "newest")


def test_a_killed_writer_leaves_no_checkpoint(tmp_path: Path) -> None:
    """Leftovers of a killed writer are not checkpoints and are cleared on the next start."""
    folder = tmp_path / "checkpoints"
    (folder / ".tmp-step9-dead").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resolve_checkpoint(tmp_path)
    CheckpointStore(folder)
    assert not list(folder.glob(".tmp-*"))


def test_a_checkpoint_saved_beside_becomes_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("adapted3", "adapted9"):
        save_checkpoint(tiny_scene(), folder / name, 3)
        announce(folder, name)
    assert resolve_checkpoint(tmp_path, "last").name == "adapted9"
    assert resolve_checkpoint(tmp_path, "best").name == "adapted3"
