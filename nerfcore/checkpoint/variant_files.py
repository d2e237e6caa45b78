"""Owns how a checkpoint holds local variants: the layers' cells, and who answers in them.

    manifest.json "variants": {low, cell, shape, table, bases}
    variants.safetensors      layers u8[*shape]

The copies' parameters are expert files like the others, after the partition's experts, without
occupancy of their own.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nerfcore.errors import CheckpointError
from nerfcore.sampling.ground import GroundGrid
from nerfcore.variants import Variants

FILE = "variants.safetensors"


def write_variants(folder: Path, variants: Variants) -> dict[str, Any]:
    """Write the layers; return what the manifest says of them."""
    save_file({"layers": torch.from_numpy(variants.layers.copy())}, folder / FILE)
    grid = variants.grid
    return {
        "low": list(grid.low),
        "cell": grid.cell,
        "shape": list(grid.shape),
        "table": variants.table.tolist(),
        "bases": variants.bases.tolist(),
    }


def read_variants(folder: Path, values: dict[str, Any] | None, experts: int) -> Variants | None:
    """Read what `write_variants` wrote; None where the manifest says nothing.

    Args:
        experts: of the partition.

    Raises:
        CheckpointError: a value is missing, of the wrong shape or out of range.
    """
    if values is None:
        return None
    try:
        layers = load_file(folder / FILE)["layers"].numpy().astype(np.uint8)
        low, shape = values["low"], values["shape"]
        grid = GroundGrid(
            (float(low[0]), float(low[1])), float(values["cell"]), (int(shape[0]), int(shape[1]))
        )
        table = np.array(values["table"], np.int16)
        bases = np.array(values["bases"], np.int16)
    except (KeyError, TypeError, ValueError, OverflowError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: local variants unreadable ({error!r}); use another checkpoint"
        ) from error
    fits = (
        layers.shape == grid.shape
        and table.ndim == 2
        and table.shape[1] == experts
        and int(layers.max(initial=0)) < len(table)
        and bool(((table >= 0) & (table < len(bases))).all())
        and bool(((bases >= 0) & (bases < experts)).all())
        and grid.cell > 0
    )
    if not fits:
        raise CheckpointError(
            f"{folder}: local variants contradict each other or the {experts} experts; use another "
            "checkpoint"
        )
    return Variants(grid, layers, table, bases)
