"""Owns adding a later flight to a prepared dataset as a batch, all or nothing.

Images of the new model whose names the dataset does not hold become `continual/batch_%04d`, placed
with the dataset's stored origin, scale and ENU reference. Images it does hold are only used to
check that both models share one frame. Photographs that the dataset holds under other names are
recognised by their content and place.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.colmap import ColmapModel
from nerfcore.data.dataset import load_batch, load_dataset
from nerfcore.data.facing import drop_behind
from nerfcore.data.flight import Flight, find_source, read_flight, require_photographs
from nerfcore.data.placing import EnuScene, near_ground, to_enu
from nerfcore.data.prepare import Progress, make_photographs
from nerfcore.data.recentre import recentre
from nerfcore.data.records import Batch, Dataset, SparsePoints
from nerfcore.data.sources import Stored, source_digest, stored_sources
from nerfcore.data.splitting import evenly_spaced
from nerfcore.data.staging import Stage, staged
from nerfcore.data.storage import (
    BATCH_FILE,
    FORMAT_VERSION,
    BatchRecord,
    write_listing,
)
from nerfcore.data.writing import (
    Photograph,
    save_points,
    sparse_points,
    undistortions,
    write_image_sets,
)
from nerfcore.errors import DataError
from nerfcore.geometry.frames import camera_centres
from nerfcore.geometry.geodesy import looks_like_ecef

MAX_DISAGREEMENT: Final = 0.02  # world units between old and new pose of a shared image (median)
MAX_DISTANCE: Final = 10.0  # world units between a new camera and the scene's origin
GROUND_QUANTILE: Final = 0.01
MAX_HEIGHT_M: Final = 200.0
_LISTED: Final = 10


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        batch: the batch, read back from disk.
        kept: it was there before.
    """

    batch: Batch
    kept: bool


def update_dataset(
    data_path: Path,
    update_path: Path,
    *,
    heldout_split: float = 0.25,
    ecef_to_enu: bool | None = None,
    resume: bool = False,
    on_progress: Progress = lambda *_: None,
) -> Batch:
    """Add the new images of a later flight as the dataset's next batch; see `add_flight`."""
    return add_flight(
        data_path,
        update_path,
        heldout_split=heldout_split,
        ecef_to_enu=ecef_to_enu,
        resume=resume,
        on_progress=on_progress,
    ).batch


def add_flight(
    data_path: Path,
    update_path: Path,
    *,
    heldout_split: float = 0.25,
    ecef_to_enu: bool | None = None,
    resume: bool = False,
    on_progress: Progress = lambda *_: None,
) -> Update:
    """Add the new images of a later flight as the dataset's next batch.

    Args:
        data_path: the prepared dataset's folder.
        update_path: folder with model/ and images/, or with transforms.json; only the new images
            need to be there.
        heldout_split: share of the batch kept for scoring, 0 <= x < 1, evenly spaced.
        ecef_to_enu: what the user says about the model; None = as the dataset was prepared.
        resume: go on from a run that was killed; a batch that is there already is kept.
        on_progress: called with (phase, done, total).

    Raises:
        DataError: anything wrong with the input, no new image, or a model in another frame; the
            dataset is as before then.
        OSError: the disk is full or not writable; likewise.
    """
    if not 0.0 <= heldout_split < 1.0:
        raise DataError(f"heldout_split: {heldout_split} is outside 0 <= heldout_split < 1")
    dataset = load_dataset(data_path)
    source = find_source(update_path)
    flight = read_flight(source, Path(), on_progress)
    _check_coordinates(dataset, flight.model, ecef_to_enu)
    new = _new_images(dataset, flight.model)
    held = None if new.any() else _batch_holding(dataset, flight.model)
    if new.any():
        _require_new(flight, new)
        held = _batch_of_renamed(dataset, flight, new, update_path)
        if held is not None:
            new[:] = False
    if not new.any():
        if resume and held is not None:
            return Update(held, kept=True)
        raise _nothing_new(update_path, len(new), held)
    target = data_path / "continual" / _next_name(dataset)
    plan = {
        "heldout_split": heldout_split,
        "source": source.kind,
        "source_sha256": source.digest(),
        "photographs_sha256": _contents(flight, new),
    }
    with staged(target, plan, resume=resume) as stage:
        _write(stage, dataset, flight, new, plan, on_progress)
    return Update(load_batch(target), kept=False)


