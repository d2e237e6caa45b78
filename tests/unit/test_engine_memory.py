"""What cannot fit in memory is refused before it is allocated, and the message does the sum."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_scenes import tiny_scene

from nerfcore.checkpoint import load_checkpoint, save_checkpoint
from nerfcore.errors import SettingsError
from nerfcore.field import memory
from nerfcore.field.lazy import LazyExperts
from nerfcore.field.memory import (
    Need,
    keeps_dense_gradients,
    require_memory,
    scene_needs,
    training_needs,
)
from nerfcore.field.parameters import Architecture
from nerfcore.field.workers import worker_count
from nerfcore.machine import FreeMemory
from nerfcore.scene import new_scene
from nerfcore.settings import HashGridSettings, ModelSettings, SamplingSettings
from nerfcore.training.adam import Adam
from nerfcore.training.learner import Learner
from nerfcore.training.settings import TrainSettings
from nerfcore.training.start import continued_scene, require_training_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MB = 10**6
SETTINGS = ModelSettings(grid=HashGridSettings(log2_size=24, max_resolution=65536))
LARGE = Architecture.of(SETTINGS)


@pytest.fixture
def free_mb(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Sets what a control group leaves free, in MB."""

    def leave(megabytes: float) -> None:
        source = Path("/sys/fs/cgroup/memory.max")
        left = FreeMemory(round(megabytes * MB), source)
        monkeypatch.setattr(memory, "free_memory", lambda: left)

    return leave


def test_the_message_does_the_sum(free_mb) -> None:  # type: ignore[no-untyped-def]
    """3 x 1000 MB + 500 MB in 4300 MB: 80 % of it are 3440 MB."""
    needs = [Need("parameters", 3, 1000 * MB), Need("occupancy", 1, 500 * MB)]
    free_mb(4376)
    require_memory("log2_hashmap_size 24", needs)
    free_mb(4300)
    with pytest.raises(SettingsError) as refusal:
        require_memory("log2_hashmap_size 24", needs)
    assert str(refusal.value) == (
        "log2_hashmap_size 24: parameters 3 x 1000 MB + occupancy 1 x 500 MB = 3.50 GB, but of "
        "4.30 GB free (/sys/fs/cgroup/memory.max) 80% may be taken, 3.44 GB; choose a smaller "
        "log2_hashmap_size or fewer experts"
    )


