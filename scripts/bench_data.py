#!/usr/bin/env python3
"""Measure preparing and dividing a large synthetic flight: time and memory of the real commands.

The flight is a COLMAP model in ECEF with a distorting camera; its photographs are cut from one
textured ground, so that decoding, undistorting and encoding cost what real ones do.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Final

import cv2
import numpy as np
import pycolmap
import typer
from numpy.typing import NDArray

from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu_rotation, enu_to_ecef

SCRIPTS: Final = Path(__file__).resolve().parent
IMAGES: Final = 1000
SIZE_PX: Final = (1024, 768)
POINTS: Final = 60_000
LIMIT_S, LIMIT_MB = 300.0, 2048.0
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
    texture = np.zeros((_TEXTURE_PX, _TEXTURE_PX, 3), np.float32)
    for cells in (64, 512, 4096):
        part = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        texture += cv2.resize(part, (_TEXTURE_PX, _TEXTURE_PX), interpolation=cv2.INTER_CUBIC) / 3
    ground = np.clip(texture, 0, 255).astype(np.uint8)
    folder.mkdir(parents=True)
    width, height = SIZE_PX
    for name, rotation in zip(names, rotations, strict=True):
        left, top = rng.integers(0, _TEXTURE_PX - np.array([width, height]) - 200)
        tilt = np.array([[1.0, rotation[0, 1], left], [rotation[1, 0], 1.0, top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(ground, tilt, SIZE_PX, flags=flags, borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])


def _measured(*command: object) -> tuple[float, float]:
    """Run a command to its end; return its seconds and its largest resident memory, MB."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak_mb = 0.0
    # Not getrusage: its figure for a child starts with this process's own size.
    while process.poll() is None:
        peak_mb = max(peak_mb, _peak_mb(process.pid))
        time.sleep(_POLL_S)
    seconds = time.monotonic() - start
    _, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{Path(str(command[0])).name} failed: {error.decode().strip()}")
    return seconds, peak_mb


def _peak_mb(pid: int) -> float:
    """Return the largest resident memory a process has had so far; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return float(lines[0].split()[1]) / 1024.0 if lines else 0.0


def _row(name: str, value: float, unit: str, limit: float | None, detail: str) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 1),
        "unit": unit,
        "ratio": None if limit is None else round(value / limit, 3),
        "against": None if limit is None else f"limit of {limit:g} {unit}",
        "detail": detail,
    }


def rows(images: int = IMAGES, folder: Path | None = None) -> list[dict[str, Any]]:
    """Measure once.

    Args:
        images: number of photographs; the limits hold for 1,000.
        folder: where to work, None = a temporary folder; 1,000 images need 2 GB.

    Returns:
        One record per figure: name, value, unit, ratio to its limit (below 1 is within), against
        what, and details.
    """
    with tempfile.TemporaryDirectory(prefix="skyline-bench-", dir=folder) as place:
        root = Path(place)
        make_flight(root / "flight", images)
        model_mb = sum(path.stat().st_size for path in (root / "flight/model").iterdir()) / 1e6
        load = os.getloadavg()[0]
        prepare_s, prepare_mb = _measured(
            SCRIPTS / "prepare_dataset.py", "--data_path", root / "flight", "--output_path",
            root / "data", "--ecef_to_enu", "--val_split", "0.1",
        )  # fmt: skip
        cluster = (SCRIPTS / "create_clusters.py", "--data_path", root / "data", "--cluster_2d")
        cluster_s, cluster_mb = _measured(*cluster, "--auto")
        masks_s, masks_mb = _measured(*cluster, "--auto", "--resume", "--masks", "compact")
        size_mb = sum(p.stat().st_size for p in (root / "data").rglob("*") if p.is_file()) / 1e6
        shutil.rmtree(root / "data")
    limit_s = LIMIT_S if images >= IMAGES else None
    limit_mb = LIMIT_MB if images >= IMAGES else None
    shape = f"{images} images {SIZE_PX[0]}x{SIZE_PX[1]}, OPENCV lens, model of {model_mb:.0f} MB"
    at_load = f"{os.cpu_count()} cores, load {load:.1f} before"
    peak_mb = max(prepare_mb, cluster_mb)
    return [
        _row("prepare + cluster", prepare_s + cluster_s, "s", limit_s, f"{shape}; {at_load}"),
        _row("prepare + cluster, memory", peak_mb, "MB", limit_mb, "largest resident size"),
        _row("prepare", prepare_s, "s", None, f"{size_mb:.0f} MB written; {prepare_mb:.0f} MB RSS"),
        _row("cluster (--auto)", cluster_s, "s", None, f"{cluster_mb:.0f} MB RSS"),
        _row("cluster, compact masks", masks_s, "s", None, f"{masks_mb:.0f} MB RSS"),
    ]


def main(
    images: Annotated[int, typer.Option(help="Number of photographs.", min=4)] = IMAGES,
    folder: Annotated[Path | None, typer.Option(help="Where to work.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure preparing and dividing a large synthetic flight."""
    found = rows(images, folder)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for row in found:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} of the {row['against']}; "
        print(f"{row['name']:28} {row['value']:8.1f} {row['unit']:3} {ratio}{row['detail']}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