def _write(
    stage: Stage,
    dataset: Dataset,
    flight: Flight,
    new: NDArray[np.bool_],
    plan: dict[str, Any],
    on_progress: Progress,
) -> None:
    """Fill the stage."""
    findings, chosen, points = _placed(dataset, flight, new, plan["heldout_split"])
    splits = write_image_sets(stage, chosen, on_progress)
    listing = BatchRecord(
        format_version=FORMAT_VERSION,
        points=save_points(stage.root, points),
        settings=plan | findings,
        adapt=splits["adapt"],
        heldout=splits["heldout"],
    )
    write_listing(stage.root / BATCH_FILE, listing)


def _placed(
    dataset: Dataset, flight: Flight, new: NDArray[np.bool_], heldout_split: float
) -> tuple[dict[str, Any], dict[str, list[Photograph]], SparsePoints | None]:
    """Place the flight in the dataset's frame; return findings, photographs by split, points."""
    lenses = undistortions(flight.model.cameras)
    model, behind = drop_behind(flight.model)
    model, recentring = recentre(model)
    scene = to_enu(model, dataset.frame.enu_ref)
    _check_frame(dataset, model, scene, new)
    heldout = np.zeros_like(new)
    heldout[np.flatnonzero(new)[evenly_spaced(int(new.sum()), heldout_split)]] = True
    adapt = new & ~heldout
    photographs = make_photographs(flight, scene, dataset.frame, lenses)
    kept = _points_seen(model, scene, adapt)
    points = sparse_points(model, scene.points_m, dataset.frame, lenses, kept, adapt)
    findings = {
        "recentring": None if recentring is None else asdict(recentring),
        "observations_behind": behind,
    }
    chosen = {"adapt": adapt, "heldout": heldout}
    return (
        findings,
        {
            name: [photographs[i] for i in np.flatnonzero(members)]
            for name, members in chosen.items()
        },
        points,
    )


