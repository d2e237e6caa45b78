"""Writes and reads one checkpoint folder.

    manifest.json            step, architecture, sampling, frame, partition, checksums
    expert_00.safetensors    parameters and occupancy of expert 0 (and so on); behind the
                             partition's experts their local copies, without occupancy
    variants.safetensors     where local copies answer (absent where there are none)
    background.safetensors   the background MLP (absent for a fixed background)
    optimizer_00.safetensors moments of expert 0, `optimizer_background` too (only to resume)

Tables are float32 in the layout of `nerfcore.encoding.layout`, the same for every backend.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nerfcore import atomic
from nerfcore.checkpoint.frames import frame_differences
from nerfcore.checkpoint.variant_files import read_variants, write_variants
from nerfcore.data.partition import Partition
from nerfcore.data.records import Dataset, SceneFrame
from nerfcore.errors import CheckpointError, SettingsError
from nerfcore.field.backends import resolve_device
from nerfcore.field.lazy import LazyExperts
from nerfcore.field.memory import require_memory, scene_needs
from nerfcore.field.parameters import Architecture, Parameters
from nerfcore.geometry.geodesy import GeoPoint
from nerfcore.sampling.occupancy import OccupancyGrid
from nerfcore.scene import SceneModel
from nerfcore.settings import BackendName, SamplingSettings, model_settings_from_json, to_json
from nerfcore.training.adam import Adam

FORMAT_VERSION, LOCAL_FORMAT_VERSION = 1, 2  # the second where there are local copies
MANIFEST = "manifest.json"
OCCUPANCY = ("allowed", "occupied", "opacity")


def _expert_file(expert: int) -> str:
    return f"expert_{expert:02d}.safetensors"


def _optimizer_file(expert: int | str) -> str:
    name = f"{expert:02d}" if isinstance(expert, int) else expert
    return f"optimizer_{name}.safetensors"


def _partition_json(partition: Partition) -> dict[str, Any]:
    return {
        "name": partition.name,
        "grid_dim": list(partition.grid_dim),
        "cluster_2d": partition.cluster_2d,
        "boundary_margin": partition.boundary_margin,
        "aabb": partition.aabb.tolist(),
        "centroids": partition.centroids.tolist(),
        "box_mins": partition.box_mins.tolist(),
        "box_maxs": partition.box_maxs.tolist(),
    }


def _frame_json(frame: SceneFrame) -> dict[str, Any]:
    return {
        "pose_scale_factor_m": frame.pose_scale_factor_m,
        "origin_drb_m": frame.origin_drb_m.tolist(),
        "enu_ref": dataclasses.asdict(frame.enu_ref) if frame.enu_ref else None,
        "altitude_range_enu_m": list(frame.altitude_range_enu_m),
    }


def _moments(adam: Adam) -> dict[str, Tensor]:
    tensors = {"step": torch.tensor(adam.step)}
    tensors |= {f"first.{name}": value for name, value in adam.first.items()}
    return tensors | {f"second.{name}": value for name, value in adam.second.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def save_checkpoint(
    scene: SceneModel,
    folder: Path,
    step: int,
    extra: dict[str, Any] | None = None,
    optimisers: tuple[list[Adam], Adam] | None = None,
) -> Path:
    """Write a checkpoint folder; it appears complete or not at all.

    Args:
        scene: the model.
        folder: where; must not exist.
        step: training step it was taken at.
        extra: JSON values kept in the manifest (scores, job id).
        optimisers: the experts' and the background's moments, to resume from.

    Raises:
        FileExistsError: the folder exists.
    """
    with atomic.new_folder(folder) as temporary:
        for k, parameters in enumerate(scene.experts):
            _save(temporary / _expert_file(k), parameters | _cells_of(scene, k))
        if scene.background:
            _save(temporary / "background.safetensors", scene.background)
        variants = {}
        if scene.variants is not None:
            variants = {"variants": write_variants(temporary, scene.variants)}
        if optimisers is not None:
            for k, adam in enumerate(optimisers[0]):
                _save(temporary / _optimizer_file(k), _moments(adam))
            _save(temporary / _optimizer_file("background"), _moments(optimisers[1]))
        manifest = {
            "format_version": LOCAL_FORMAT_VERSION if variants else FORMAT_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "model": to_json(scene.settings),
            "sampling": to_json(scene.sampling),
            "frame": _frame_json(scene.frame),
            "partition": _partition_json(scene.partition),
            "occupancy_dims": scene.occupancy.dims.tolist(),
            **variants,
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                for path in sorted(temporary.iterdir())
            },
            "extra": extra or {},
        }
        atomic.write_text(temporary / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return folder


def _cells_of(scene: SceneModel, expert: int) -> dict[str, Tensor]:
    """An expert's occupancy; local copies have none of their own."""
    if expert >= scene.occupancy.experts:
        return {}
    span = scene.occupancy.span(expert)
    return {
        f"occupancy.{name}": torch.from_numpy(getattr(scene.occupancy, name)[span].copy())
        for name in OCCUPANCY
    }


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        CheckpointError: missing, not JSON, or of another format version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: missing; name a job that has saved a checkpoint, or a checkpoint folder"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable ({error}); use another checkpoint") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version not in (FORMAT_VERSION, LOCAL_FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format_version {version!r}, this version reads {FORMAT_VERSION} and "
            f"{LOCAL_FORMAT_VERSION}; train again"
        )
    return manifest


