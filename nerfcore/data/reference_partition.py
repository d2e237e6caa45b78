"""Owns reading partitions and pixel masks made for the reference system.

    masks/<name>/params.pt        centroids, grid_dim, cluster_2d, boundary_margin, aabb_global
    masks/<name>/scene_boxes.pt   mins, maxs
    masks/<name>/<expert>/<image id>.pt   a zip around a bool tensor [H, W]

Axes and units are ours (DRB, scaled); the masks may be larger than the stored photographs.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nerfcore.data.partition_record import Partition, empty_box
from nerfcore.data.tensor_file import load_tensors, load_zipped_tensor
from nerfcore.errors import DataError

PARAMS_FILE: Final = "params.pt"
BOXES_FILE: Final = "scene_boxes.pt"
_VERSION: Final = 3
_MEND: Final = "copy it again, or make a partition with scripts/create_clusters.py"


def is_reference_partition(folder: Path) -> bool:
    """Tell whether a folder below masks/ was made for the reference system."""
    return (folder / PARAMS_FILE).is_file()


def load_reference_partition(folder: Path) -> Partition:
    """Load a partition made for the reference system.

    Raises:
        DataError: a file is missing or damaged, holds more than tensors, or a field is wrong.
    """
    params_file, boxes_file = folder / PARAMS_FILE, folder / BOXES_FILE
    params, boxes = _mapping(params_file), _mapping(boxes_file)
    version = params.get("format_version")
    if version != _VERSION:
        raise DataError(
            f"{params_file}: format_version is {version!r}, this version reads {_VERSION}; {_MEND}"
        )
    centroids = _array(params_file, params, "centroids", (None, 3))
    aabb = _array(params_file, params, "aabb_global", (2, 3))
    mins = _array(boxes_file, boxes, "mins", (len(centroids), 3), finite=False)
    maxs = _array(boxes_file, boxes, "maxs", (len(centroids), 3), finite=False)
    for expert in range(len(centroids)):
        # An expert that no sample fell to has no extent there; it keeps its number.
        if not (mins[expert] < maxs[expert]).all():
            mins[expert], maxs[expert] = empty_box(centroids[expert], aabb)
    margin = params.get("boundary_margin")
    if not isinstance(margin, int | float) or not 1.0 <= margin < float("inf"):
        raise DataError(f"{params_file}: boundary_margin is {margin!r}, at least 1; {_MEND}")
    return Partition(
        folder.name,
        centroids,
        mins,
        maxs,
        aabb,
        _flag(params_file, params, "cluster_2d"),
        float(margin),
        _grid(params_file, params, len(centroids)),
    )


def read_reference_masks(folder: Path, image_id: str, experts: int) -> NDArray[np.bool_] | None:
    """Read which experts own which pixels of an image.

    Args:
        folder: masks/<name>.
        image_id: stem of the stored photograph, as 000007.
        experts: their number.

    Returns:
        bool[K, H, W], or None when no expert has a mask for it.

    Raises:
        DataError: some experts lack it, it is damaged, or holds more than a tensor.
    """
    files = [folder / str(expert) / f"{image_id}.pt" for expert in range(experts)]
    missing = [file for file in files if not file.is_file()]
    if len(missing) == experts:
        return None
    if missing:
        raise DataError(
            f"{missing[0]}: missing, {experts - len(missing)} of {experts} masks are there; {_MEND}"
        )
    masks = [_mask(file) for file in files]
    if len({mask.shape for mask in masks}) > 1:
        raise DataError(f"{files[0].parent.parent}: masks of {image_id} differ in size; {_MEND}")
    return np.stack(masks)


def _mask(file: Path) -> NDArray[np.bool_]:
    mask = load_zipped_tensor(file)
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise DataError(f"{file}: {mask.dtype}{list(mask.shape)}, expected bool[H, W]; {_MEND}")
    return mask


def _mapping(file: Path) -> dict[str, Any]:
    content = load_tensors(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds {type(content).__name__}, not named values; {_MEND}")
    return content


def _flag(file: Path, content: dict[str, Any], name: str) -> bool:
    if not isinstance(content.get(name), bool):
        raise DataError(f"{file}: {name} is {content.get(name)!r}, not true or false; {_MEND}")
    return bool(content[name])


def _grid(file: Path, content: dict[str, Any], experts: int) -> tuple[int, ...]:
    """Return the grid's cells; experts that form no grid count as one row."""
    grid = content.get("grid_dim")
    if grid is None or content.get("centroid_mode") != "grid":
        return (experts,)
    if not isinstance(grid, (tuple, list)) or int(np.prod(grid)) != experts:
        raise DataError(f"{file}: grid_dim is {grid!r} for {experts} centroids; {_MEND}")
    return tuple(int(cells) for cells in grid)


def _array(
    file: Path,
    content: dict[str, Any],
    name: str,
    shape: tuple[int | None, ...],
    *,
    finite: bool = True,
) -> NDArray[np.float32]:
    found = content.get(name)
    try:
        values = np.array(found, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {name} is {found!r}, not numbers; {_MEND}") from error
    fits = values.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, values.shape, strict=True)
    )
    if not fits or values.size == 0 or (finite and not np.isfinite(values).all()):
        raise DataError(
            f"{file}: {name} is {list(values.shape)}, must be finite numbers of shape "
            f"{['any' if want is None else want for want in shape]}; {_MEND}"
        )
    return values
