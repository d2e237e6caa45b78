"""Owns local variants: copies of experts that answer in their place in some ground cells.

The ground (world axes 1 and 2) is cut into square cells, each of one *layer*. Layer 0 is the
experts as they were trained; in a cell of another layer a sample that expert k would shade is
shaded by a copy of k. Changing a copy can change no other cell, whatever rows of a table or weights
of an MLP the copy shares: cells of layer 0 render bit for bit as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.compiled import EXACT
from nerfcore.errors import SettingsError
from nerfcore.field.parameters import Parameters
from nerfcore.sampling.ground import GroundGrid
from nerfcore.sampling.march import Samples

MOST_LAYERS = 255


@dataclass(frozen=True, eq=False)
class Variants:
    """Which copy answers where.

    Attributes:
        grid: the cells.
        layers: u8[*grid.shape], layer of each cell.
        table: i16[L, K], expert index that answers for expert k in a layer; row 0 counts up.
        bases: i16[K + V], the expert whose place and box an expert index has.
    """

    grid: GroundGrid
    layers: NDArray[np.uint8]
    table: NDArray[np.int16]
    bases: NDArray[np.int16]

    def apply(
        self,
        samples: Samples,
        origins: NDArray[np.float32],
        directions: NDArray[np.float32],
    ) -> Samples:
        """Samples with the owners that answer where they lie; rays f32[R, 3]."""
        owners = samples.owners.copy()
        _apply(
            samples.ray_ids, samples.ts, owners, origins, directions,
            np.float64(self.grid.low[0]), np.float64(self.grid.low[1]),
            np.float64(1.0 / self.grid.cell), self.layers, self.table,
        )  # fmt: skip
        return replace(samples, owners=owners)

    def applied(self, owners: Tensor, points: Tensor) -> Tensor:
        """The same for tensors: owners i[S, M] (-1 where unused) of points f[S, 3]."""
        layers = torch.from_numpy(self.layers).to(owners.device).long()
        table = torch.from_numpy(self.table).to(owners.device).to(owners.dtype)
        low = torch.tensor(self.grid.low, dtype=torch.float64, device=points.device)
        place = ((points[:, 1:].double() - low) * (1.0 / self.grid.cell)).floor().long()
        shape = torch.tensor(self.grid.shape, device=points.device)
        inside = ((place >= 0) & (place < shape)).all(1)
        place = torch.where(inside[:, None], place, 0)
        layer = torch.where(inside, layers[place[:, 0], place[:, 1]], 0)
        found = table[layer[:, None], owners.clamp_min(0).long()]
        return torch.where(owners >= 0, found, owners)

    def base_owned(self, samples: Samples) -> Samples:
        """Samples with the owners that own the place, whoever answered."""
        owners = samples.owners
        return replace(samples, owners=np.where(owners >= 0, self.bases[owners], owners))

    def answering(self, expert: int, points: NDArray[np.floating]) -> NDArray[np.int16]:
        """Who answers for an expert at world points f[N, 3], i16[N]."""
        cells = self.grid.index(points[:, 1:])
        layer = np.where(cells >= 0, self.layers.reshape(-1)[np.maximum(cells, 0)], 0)
        return self.table[layer, expert]


@numba.njit(parallel=True, **EXACT)
def _apply(ray_ids, ts, owners, origins, directions, low1, low2, scale, layers, table):
    rows, columns = layers.shape
    for s in numba.prange(ts.shape[0]):
        r = ray_ids[s]
        i = np.floor((origins[r, 1] + ts[s] * directions[r, 1] - low1) * scale)
        j = np.floor((origins[r, 2] + ts[s] * directions[r, 2] - low2) * scale)
        if i < 0 or j < 0 or i >= rows or j >= columns:
            continue
        layer = layers[int(i), int(j)]
        if layer == 0:
            continue
        for n in range(owners.shape[1]):
            if owners[s, n] < 0:
                break
            owners[s, n] = table[layer, owners[s, n]]


def with_variants(
    variants: Variants | None,
    experts: Sequence[Parameters],
    count: int,
    grid: GroundGrid,
    chosen: NDArray[np.bool_],
    owners_of: NDArray[np.bool_],
) -> tuple[Variants, list[Parameters], list[int]]:
    """Give chosen cells copies of their own, of whatever answers there now.

    Args:
        variants: of the model so far, None for none.
        experts: all parameters so far, copies included.
        count: experts of the partition, K.
        grid: cells of the choice; must be the variants' own if there are some.
        chosen: bool[*grid.shape].
        owners_of: bool[K], experts that can own a chosen cell; only they are copied.

    Returns:
        The new variants, all experts with the copies at the end, and the copies' indices.

    Raises:
        SettingsError: the grid differs, or there are too many layers.
    """
    if variants is not None and variants.grid != grid:
        raise SettingsError("local: the model's local variants lie on another grid of cells")
    layers = np.zeros(grid.shape, np.uint8) if variants is None else variants.layers.copy()
    table = np.arange(count, dtype=np.int16)[None] if variants is None else variants.table
    bases = np.arange(count, dtype=np.int16) if variants is None else variants.bases
    every, fresh = list(experts), list[int]()
    for layer in np.unique(layers[chosen]):
        if len(table) > MOST_LAYERS:
            raise SettingsError(
                f"local: the model has {MOST_LAYERS} local layers, no more fit; adapt the original"
            )
        row = table[layer].copy()
        for k in np.flatnonzero(owners_of):
            fresh.append(len(every))
            every.append({name: value.clone() for name, value in every[row[k]].items()})
            bases = np.append(bases, np.int16(k))
            row[k] = fresh[-1]
        where = chosen & (layers == layer)
        table = np.concatenate([table, row[None]])
        layers[where] = len(table) - 1
    return Variants(grid, layers, table, bases), every, fresh
