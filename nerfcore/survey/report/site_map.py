"""Owns the map figures: the site from above with all its layers, and the coverage map."""

from collections.abc import Collection
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from nerfcore.survey.coverage import Coverage
from nerfcore.survey.experts import Experts
from nerfcore.survey.footprints import nearest_others
from nerfcore.survey.problems import Severity
from nerfcore.survey.report.drawing import (
    Dart,
    Disc,
    Figure,
    Group,
    Line,
    MapScale,
    Picture,
    Pinned,
    Shape,
    Text,
    rectangle,
    round_step,
)
from nerfcore.survey.report.palette import coverage_colours, height_colours
from nerfcore.survey.survey import Survey

Float64 = NDArray[np.float64]
LAYERS: Final = ("photos", "later", "heights", "footprints", "experts", "cameras")
MAP_WIDTH: Final = 900.0
_TALLEST: Final = 1000.0
_RIM: Final = 26.0  # a camera off the map is drawn here
_DART_PX: Final = (6.5, 9.0)
_CROWD: Final = 300  # more cameras are drawn smaller
_CROWDED_DART_PX: Final = 4.5
_HEIGHT_QUANTILES: Final = (0.01, 0.99)
_HEIGHTS_PX: Final = 1000  # along the longer side
_SPECK: Final = 8  # an outline of fewer cells is a rounding error between two owners


def map_scale(survey: Survey) -> MapScale:
    """Return the scale that fits the site into the map's figure."""
    extent = survey.extent
    return MapScale(extent, min(MAP_WIDTH, _TALLEST * extent.width_m / extent.height_m))


def site_map(survey: Survey, layers: Collection[str] = LAYERS) -> Figure:
    """Draw the site from above.

    Args:
        survey: a surveyed dataset.
        layers: which of `LAYERS`.
    """
    scale = map_scale(survey)
    shapes: list[Shape] = [rectangle(0, 0, scale.width, scale.height, "paper")]
    for layer in LAYERS:
        if layer in layers:
            shapes.append(Group(_layer(survey, scale, layer), f"layer layer-{layer}"))
    shapes += _bar_and_arrow(scale)
    count = len(survey.roster)
    return Figure(
        scale.width, scale.height, shapes,
        f"Map of the site, north up: {count} cameras, what they see, and sparse points",
    )  # fmt: skip


def _layer(survey: Survey, scale: MapScale, layer: str) -> list[Shape]:
    match layer:
        case "photos":
            return [_whole_map(scale, survey.mosaics[0], photographic=True)]
        case "later":
            laid = survey.mosaics[0].copy() * 0
            for mosaic in survey.mosaics[1:]:
                laid = np.where(mosaic[..., 3:] > 0, mosaic, laid)
            return [_whole_map(scale, laid, photographic=True)] if laid.any() else []
        case "heights":
            return [_whole_map(scale, _height_picture(survey, scale), photographic=False)]
        case "footprints":
            return [
                Line(scale.places(corners), f"footprint-{_age(survey, i)}", closed=True)
                for i, corners in enumerate(survey.views.corners_m)
                if np.isfinite(corners).all()
            ]
        case "experts":
            return [] if survey.experts is None else _experts(survey, survey.experts, scale)
        case _:
            return _cameras(survey, scale)


def _whole_map(scale: MapScale, rgba: NDArray[np.uint8], *, photographic: bool) -> Picture:
    return Picture(0, 0, scale.width, scale.height, rgba, photographic)


def _age(survey: Survey, image: int) -> str:
    return "first" if survey.roster.flights[image] == 0 else "later"


def height_range_m(survey: Survey) -> tuple[float, float] | None:
    """Return the heights of the lowest and highest colour, metres above the site's median ground;
    None without points."""
    if len(survey.tracks.points_m) == 0:
        return None
    ground = float(np.median(survey.terrain.ground_up_m))
    low, high = np.quantile(survey.tracks.points_m[:, 2], _HEIGHT_QUANTILES) - ground
    return float(low), float(max(high, low + 1.0))


