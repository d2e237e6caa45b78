"""Owns the change map of a job: a georeferenced picture, and the list of changed areas.

`change_map.png` shows the site from above, north up, one square of pixels a ground cell:
transparent where no new image looks, yellow to red by how far the new images' error exceeds the
model's usual one, changed areas in full colour with a dark rim. `change_map.pgw` places it (world
file: longitude and latitude in degrees, WGS 84; metres East and North where the dataset has no
place on the Earth), `change_map.prj` names that system. `change_areas.csv` lists the areas, largest
first. All of it is found with the model before adaptation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from nerfcore import atomic
from nerfcore.adaptation.disagreement import CHANGED, Disagreement
from nerfcore.data.records import SceneFrame
from nerfcore.errors import DataError
from nerfcore.sampling.ground import GroundGrid

PICTURE_FILE, WORLD_FILE, SYSTEM_FILE = "change_map.png", "change_map.pgw", "change_map.prj"
AREAS_FILE = "change_areas.csv"
CELL_PX = 4
LEAST_CELLS = 4
MOST_AREAS = 100
WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]\n'
)


@dataclass(frozen=True)
class ChangedArea:
    """One connected changed area.

    Attributes:
        rank: 1 is the largest.
        latitude_deg, longitude_deg: its middle, WGS 84; NaN without a place on the Earth.
        east_m, north_m: its middle in the dataset's ENU frame.
        area_m2: size; width_m, length_m: its extent from west to east and from south to north.
        error_ratio: mean error of the new images there over the model's usual error.
    """

    rank: int
    latitude_deg: float
    longitude_deg: float
    east_m: float
    north_m: float
    area_m2: float
    width_m: float
    length_m: float
    error_ratio: float


def changed_areas(
    found: Disagreement, changed: NDArray[np.bool_], frame: SceneFrame
) -> list[ChangedArea]:
    """The connected areas of changed cells, largest first, at most 100.

    Args:
        found: errors by cell.
        changed: bool[*grid.shape]; specks of fewer than 4 cells are no area.
        frame: where the cells lie on the Earth.
    """
    grid, cell_m = found.grid, found.grid.cell * frame.pose_scale_factor_m
    labels, count = ndimage.label(changed)  # pyright: ignore[reportGeneralTypeIssues]
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    order = [k for k in np.argsort(-sizes[1:], kind="stable") + 1 if sizes[k] >= LEAST_CELLS]
    areas = []
    for rank, label in enumerate(order[:MOST_AREAS], start=1):
        cells = np.argwhere(labels == label)
        middle = grid.centres()[cells[:, 0], cells[:, 1]].mean(0)
        extent = (np.ptp(cells, axis=0) + 1) * cell_m
        enu = frame.world_to_enu_m([0.0, *middle])
        latitude, longitude = _place(frame, middle)
        ratio = float(np.nanmean(found.ratio[labels == label]))
        areas.append(
            ChangedArea(
                rank, latitude, longitude, float(enu[0]), float(enu[1]),
                float(sizes[label]) * cell_m**2, float(extent[0]), float(extent[1]), ratio,
            )
        )  # fmt: skip
    return areas


def _place(frame: SceneFrame, ground: NDArray[np.floating]) -> tuple[float, float]:
    """Latitude and longitude of a place f[2] on axes 1 and 2; NaN without a reference."""
    if frame.enu_ref is None:
        return float("nan"), float("nan")
    latitude, longitude, _ = frame.world_to_geo([0.0, *ground])
    return float(latitude), float(longitude)


def map_picture(found: Disagreement, changed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The map as RGBA u8[south cells * 4, east cells * 4, 4], north up."""
    share = np.clip(np.log2(np.nan_to_num(found.ratio, nan=1.0)) / np.log2(4 * CHANGED.ratio), 0, 1)
    levels = np.rint(share * 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(255 - levels, cv2.COLORMAP_AUTUMN), cv2.COLOR_BGR2RGB)
    alpha = np.where(np.isnan(found.new_rms), 0, np.where(changed, 255, 40 + 120 * share))
    picture = np.dstack([heat, alpha.astype(np.uint8)]).transpose(1, 0, 2)
    large = picture.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    wide = changed.T.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    rim = wide & ~np.asarray(ndimage.binary_erosion(wide), np.bool_)
    large[rim] = (60, 0, 20, 255)
    return np.ascontiguousarray(large)


def world_file(grid: GroundGrid, frame: SceneFrame) -> str:
    """The six lines that place the picture: x and y per column, per row, and of the first pixel."""
    size = grid.cell / CELL_PX
    corner = np.asarray(grid.low) + 0.5 * size
    columns, rows = (side * CELL_PX for side in grid.shape)
    steps = np.array([[0.0, 0.0], [size * columns, 0.0], [0.0, size * rows]])
    places = corner + steps
    if frame.enu_ref is None:
        plane = [frame.world_to_enu_m([0.0, *place])[:2] for place in places]
    else:
        plane = [np.array(_place(frame, place)[::-1]) for place in places]
    across, down = (plane[1] - plane[0]) / columns, (plane[2] - plane[0]) / rows
    return "".join(f"{value:.14g}\n" for value in (*across, *down, *plane[0]))


def write_change_map(
    folder: Path, found: Disagreement, changed: NDArray[np.bool_], frame: SceneFrame
) -> list[ChangedArea]:
    """Write the picture, its world file and the list of areas into a job's folder.

    Raises:
        DataError: the picture cannot be encoded.
    """
    picture = map_picture(found, changed)
    done, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))
    if not done:
        raise DataError(f"{PICTURE_FILE}: a map of {picture.shape} pixels cannot be encoded")
    areas = changed_areas(found, changed, frame)
    atomic.write_bytes(folder / PICTURE_FILE, content.tobytes())
    atomic.write_text(folder / WORLD_FILE, world_file(found.grid, frame))
    if frame.enu_ref is not None:
        atomic.write_text(folder / SYSTEM_FILE, WGS84)
    atomic.write_text(folder / AREAS_FILE, _as_csv(areas))
    return areas


def _as_csv(areas: Sequence[ChangedArea]) -> str:
    names = [field.name for field in fields(ChangedArea)]
    frame = pd.DataFrame([asdict(area) for area in areas], columns=names)
    frame = frame.round({"latitude_deg": 7, "longitude_deg": 7, "error_ratio": 2}).round(
        {name: 1 for name in names if name.endswith(("_m", "_m2"))}
    )
    return frame.to_csv(index=False, lineterminator="\n")
