#!/usr/bin/env python3
"""Owns measuring the preparation and division of a large flight: the real commands, as a user's.

The flight is a COLMAP model in ECEF with a distorting camera; its photographs are cut from one
textured ground, so that decoding, undistorting and encoding cost what real ones do. Run by itself
it prints the rows alone.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import cv2
import numpy as np
import pycolmap
import typer
from bench_measure import BenchError, Row, rounded
from numpy.typing import NDArray

from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu_rotation, enu_to_ecef

SCRIPTS: Final = Path(__file__).resolve().parent
IMAGES: Final = 1000
SIZE_PX: Final = (1024, 768)
POINTS: Final = 60_000
PICTURES: Final = 100  # different ones; more photographs are copies of them under other names
LIMIT_S: Final = 300.0
LIMIT_GB: Final = 2.0
_SITE: Final = GeoPoint(51.549, 7.373, 233.0)
_SPACING_M: Final = 20.0
_POLL_S: Final = 0.05
_HEIGHT_M: Final = 100.0
_FOCAL_PX: Final = 900.0
_TEXTURE_PX: Final = 4096
_DOWN: Final = np.diag([1.0, -1.0, -1.0])  # ENU -> camera (RDF), top = north


def make_flight(root: Path, images: int = IMAGES) -> None:
    """Write root/model and root/images, a lawnmower flight over flat ground.

    Args:
        root: an empty or missing folder.
        images: number of photographs.
    """
    rng = np.random.default_rng(0)
    width, height = SIZE_PX
    parameters = np.array([_FOCAL_PX, _FOCAL_PX, width / 2, height / 2, 0.05, -0.01, 1e-4, -1e-4])
    camera = pycolmap.Camera(
        camera_id=1, model="OPENCV", width=width, height=height, params=parameters
    )
    side = int(np.ceil(np.sqrt(images)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[:images]
    plan = (grid - (side - 1) / 2.0) * _SPACING_M
    centres = np.column_stack([plan, rng.uniform(-1.0, 1.0, images)]).astype(np.float64)
    tilts = rng.uniform(-0.1, 0.1, (images, 3))
    rotations = np.stack([_turn(tilt) @ _DOWN for tilt in tilts])
    reach_m = side * _SPACING_M / 2.0 + 40.0
    points = np.column_stack(
        [rng.uniform(-reach_m, reach_m, (POINTS, 2)), -_HEIGHT_M + 12.0 * rng.random(POINTS) ** 2]
    )
    names = [f"{index:06d}.jpg" for index in range(images)]
    _write_model(root / "model", camera, names, rotations, centres, points, rng)
    _write_photographs(root / "images", names, rotations, rng)


def _turn(tilt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation f64[3, 3] about a vector f64[3], rad."""
    return np.asarray(cv2.Rodrigues(tilt)[0], np.float64)


def _write_model(
    folder: Path,
    camera: pycolmap.Camera,
    names: list[str],
    rotations: NDArray[np.float64],
    centres: NDArray[np.float64],
    points: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera)
    tracks: list[list[pycolmap.TrackElement]] = [[] for _ in points]
    to_enu = ecef_to_enu_rotation(_SITE)
    for index, name in enumerate(names):
        pixels = np.asarray(camera.img_from_cam((points - centres[index]) @ rotations[index].T))
        seen = np.flatnonzero(((pixels > 0) & (pixels < SIZE_PX)).all(axis=1))
        noisy = pixels[seen] + rng.normal(0.0, 0.3, (len(seen), 2))
        rotation = rotations[index] @ to_enu
        translation = -rotation @ enu_to_ecef(centres[index], _SITE)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), translation)
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1, keypoints=noisy)
        model.add_image_with_trivial_frame(image, pose)
        for row, point in enumerate(seen):
            tracks[point].append(pycolmap.TrackElement(index + 1, row))
    for point, track in zip(enu_to_ecef(points, _SITE), tracks, strict=True):
        if len(track) >= 2:
            model.add_point3D(point, pycolmap.Track(track), np.array([90, 90, 90], np.uint8))
    model.update_point_3d_errors()
    folder.mkdir(parents=True)
    model.write_binary(str(folder))