def read_occupancy_dims(folder: Path) -> NDArray[np.int32]:
    """Read how many occupancy cells a checkpoint's experts have along each axis, i32[K, 3].

    Raises:
        CheckpointError: see `read_manifest`; or the manifest does not say.
    """
    try:
        return np.array(read_manifest(folder)["occupancy_dims"], np.int32).reshape(-1, 3)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: occupancy_dims wrong or missing ({error}); use another "
            "checkpoint"
        ) from error


def verify_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Check that every file is there, complete and unchanged.

    Raises:
        CheckpointError: naming the first file that is not.
    """
    for name, expected in manifest["files"].items():
        path = folder / name
        if name.startswith("optimizer_") and not path.exists():
            continue  # older checkpoints shed their optimiser state
        if not path.is_file():
            raise CheckpointError(
                f"{path}: missing; use another checkpoint (prefix) or train again"
            )
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(
                f"{path}: {size} bytes, {expected['bytes']} expected: truncated or changed; use "
                "another checkpoint (prefix) or train again"
            )
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(
                f"{path}: content differs from the manifest's checksum; use another checkpoint "
                "(prefix) or train again"
            )


def load_checkpoint(
    folder: Path,
    device: str = "auto",
    backend: BackendName = "auto",
    *,
    budget_bytes: int | None = None,
) -> SceneModel:
    """Load a scene model.

    Args:
        folder: holds manifest.json.
        device, backend: where and how to evaluate it.
        budget_bytes: read experts when rays first meet them, and keep at most this much of them in
            memory (see `LazyExperts`); None loads all at once.

    Raises:
        CheckpointError: a file is missing, truncated, changed or contradicts the manifest.
        SettingsError: all at once do not fit in memory.
        BackendUnavailableError: see `nerfcore.field.backends`.
    """
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    try:
        settings = model_settings_from_json(manifest["model"])
        sampling = SamplingSettings(**manifest["sampling"])
        frame, partition = _frame(manifest["frame"]), _partition(manifest["partition"])
        dims = np.array(manifest["occupancy_dims"], np.int32)
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: wrong or missing field ({error}); use another checkpoint"
        ) from error
    variants = read_variants(folder, manifest.get("variants"), len(partition))
    every = len(partition) if variants is None else len(variants.bases)
    target = resolve_device(device)
    architecture = Architecture.of(settings)
    shapes = architecture.shapes()
    if budget_bytes is None:
        count = int(dims.astype(np.int64).prod(axis=1).sum())
        needs = scene_needs(architecture, every, count, target)
        require_memory(f"{folder}: {len(partition)} experts", needs)
    cells = [_read_cells(folder / _expert_file(k)) for k in range(len(partition))]

    def load(expert: int) -> Parameters:
        path = folder / _expert_file(expert)
        return _checked(path, _load(path), shapes, target)

    experts: Sequence[Parameters] = LazyExperts(
        every, load, architecture.bytes(), budget_bytes or 0, target
    )
    if budget_bytes is None:
        experts = list(experts)
    background: Parameters = {}
    if settings.use_background:
        background = {
            name: value.to(target)
            for name, value in _load(folder / "background.safetensors").items()
        }
    grid = _grid(partition, dims, cells)
    return SceneModel(
        frame, partition, settings, sampling, experts, background, grid, target, backend, variants
    )


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: unreadable ({error}); use another checkpoint") from error


def _read_cells(path: Path) -> list[NDArray[Any]]:
    """An expert's occupancy, without its parameters."""
    try:
        with safe_open(path, "numpy") as tensors:
            return [tensors.get_tensor(f"occupancy.{name}") for name in OCCUPANCY]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: unreadable ({error}); use another checkpoint") from error