def _require_new(flight: Flight, new: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(new)
    names, paths = [flight.model.names[i] for i in rows], [flight.paths[i] for i in rows]
    require_photographs(flight.folder, names, paths)


def _contents(flight: Flight, new: NDArray[np.bool_]) -> list[str]:
    """Return the checksums of the new photographs' files, sorted."""
    return sorted(source_digest(flight.paths[i], flight.masks[i]) for i in np.flatnonzero(new))


def _batch_of_renamed(
    dataset: Dataset, flight: Flight, new: NDArray[np.bool_], update_path: Path
) -> Batch | None:
    """Return the batch that holds all new photographs under other names, None if none are held.

    The same photograph has the same content and the same place.

    Raises:
        DataError: some are held, or all but not in one batch.
    """
    rows = np.flatnonzero(new)
    centres = dataset.frame.enu_m_to_world(to_enu(flight.model, dataset.frame.enu_ref).centres_m)
    known = stored_sources(dataset)
    renamed: dict[str, Stored] = {}
    for row in rows:
        for stored in known.get(source_digest(flight.paths[row], flight.masks[row]), ()):
            if np.linalg.norm(stored.centre - centres[row]) <= MAX_DISAGREEMENT:
                renamed[flight.model.names[row]] = stored
    if not renamed:
        return None
    owners = {stored.batch for stored in renamed.values()}
    if len(renamed) == len(rows) and len(owners) == 1 and None not in owners:
        return dataset.batches[str(*owners)]
    shown = ", ".join(f"{name} = {stored.name}" for name, stored in list(renamed.items())[:_LISTED])
    raise DataError(
        f"{update_path}: {len(renamed)} of {len(rows)} new photographs are in the dataset already, "
        f"under other names: {shown}{', ...' if len(renamed) > _LISTED else ''}; remove them from "
        "the model, or give them their old names"
    )


def _check_coordinates(dataset: Dataset, model: ColmapModel, ecef_to_enu: bool | None) -> None:
    reference = dataset.frame.enu_ref
    if ecef_to_enu is not None and ecef_to_enu != (reference is not None):
        made = "local coordinates" if reference is None else "ECEF"
        mend = "leave it out" if reference is None else "add it"
        raise DataError(f"ecef_to_enu: the dataset was prepared from {made}; {mend}")
    is_ecef = looks_like_ecef(camera_centres(model.cam_from_world))
    if is_ecef != (reference is not None):
        made, own = ("ECEF", "local coordinates") if reference else ("local coordinates", "ECEF")
        raise DataError(
            f"{model.folder}: a model in {own}, but the dataset was prepared from {made}; register "
            "the new photographs in the old flight's model, and export that"
        )


def _new_images(dataset: Dataset, model: ColmapModel) -> NDArray[np.bool_]:
    known = {*dataset.train.names, *dataset.val.names}
    for batch in dataset.batches.values():
        known |= {*batch.adapt.names, *batch.heldout.names}
    return np.array([name not in known for name in model.names])


def _batch_holding(dataset: Dataset, model: ColmapModel) -> Batch | None:
    """Return the batch whose images are all in the model, None when there is no such batch."""
    names = set(model.names)
    for batch in reversed(dataset.batches.values()):
        if {*batch.adapt.names, *batch.heldout.names} <= names:
            return batch
    return None


def _nothing_new(update_path: Path, count: int, held: Batch | None) -> DataError:
    where = "the dataset holds them all"
    if held is not None:
        where = f"they are {held.name} already, under these names or others"
    return DataError(f"{update_path}: 0 of {count} images are new, {where}; nothing to add")


def _check_frame(
    dataset: Dataset, model: ColmapModel, scene: EnuScene, new: NDArray[np.bool_]
) -> None:
    centres = dataset.frame.enu_m_to_world(scene.centres_m)
    scale_m = dataset.frame.pose_scale_factor_m
    stored = {
        name: position
        for images in (dataset.train, dataset.val)
        for name, position in zip(images.names, images.c2w[:, :, 3], strict=True)
    }
    shared = [i for i, name in enumerate(model.names) if name in stored]
    if shared:
        old = np.array([stored[model.names[i]] for i in shared])
        apart = float(np.median(np.linalg.norm(centres[shared] - old, axis=1)))
        if apart > MAX_DISAGREEMENT:
            raise DataError(
                f"{model.folder}: {len(shared)} images shared with the dataset lie "
                f"{apart * scale_m:.2f} m off (median; at most {MAX_DISAGREEMENT * scale_m:.2f} "
                "m); align the new model to the old one, for example with COLMAP's model_aligner"
            )
    far = float(np.linalg.norm(centres[new], axis=1).max())
    if far > MAX_DISTANCE:
        raise DataError(
            f"{model.folder}: a new camera lies {far * scale_m:.0f} m from the scene's middle (at "
            f"most {MAX_DISTANCE * scale_m:.0f} m); is it another place or another frame?"
        )


def _next_name(dataset: Dataset) -> str:
    numbers = [
        int(name.removeprefix("batch_"))
        for name in dataset.batches
        if name.removeprefix("batch_").isdigit()
    ]
    return f"batch_{max(numbers, default=0) + 1:04d}"


def _points_seen(
    model: ColmapModel, scene: EnuScene, images: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which points, outliers aside, at least one of these images sees."""
    seen = np.zeros(len(scene.points_m), np.bool_)
    seen[model.points.point_ids[images[model.points.image_ids]]] = True
    return seen & near_ground(scene.points_m, GROUND_QUANTILE, MAX_HEIGHT_M)