def test_each_device_has_its_own_sum(
    monkeypatch: pytest.MonkeyPatch,
    free_mb,  # type: ignore[no-untyped-def]
) -> None:
    """Tables on the GPU, occupancy in the host's memory: neither counts for the other."""
    free_mb(100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000 * MB, 2000 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300 * MB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100 * MB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    require_memory("x", [Need("parameters", 9, 100 * MB, CUDA), Need("occupancy", 1, 80 * MB)])
    with pytest.raises(
        SettingsError, match=r"9 x 110 MB = 0\.99 GB, but of 1\.20 GB free \(a GPU\)"
    ):
        require_memory("x", [Need("parameters", 9, 110 * MB, CUDA), Need("occupancy", 1, 1)])


@pytest.mark.parametrize(
    ("dense", "inner", "copies"),
    # of 5 experts: parameters, 2 moments (and a gradient); of one: 4 to update; the inner loop's
    [
        (False, 0, 3 * 5),
        (False, 3, 3 * 5 + 3),
        (True, 0, 4 * 5 + 4),
        (True, 4, 4 * 5 + 4 + 4),
    ],
)
def test_training_is_counted_as_it_is_held(dense: bool, inner: int, copies: int) -> None:
    """In copies of one expert; the compiled step's buffers of one level come on top."""
    needs = scene_needs(LARGE, 5, 0, CPU)
    needs += training_needs(LARGE, 5, CPU, dense=dense, inner=inner)
    whole = sum(n.bytes for n in needs if n.piece_bytes == LARGE.bytes())
    assert whole == copies * LARGE.bytes()
    levels = [n for n in needs if n.what == "level gradients"]
    assert bool(levels) != dense
    assert all(n.piece_bytes == 4 * 2 * 2**24 for n in levels)


def test_the_optimiser_holds_what_is_counted() -> None:
    """Moments and occupancy of a real model against the sum, to the byte."""
    scene = tiny_scene(1, 2)
    grid, parameters = scene.occupancy, scene.experts[0]
    arrays = (grid.allowed, grid.occupied, grid.opacity, grid._seen)
    bits = 2 * len(grid.occupied) / 8
    held = sum(a.nbytes for a in arrays) + bits
    (cells,) = [n.bytes for n in scene_needs(scene.architecture, 2, len(grid.opacity), CPU)[1:]]
    assert held <= cells <= 1.1 * held
    assert sum(4 * p.numel() for p in parameters.values()) == scene.architecture.bytes()
    adam = Adam()
    adam.update(parameters, {n: torch.ones_like(p) for n, p in parameters.items()},
                {"table": 0.0, "sigma": 0.0, "color": 0.0})  # fmt: skip
    moments = [*adam.first.values(), *adam.second.values()]
    assert sum(4 * m.numel() for m in moments) == memory.MOMENTS * scene.architecture.bytes()


def test_backends_that_keep_gradients_of_whole_tables() -> None:
    """All but the compiled CPU one; on a GPU always."""
    assert not keeps_dense_gradients("auto", CPU) and not keeps_dense_gradients("numba", CPU)
    assert keeps_dense_gradients("torch", CPU) and keeps_dense_gradients("auto", CUDA)
    for backend in ("numba", "torch"):
        splats = tiny_scene(backend=backend).tracer.makes_splats
        assert splats != keeps_dense_gradients(backend, CPU)


def test_a_table_too_large_is_refused_before_allocation(free_mb) -> None:  # type: ignore[no-untyped-def]
    """Not a megabyte is taken on the way to the refusal."""
    scene = tiny_scene(2, 2)
    free_mb(4 * LARGE.bytes() / MB)
    tracemalloc.start()
    with pytest.raises(SettingsError, match=r"log2_hashmap_size 24, 4 experts: parameters 4 x"):
        new_scene(scene.frame, scene.partition, SETTINGS, SamplingSettings(), cell_m=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MB


def test_a_fine_occupancy_counts(free_mb) -> None:  # type: ignore[no-untyped-def]
    """Cells of 2 cm in 40 x 40 x 10 m: the count stops at 160 an axis, 45 MB an expert."""
    scene = tiny_scene(2, 2)
    free_mb(100)
    with pytest.raises(SettingsError, match=r"occupancy 1 x 180\.2 MB"):
        new_scene(scene.frame, scene.partition, scene.settings, scene.sampling, cell_m=0.02)


@pytest.mark.parametrize(("algo", "copies"), [("joint", 6), ("fomaml", 9), ("reptile", 11)])
def test_meta_learning_needs_room_for_a_copy(free_mb, algo: str, copies: int) -> None:  # type: ignore[no-untyped-def]
    """Two experts with their moments are 6 copies of one, with an inner loop more."""
    settings = TrainSettings(algo=algo, model=SETTINGS, device="cpu")  # type: ignore[arg-type]
    dims = np.ones((2, 3), np.int32)
    room = copies * LARGE.bytes() / MB / memory.MEMORY_SHARE
    free_mb(room + 200 * worker_count())
    require_training_memory(settings, dims)
    free_mb(room)
    with pytest.raises(SettingsError, match=f'2 experts, algo "{algo}": parameters 2 x'):
        require_training_memory(settings, dims)


def test_going_on_from_a_checkpoint_is_checked_before_it_is_read(
    tmp_path: Path,
    free_mb,  # type: ignore[no-untyped-def]
) -> None:
    """Its tables are gone: whoever read them would say so instead."""
    scene = tiny_scene(2, 2)
    folder = save_checkpoint(scene, tmp_path / "step1", 1)
    for k in range(4):
        (folder / f"expert_{k:02d}.safetensors").unlink()
    settings = TrainSettings(model=scene.settings, device="cpu")
    free_mb(0.1)
    with pytest.raises(SettingsError, match=r"4 experts.* = .* GB, but of 0\.00 GB free"):
        continued_scene(None, settings, None, folder)  # type: ignore[arg-type]


def test_loading_all_experts_at_once_is_checked(tmp_path: Path, free_mb) -> None:  # type: ignore[no-untyped-def]
    """By the reader, and again where experts read on demand must all be held."""
    folder = save_checkpoint(tiny_scene(2, 2), tmp_path / "step1", 1)
    lazy = load_checkpoint(folder, "cpu", budget_bytes=0)
    free_mb(0.1)
    with pytest.raises(SettingsError, match="4 experts: parameters 4 x"):
        load_checkpoint(folder, "cpu")
    with pytest.raises(SettingsError, match=r"4 experts of the checkpoint: parameters 4 x .* \+ "):
        Learner(lazy, np.random.default_rng(0))
    assert isinstance(lazy.experts, LazyExperts) and lazy.experts.held == []
    free_mb(1000)
    Learner(lazy, np.random.default_rng(0))
    assert lazy.experts.held == [0, 1, 2, 3]