def _checked(
    path: Path,
    tensors: dict[str, Tensor],
    shapes: dict[str, tuple[int, int]],
    device: torch.device,
) -> Parameters:
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {found}, the manifest's architecture needs {shape}; use "
                "another checkpoint"
            )
    return {name: tensors[name].to(device) for name in shapes}


def _frame(values: dict[str, Any]) -> SceneFrame:
    reference = values["enu_ref"]
    low, high = values["altitude_range_enu_m"]
    return SceneFrame(
        float(values["pose_scale_factor_m"]),
        np.array(values["origin_drb_m"], np.float64),
        GeoPoint(**reference) if reference else None,
        (float(low), float(high)),
    )


def _partition(values: dict[str, Any]) -> Partition:
    arrays = {
        name: np.array(values[name], np.float32)
        for name in ("centroids", "box_mins", "box_maxs", "aabb")
    }
    return Partition(
        name=values["name"],
        cluster_2d=values["cluster_2d"],
        boundary_margin=values["boundary_margin"],
        grid_dim=tuple(values["grid_dim"]),
        **arrays,
    )


def _grid(partition: Partition, dims: np.ndarray, cells: list[list[np.ndarray]]) -> OccupancyGrid:
    sizes = dims.astype(np.int64).prod(axis=1)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    state = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    return OccupancyGrid(partition.box_mins, partition.box_maxs, dims, offsets, *state)


def load_optimiser(folder: Path, scene: SceneModel) -> tuple[list[Adam], Adam]:
    """Load the moments saved with a checkpoint.

    Raises:
        CheckpointError: the checkpoint holds none.
    """
    names: list[int | str] = [*range(len(scene.experts)), "background"]
    adams = []
    for name in names:
        path = folder / _optimizer_file(name)
        if not path.exists():
            raise CheckpointError(
                f"{path}: missing, so training cannot resume exactly; set resume to false or use "
                'prefix "last"'
            )
        tensors = _load(path)
        parts = [
            {
                key.removeprefix(part): value.to(scene.device)
                for key, value in tensors.items()
                if key.startswith(part)
            }
            for part in ("first.", "second.")
        ]
        adams.append(Adam(parts[0], parts[1], int(tensors["step"])))
    return adams[:-1], adams[-1]


def require_same_frame(folder: Path, dataset: Dataset) -> None:
    """Refuse a checkpoint of another place or scale; reads its manifest only.

    Raises:
        CheckpointError: its frame differs from the dataset's, naming what differs; or the manifest
            does not say.
    """
    try:
        stored = _frame(read_manifest(folder)["frame"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: frame: {error!r}; use another checkpoint"
        ) from error
    differences = frame_differences(stored, dataset.frame)
    if differences:
        raise CheckpointError(
            f"{folder}: trained in another scene's frame than {dataset.root}'s: "
            f"{'; '.join(differences)}; use the checkpoint's own dataset"
        )
