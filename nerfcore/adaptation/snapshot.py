"""Owns models at moments of an adaptation: what had changed by then, beside the scene adapted on.

A snapshot holds copies of the experts changed so far alone; all others are as they were before
adaptation, which the adapter keeps. So the model before the first step costs next to nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nerfcore.field.parameters import Parameters
from nerfcore.scene import SceneModel
from nerfcore.variants import Variants

Cells = tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32]]
"""Allowed, occupied and opacity of an occupancy grid."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What an adaptation had changed at one moment; nothing here changes later.

    Attributes:
        changed: copies of experts by index, local variants' own among them.
        background: a copy.
        cells: of the occupancy.
        variants: where local copies answer, or None.
    """

    changed: Mapping[int, Parameters]
    background: Parameters
    cells: Cells
    variants: Variants | None

    @property
    def bytes(self) -> int:
        """What it holds."""
        copies = [*self.changed.values(), self.background]
        parameters = sum(value.nbytes for own in copies for value in own.values())
        return parameters + sum(cells.nbytes for cells in self.cells)


def snapshot_of(scene: SceneModel, changed: Sequence[int]) -> Snapshot:
    """Copy what has changed in a scene.

    Args:
        scene: being adapted.
        changed: every expert that differs from before adaptation, added ones included.
    """
    return Snapshot(
        {expert: copied(scene.experts[expert]) for expert in changed},
        copied(scene.background),
        scene.occupancy.state(),
        scene.variants,
    )


def shown_by(snapshot: Snapshot, scene: SceneModel, unchanged: Sequence[Parameters]) -> SceneModel:
    """The model of that moment, for rendering.

    Args:
        snapshot: of the scene.
        scene: as it is now; only what never changes is taken from it.
        unchanged: the experts as before adaptation.
    """
    count = max([len(unchanged), *(expert + 1 for expert in snapshot.changed)])
    experts = [snapshot.changed[k] if k in snapshot.changed else unchanged[k] for k in range(count)]
    allowed, occupied, opacity = snapshot.cells
    occupancy = replace(scene.occupancy, allowed=allowed, occupied=occupied, opacity=opacity)
    return replace(
        scene,
        experts=experts,
        background=snapshot.background,
        occupancy=occupancy,
        variants=snapshot.variants,
    )


def copied(parameters: Parameters) -> Parameters:
    """Copies of all tensors."""
    return {name: value.clone() for name, value in parameters.items()}
