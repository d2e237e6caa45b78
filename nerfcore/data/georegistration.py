"""Owns placing a reconstruction on the Earth by its photographs' GPS, and judging whether it fits.

The similarity that brings the cameras to their GPS positions is fitted in ENU around the mean
position, outliers left out. A reconstruction that is folded, or whose focal length ran away, fits
no similarity: it shows as distances that are large beside the spread of the GPS positions. The
spread is the root mean square of their distances from their mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.data.similarity import Similarity, fit_robustly
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import (
    GeoPoint,
    ecef_to_enu,
    ecef_to_enu_rotation,
    ecef_to_geodetic,
    geodetic_to_ecef,
)

Float64 = NDArray[np.float64]
LEAST_PLACED: Final = 3
GPS_NOISE_M: Final = 5.0  # residuals up to this are no outliers
_LEAST_WIDTH: Final = 0.02  # of a flight's length; a straight line leaves the roll open
_ACCEPTED_M: Final = 2.0 * GPS_NOISE_M
_ACCEPTED_OF_SPREAD: Final = 0.05  # a wide site's drift
_MOST_OF_SPREAD: Final = 0.2  # a small site's limit: more would fit anything
_UPPER: Final = 0.75  # a fit to half of few cameras comes by chance, so three quarters must fit too


@dataclass(frozen=True)
class Alignment:
    """How well a reconstruction fits its GPS positions.

    Attributes:
        photographs, reconstructed, with_gps: numbers of photographs; the last of those
            reconstructed.
        metres_per_unit: scale of the similarity.
        median_m, upper_m, largest_m: distance between cameras and their GPS positions; three
            quarters are at most upper_m.
        spread_m: of the GPS positions.
        limit_m: what median_m may be, and half of what upper_m may be.
    """

    photographs: int
    reconstructed: int
    with_gps: int
    metres_per_unit: float
    median_m: float
    upper_m: float
    largest_m: float
    spread_m: float
    limit_m: float

    @property
    def fits(self) -> bool:
        """Tell whether the reconstruction can be what the GPS positions say."""
        return self.median_m <= self.limit_m and self.upper_m <= 2.0 * self.limit_m


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a reconstruction lies.

    Attributes:
        to_ecef: takes its coordinates to ECEF metres.
        alignment: how well that fits.
    """

    to_ecef: pycolmap.Sim3d
    alignment: Alignment


def place(
    folder: Path,
    model: pycolmap.Reconstruction,
    photographs: int,
    places: Mapping[str, GeoPoint],
) -> Placement:
    """Fit a reconstruction to the GPS positions of its photographs.

    Args:
        folder: the photographs, for errors.
        model: in coordinates of its own; stays as it is.
        photographs: how many there are in all.
        places: GPS positions by name.

    Raises:
        DataError: fewer than three posed photographs have GPS, or their positions leave the
            placement open.
    """
    posed = sorted(
        (image for image in model.images.values() if image.has_pose), key=lambda one: one.name
    )
    used = [image for image in posed if image.name in places]
    if len(used) < LEAST_PLACED:
        raise DataError(
            f"{folder}: {len(used)} reconstructed photographs have GPS, at least {LEAST_PLACED} "
            "are needed; use the originals, or bring a COLMAP model"
        )
    target, reference = local_positions([places[image.name] for image in used])
    check_spread(folder, target)
    source = np.array([image.projection_center() for image in used])
    found, residuals_m = fit_robustly(source, target, GPS_NOISE_M)
    spread_m = spread_of(target)
    alignment = Alignment(
        photographs=photographs,
        reconstructed=len(posed),
        with_gps=len(used),
        metres_per_unit=found.scale,
        median_m=float(np.median(residuals_m)),
        upper_m=float(np.quantile(residuals_m, _UPPER)),
        largest_m=float(residuals_m.max()),
        spread_m=spread_m,
        limit_m=accepted_median_m(spread_m),
    )
    return Placement(_to_ecef(found, reference), alignment)


def local_positions(places: list[GeoPoint]) -> tuple[Float64, GeoPoint]:
    """Return GPS positions in ENU around their mean, f64[N, 3] metres, and that mean."""
    ecef = np.array([geodetic_to_ecef(place) for place in places])
    reference = GeoPoint(*(float(value) for value in ecef_to_geodetic(ecef.mean(axis=0))))
    return ecef_to_enu(ecef, reference), reference


def spread_of(positions_m: Float64) -> float:
    """Return the root mean square distance of positions f64[N, 3] from their mean."""
    return float(np.sqrt(((positions_m - positions_m.mean(axis=0)) ** 2).sum(axis=1).mean()))


def accepted_median_m(spread_m: float) -> float:
    """Return how far cameras may lie from their GPS positions (median), by those's spread."""
    return min(max(_ACCEPTED_M, _ACCEPTED_OF_SPREAD * spread_m), _MOST_OF_SPREAD * spread_m)


def misfit(folder: Path, alignment: Alignment, tries: int) -> DataError:
    """Return the refusal of a reconstruction that does not fit its GPS positions."""
    return DataError(
        f"{folder}: the reconstruction does not fit its GPS: the cameras of "
        f"{alignment.reconstructed} of {alignment.photographs} photographs lie "
        f"{alignment.median_m:.1f} m (median) from their GPS positions and a quarter more than "
        f"{alignment.upper_m:.1f} m, where the positions spread over {alignment.spread_m:.1f} m; "
        f"at most {alignment.limit_m:.1f} m and {2.0 * alignment.limit_m:.1f} m are accepted, and "
        f"{tries} tries gave nothing better; use the originals (their EXIF data hold the focal "
        "length) and more overlap, correct wrong GPS, or bring a COLMAP model"
    )


def check_spread(folder: Path, positions_m: Float64) -> None:
    """Refuse GPS positions on one line or in one place: they leave the placement open.

    Raises:
        DataError: they do.
    """
    spread = np.linalg.svd(positions_m - positions_m.mean(axis=0), compute_uv=False)
    if spread[0] == 0.0 or spread[1] < _LEAST_WIDTH * spread[0]:
        raise DataError(
            f"{folder}: the GPS positions of the {len(positions_m)} reconstructed photographs lie "
            "in one place or on one line, which leaves the site's tilt open; use a flight with "
            "turns or a second line"
        )


def _to_ecef(found: Similarity, reference: GeoPoint) -> pycolmap.Sim3d:
    from_enu = ecef_to_enu_rotation(reference).T
    rotation = pycolmap.Rotation3d(from_enu @ found.rotation)
    return pycolmap.Sim3d(
        found.scale, rotation, from_enu @ found.shift + geodetic_to_ecef(reference)
    )