def _height_picture(survey: Survey, scale: MapScale) -> NDArray[np.uint8]:
    """Splat the sparse points, the highest on top, u8[h, w, 4]."""
    rows, columns, side_m = survey.extent.grid(_HEIGHTS_PX)
    picture = np.zeros((rows, columns, 4), np.uint8)
    span = height_range_m(survey)
    if span is None:
        return picture
    points = survey.tracks.points_m
    points = points[np.argsort(points[:, 2], kind="stable")]
    ground = float(np.median(survey.terrain.ground_up_m))
    colours = height_colours((points[:, 2] - ground - span[0]) / (span[1] - span[0]))
    x = np.floor((points[:, 0] - survey.extent.west_m) / side_m).astype(np.int64)
    y = np.floor((survey.extent.north_m - points[:, 1]) / side_m).astype(np.int64)
    reach = round(float(np.clip(0.35 * np.sqrt(rows * columns / len(points)), 1.0, 4.0)))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            inside = (x + dx >= 0) & (x + dx < columns) & (y + dy >= 0) & (y + dy < rows)
            picture[(y + dy)[inside], (x + dx)[inside], :3] = colours[inside]
            picture[(y + dy)[inside], (x + dx)[inside], 3] = 255
    return picture


def _cameras(survey: Survey, scale: MapScale) -> list[Shape]:
    places = scale.places(survey.roster.positions_m[:, :2])
    rim = np.array([scale.width, scale.height]) - _RIM
    size_px = _dart_size(places)
    troubled = {
        image
        for one in survey.problems
        if one.severity is not Severity.NOTE
        for image in one.images[:1]
    }
    shapes: list[Shape] = []
    for image, place in enumerate(np.clip(places, _RIM, rim)):
        x, y = float(place[0]), float(place[1])
        inner: list[Shape] = []
        corners = survey.views.corners_m[image]
        if np.isfinite(corners).all():
            own = Line(scale.places(corners), "footprint-chosen", closed=True)
            sight = np.stack([place, scale.places(survey.views.centres_m[image])])
            inner += [
                Group([own], only_chosen=True),
                Group([Line(sight, f"sight-{_age(survey, image)}")], "sight"),
            ]
        if image in troubled:
            inner.append(Disc(x, y, size_px + 3.5, "trouble"))
        inner += [
            Group([Disc(x, y, size_px + 6.0, "ring")], only_chosen=True),
            Dart(x, y, _turn_deg(survey, image), size_px, _dart_paint(survey, image)),
        ]
        shapes.append(Group(inner, "camera", image, camera_title(survey, image)))
    return shapes


def camera_title(survey: Survey, image: int) -> str:
    """Return what hovering over a camera says."""
    height = survey.views.heights_m[image]
    return f"{survey.roster.names[image]} ({survey.roster.splits[image]}), {height:.0f} m up"


def _dart_paint(survey: Survey, image: int) -> str:
    held = survey.roster.splits[image] == "validation" or "held out" in survey.roster.splits[image]
    later = "later-" if survey.roster.flights[image] else ""
    return f"dart-{later}held" if held else f"dart-{_age(survey, image)}"


def _turn_deg(survey: Survey, image: int) -> float:
    """Return where the photograph's upper side points, degrees clockwise from north."""
    up = survey.roster.rotations[image][:, 1]
    return float(np.degrees(np.arctan2(up[0], up[1])))


def _dart_size(places: Float64) -> float:
    """Return a size that leaves room between neighbours."""
    if len(places) < 2:
        return _DART_PX[1]
    nearest = nearest_others(places, 1)[:, 0]
    apart = float(np.median(np.linalg.norm(places - places[nearest], axis=1)))
    least = _DART_PX[0] if len(places) <= _CROWD else _CROWDED_DART_PX
    return float(np.clip(0.35 * apart, least, _DART_PX[1]))