def _write_photographs(
    folder: Path, names: list[str], rotations: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Cut the photographs from one texture; only their cost matters, not where they lie."""
    contents = _pictures(rotations[:PICTURES], rng)
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / name).write_bytes(contents[index % len(contents)])


def _pictures(rotations: NDArray[np.float64], rng: np.random.Generator) -> list[bytes]:
    """Return one encoded photograph for each rotation."""
    texture = np.zeros((_TEXTURE_PX, _TEXTURE_PX, 3), np.float32)
    for cells in (64, 512, 4096):
        part = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        texture += cv2.resize(part, (_TEXTURE_PX, _TEXTURE_PX), interpolation=cv2.INTER_CUBIC) / 3
    ground = np.clip(texture, 0, 255).astype(np.uint8)
    width, height = SIZE_PX
    contents = []
    for rotation in rotations:
        left, top = rng.integers(0, _TEXTURE_PX - np.array([width, height]) - 200)
        tilt = np.array([[1.0, rotation[0, 1], left], [rotation[1, 0], 1.0, top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(ground, tilt, SIZE_PX, flags=flags, borderMode=cv2.BORDER_REFLECT)
        content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        contents.append(content.tobytes())
    return contents


def _measured(*command: object) -> tuple[float, float]:
    """Run a command to its end; return its seconds and its largest resident memory, GB."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak_gb = 0.0
    # Not getrusage: its figure for a child starts with this process's own size.
    while process.poll() is None:
        peak_gb = max(peak_gb, _peak_gb(process.pid))
        time.sleep(_POLL_S)
    seconds = time.monotonic() - start
    _, error = process.communicate()
    if process.returncode != 0:
        raise BenchError(f"{Path(str(command[0])).name} failed: {error.decode().strip()}")
    return seconds, peak_gb


def _peak_gb(pid: int) -> float:
    """Return the largest resident memory a process has had so far; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return float(lines[0].split()[1]) * 1024 / 1e9 if lines else 0.0


def data_rows(
    folder: Path,
    images: int = IMAGES,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Row]:
    """Measure once; a run is long enough for a steady figure.

    Args:
        folder: where to work; 1,000 images need 1.5 GB, removed at the end.
        images: number of photographs; the limits are those of 1,000.
        on_progress: called with (phase, done, total).

    Returns:
        The time of both commands together, and the larger memory of the two.
    """
    with tempfile.TemporaryDirectory(prefix="data-", dir=folder) as place:
        root = Path(place)
        on_progress("data, making photographs", 0, 3)
        make_flight(root / "flight", images)
        model_bytes = sum(path.stat().st_size for path in (root / "flight/model").iterdir())
        on_progress("data, preparing", 1, 3)
        prepare_s, prepare_gb = _measured(
            SCRIPTS / "prepare_dataset.py", "--data_path", root / "flight", "--output_path",
            root / "data", "--ecef_to_enu", "--val_split", "0.1",
        )  # fmt: skip
        on_progress("data, dividing", 2, 3)
        cluster_s, cluster_gb = _measured(
            SCRIPTS / "create_clusters.py", "--data_path", root / "data", "--cluster_2d", "--auto"
        )
        written = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
        on_progress("data, dividing", 3, 3)
    seconds, peak_gb = prepare_s + cluster_s, max(prepare_gb, cluster_gb)
    detail = {
        "images": f"{images} of {SIZE_PX[0]}x{SIZE_PX[1]}, OPENCV lens",
        "model_mb": rounded(model_bytes / 1e6),
        "written_mb": rounded(written / 1e6),
    }
    times = {"prepare_s": rounded(prepare_s), "cluster_s": rounded(cluster_s)}
    peaks = {"prepare_gb": rounded(prepare_gb), "cluster_gb": rounded(cluster_gb)}
    return [
        _within(
            f"prepare_cluster_{images}_images", seconds, "s", LIMIT_S / seconds,
            f"the limit of {LIMIT_S:g} s", LIMIT_S, detail | times,
        ),
        _within(
            f"prepare_cluster_{images}_memory", peak_gb, "GB", peak_gb / LIMIT_GB,
            "the limit (a share of it)", LIMIT_GB,
            detail | peaks | {"counted": "VmHWM: all resident memory of the larger command"},
        ),
    ]  # fmt: skip


def _within(
    name: str, value: float, unit: str, ratio: float, against: str, limit: float,
    detail: dict[str, Any],
) -> Row:  # fmt: skip
    return Row(
        name, rounded(value), unit, rounded(ratio), against, f"< {limit:g} {unit}", value < limit,
        detail,
    )  # fmt: skip


def main(
    images: Annotated[int, typer.Option(help="Number of photographs.", min=4)] = IMAGES,
    folder: Annotated[Path | None, typer.Option(help="Where to work.")] = None,
) -> None:
    """Measure preparing and dividing a large synthetic flight; print the rows as JSON."""
    with tempfile.TemporaryDirectory(prefix="skyline-bench-", dir=folder) as place:
        rows = data_rows(Path(place), images)
    print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
