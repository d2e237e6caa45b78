"""Owns the model that a viewer shows: the live one, the one before adaptation, and their exchange.

Renders read the live model; adaptation changes it in place; loading another version or a reset
exchanges it whole. Whoever changes or exchanges it has it to itself (see `nerfcore.viewer.sharing`,
whose turns hold renders and changes apart).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nerfcore.colour import srgb_to_linear_array
from nerfcore.data.records import SceneFrame
from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.sampling.columns import Columns
from nerfcore.sampling.occupancy import OccupancyGrid
from nerfcore.scene import SceneModel
from nerfcore.viewer.options import AS_IT_IS, Point, RenderOptions
from nerfcore.viewer.protocols import ExpertLayout

ReadScene = Callable[[], SceneModel]


class ShownModel:
    """A scene model that can be shown with options, put back and exchanged.

    Args:
        scene: the live model.
        read: reads the same version anew from its checkpoint.
        version: its name.
    """

    def __init__(self, scene: SceneModel, read: ReadScene, version: str = "") -> None:
        self._current = version, scene
        self._read = read
        self._before: SceneModel | None = None
        self._masked: tuple[int, Columns, OccupancyGrid] | None = None

    @property
    def scene(self) -> SceneModel:
        """The live model."""
        return self._current[1]

    @property
    def current(self) -> tuple[str, SceneModel]:
        """The live model with the name of the version it was loaded as, those of one moment."""
        return self._current

    @property
    def frame(self) -> SceneFrame:
        """How world coordinates relate to metres and to the Earth."""
        return self.scene.frame

    @property
    def experts(self) -> ExpertLayout:
        """Which expert owns what."""
        partition = self.scene.partition
        return ExpertLayout(partition.centroids, partition.cluster_2d, partition.aabb)

    def exchange(self, scene: SceneModel, read: ReadScene, version: str = "") -> None:
        """Show another version from now on."""
        self._current, self._read, self._before = (version, scene), read, None

    def put_back(self) -> None:
        """Undo all adaptation: the live model becomes the loaded version again.

        Raises:
            CheckpointError: the version's files are gone or damaged; the live model stays.
        """
        self._current, self._before = (self._current[0], self._loaded()), None

    def render(
        self,
        camera: Camera,
        *,
        options: RenderOptions = AS_IT_IS,
        cancelled: Callable[[], bool] | None = None,
    ) -> Rendered | None:
        """Render one picture; see `nerfcore.viewer.protocols.SceneLike`.

        Raises:
            CheckpointError: the version before adaptation cannot be read any more.
        """
        scene = self._loaded() if options.is_before else self.scene
        chosen = self._with_options(scene, options)
        return chosen.render(camera, max_samples=options.max_samples, cancelled=cancelled)

    def _loaded(self) -> SceneModel:
        if self._before is None:
            self._before = self._read()
        return self._before

    def _with_options(self, scene: SceneModel, options: RenderOptions) -> SceneModel:
        """The same model (shared parameters) as the options want it."""
        if options == AS_IT_IS:
            return scene
        near, far = options.near_m, options.far_m
        own = scene.sampling
        sampling = replace(
            own,
            max_samples=options.max_samples or own.max_samples,
            near_m=own.near_m if near is None else near,
            far_m=own.far_m if far is None else far,
        )
        changes: dict[str, object] = {"sampling": sampling}
        if options.crop_enu_m is not None:
            box = _cropped(scene, options.crop_enu_m)
            changes["partition"] = replace(scene.partition, aabb=box)
        if options.expert is not None:
            changes["occupancy"] = self._only(scene.occupancy, options.expert)
        if options.background_rgb is not None:
            rgb = _composited(options.background_rgb, scene.settings.colour_space == "linear")
            changes["settings"] = replace(scene.settings, use_background=False, background_rgb=rgb)
            changes["background"] = {}
        return replace(scene, **changes)

    def _only(self, grid: OccupancyGrid, expert: int) -> OccupancyGrid:
        """Occupancy in which every other expert's cells are empty."""
        columns = grid.columns()
        held = self._masked
        if held is not None and held[0] == expert and held[1] is columns:
            return held[2]
        occupied = np.zeros_like(grid.occupied)
        span = grid.span(expert)
        occupied[span] = grid.occupied[span]
        masked = replace(grid, occupied=occupied)
        self._masked = (expert, columns, masked)
        return masked


def _cropped(scene: SceneModel, crop_enu_m: tuple[Point, Point]) -> NDArray[np.float32]:
    """The scene's box inside a box in metres; never empty."""
    corners = scene.frame.enu_m_to_world(np.array(crop_enu_m))
    low, high = scene.partition.aabb
    start = np.clip(corners.min(axis=0), low, high)
    end = np.clip(corners.max(axis=0), low, high)
    return np.stack([start, np.maximum(end, start + 1e-5)]).astype(np.float32)


def _composited(srgb: Point, is_linear: bool) -> Point:
    """A background in the model's compositing space."""
    values = np.array(srgb, np.float64)
    red, green, blue = srgb_to_linear_array(values) if is_linear else values
    return float(red), float(green), float(blue)
