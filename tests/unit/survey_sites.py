"""Makes a small prepared dataset over textured ground, and damages it in known ways.

The ground is level at Up = -100 m and carries a sharp random texture; 25 cameras fly 100 m above it
in five lines, 40 m apart. A second flight of 6 cameras can be added.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from data_flights import Flight, camera_of, make_flight
from numpy.typing import NDArray

from nerfcore.data.clusters import ClusterSettings, write_partition
from nerfcore.data.dataset import load_dataset
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.storage import describe_file

GROUND_UP_M = -100.0
COUNT = 25
SIZE = (256, 192)


@dataclass(frozen=True)
class Damage:
    """What to spoil, by image names such as "0003.png"."""

    blurred: tuple[str, ...] = ()
    dark: tuple[str, ...] = ()
    burnt: tuple[str, ...] = ()
    copied: tuple[tuple[str, str], ...] = ()  # (target, source)


def camera() -> pycolmap.Camera:
    """Return the flight's camera: 256x192 px, 213 px focal length."""
    made = camera_of("PINHOLE", *SIZE)
    made.params = [213.0, 213.0, 128.0, 96.0]
    return made


def ground_texture() -> NDArray[np.uint8]:
    """Return a texture of fields with sharp edges, u8[1200, 1200, 3]: 600 m a side."""
    rng = np.random.default_rng(7)
    texture = np.zeros((1200, 1200, 3), np.float32)
    for cells, weight in ((12, 60.0), (60, 50.0), (300, 35.0)):
        noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        noise = 0.6 * noise + 0.4 * noise.mean(axis=2, keepdims=True)
        texture += weight * cv2.resize(noise, (1200, 1200), interpolation=cv2.INTER_NEAREST)
    return np.clip(texture + 120, 20, 235).astype(np.uint8)


def photograph(flight: Flight, index: int, texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a camera of the flight sees of the textured ground, RGB."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    local = np.stack([(columns - 128) / 213, (rows - 96) / 213, np.ones_like(rows)], axis=-1)
    rays = local @ flight.rotations[index]
    centre = flight.centres_m[index]
    reach = (GROUND_UP_M - centre[2]) / rays[..., 2]
    places = centre[:2] + rays[..., :2] * reach[..., None]
    x = (places[..., 0] * 2 + 600).astype(np.float32)
    y = (600 - places[..., 1] * 2).astype(np.float32)
    return np.asarray(cv2.remap(texture, x, y, cv2.INTER_LINEAR), np.uint8)


def _write_photographs(flight: Flight, damage: Damage) -> None:
    texture = ground_texture()
    for index, name in enumerate(flight.names):
        picture = photograph(flight, index, texture)
        if name in damage.blurred:
            picture = cv2.GaussianBlur(picture, (0, 0), 3.0)
        if name in damage.dark:
            picture = (picture * 0.12).astype(np.uint8)
        if name in damage.burnt:
            picture = np.clip(picture * 2.6, 0, 255).astype(np.uint8)
        cv2.imwrite(str(flight.root / "images" / name), np.asarray(picture)[..., ::-1])
    for target, source in damage.copied:
        content = (flight.root / "images" / source).read_bytes()
        (flight.root / "images" / target).write_bytes(content)


def make_site(
    folder: Path, damage: Damage = Damage(), *, experts: bool = True, ecef: bool = True
) -> Path:
    """Prepare the site and return the dataset's folder; every fifth image is for validation."""
    flight = make_flight(folder / "source", count=COUNT, camera=camera(), ecef=ecef, noise_px=0.2)
    _write_photographs(flight, damage)
    root = folder / "site"
    prepare_dataset(folder / "source", root, PrepareSettings(val_split=0.2, ecef_to_enu=ecef))
    if experts:
        write_partition(load_dataset(root), ClusterSettings((2, 2), cluster_2d=True))
    return root


def move_camera(root: Path, name: str, offset_m: tuple[float, float, float]) -> None:
    """Shift a prepared training camera by metres Down, East, South, listing updated."""
    dataset = load_dataset(root)
    with np.load(root / "train" / "cameras.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    shift = np.array(offset_m) / dataset.frame.pose_scale_factor_m
    arrays["c2w"][dataset.train.names.index(name), :, 3] += shift.astype(np.float32)
    np.savez(root / "train" / "cameras.npz", **arrays)
    listing = json.loads((root / "dataset.json").read_text())
    record = describe_file(root, "train/cameras.npz").model_dump(mode="json")
    listing["train"]["cameras"] = record
    (root / "dataset.json").write_text(json.dumps(listing))