def _experts(survey: Survey, experts: Experts, scale: MapScale) -> list[Shape]:
    shapes: list[Shape] = []
    margins = [_outlines(experts.owned[..., k], scale) for k in range(len(experts))]
    borders = [_outlines(experts.nearest[..., k], scale) for k in range(len(experts))]
    shapes += [Line(line, "expert-margin", closed=True) for lines in margins for line in lines]
    shapes += [Line(line, "expert-casing", closed=True) for lines in borders for line in lines]
    shapes += [Line(line, "expert", closed=True) for lines in borders for line in lines]
    centroids = survey.dataset.frame.world_to_enu_m(experts.partition.centroids)[:, :2]
    counts = experts.counts
    for expert, (x, y) in enumerate(scale.places(centroids)):
        title = (
            f"expert {expert}: {counts.images[expert]} images, {counts.points[expert]} points, "
            f"{counts.pixel_shares[expert]:.0%} of pixels"
        )
        badge = Disc(float(x), float(y), 14, "expert-badge")
        name = Text(float(x), float(y) + 5, str(expert), "expert-name", 14, "middle", bold=True)
        shapes.append(Group([badge, name], "expert-mark", None, title))
    return shapes


def _outlines(mask: NDArray[np.bool_], scale: MapScale) -> list[Float64]:
    """Return the outlines of an area of the map, each f64[n, 2] in figure units."""
    rows, columns = mask.shape
    doubled = cv2.resize(
        mask.astype(np.uint8), (2 * columns, 2 * rows), interpolation=cv2.INTER_NEAREST
    )
    # Outlines run through the outermost cells; grown, those of two neighbours meet.
    grown = cv2.dilate(doubled, np.ones((3, 3), np.uint8))
    found, _ = cv2.findContours(grown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    size = np.array([scale.width / (2 * columns), scale.height / (2 * rows)])
    outlines: list[Float64] = []
    for line in found:
        if len(line) > _SPECK:
            corners = np.asarray(cv2.approxPolyDP(line, 2.0, True), np.float64).reshape(-1, 2)
            outlines.append((corners + 0.5) * size)
    return outlines


def coverage_map(survey: Survey, coverage: Coverage) -> Figure:
    """Draw how many cameras see each piece of ground."""
    scale = map_scale(survey)
    picture = coverage_colours(coverage.counts)
    shapes: list[Shape] = [
        rectangle(0, 0, scale.width, scale.height, "paper"),
        _whole_map(scale, picture, photographic=False),
        *_bar_and_arrow(scale),
    ]
    return Figure(
        scale.width, scale.height, shapes,
        f"Map of how many cameras see each piece of ground; {coverage.area_ha(1):.1f} hectares are "
        "seen at all",
    )  # fmt: skip


def _bar_and_arrow(scale: MapScale) -> list[Shape]:
    """Return a scale bar at the lower left and a north arrow at the upper right."""
    length_m = round_step(scale.extent.width_m * 0.2, 1)
    length = length_m * scale.units_per_m
    words = f"{length_m:g} m" if length_m < 1000 else f"{length_m / 1000:g} km"
    x, y = 14.0, scale.height - 14.0
    label = Pinned(x, y - 6, [
        rectangle(0, -22, 12.0 + 8.5 * len(words), 21, "scale-plate"),
        Text(5, -6, words, "label", 15, bold=True),
    ])  # fmt: skip
    compass = Pinned(scale.width - 10, 10, [
        rectangle(-34, 0, 34, 54, "scale-plate"),
        Dart(-17, 20, 0.0, 13, "north"),
        Text(-17, 49, "N", "label", 15, "middle", bold=True),
    ])  # fmt: skip
    plate = rectangle(x - 2, y - 6, length + 4, 8, "scale-plate")
    return [plate, rectangle(x, y - 4, length, 4, "scale-bar"), label, compass]
