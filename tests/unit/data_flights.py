"""Makes small genuine COLMAP flights with photographs whose every pixel is a known function of its
viewing direction, so that undistortion can be checked."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from nerfcore.data.records import Dataset
from nerfcore.geometry.frames import c2w_to_colmap
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu_rotation, enu_to_ecef

SITE = GeoPoint(51.549, 7.373, 233.0)
DOWN_FACING = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])  # RDF, top = north


@dataclass(frozen=True)
class Flight:
    """What a flight was made from: names, exact poses and points in ENU."""

    root: Path
    names: tuple[str, ...]
    rotations: NDArray[np.float64]  # [N, 3, 3], ENU -> camera (RDF)
    centres_m: NDArray[np.float64]
    points_m: NDArray[np.float64]
    camera: pycolmap.Camera


def camera_of(model: str, width_px: int = 96, height_px: int = 72) -> pycolmap.Camera:
    """Return a camera of this COLMAP model with a mild distortion in its first term."""
    kind = pycolmap.CameraModelId.__members__[model]
    camera = pycolmap.Camera.create_from_model_id(1, kind, 80.0, width_px, height_px)
    params = np.array(camera.params)
    extra = list(camera.extra_params_idxs())
    if extra:
        params[extra[0]] = 0.4 if model in ("FOV", "EUCM") else 0.05
        if model == "EUCM":
            params[extra[1]] = 1.0
    camera.params = params
    return camera


def colour_of(rays: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the colour that a viewing direction (x/z, y/z) [..., 2] shows, u8[..., 3]."""
    x, y = rays[..., 0], rays[..., 1]
    channels = [np.sin(5 * x), np.cos(4 * y), np.sin(3 * (x + y))]
    return np.round(140 + 60 * np.stack(channels, axis=-1)).astype(np.uint8)


def picture_of(camera: pycolmap.Camera) -> NDArray[np.uint8]:
    """Return the photograph that `colour_of` gives through this camera."""
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    rays = np.nan_to_num(np.asarray(camera.cam_from_img(pixels)))
    return colour_of(rays).reshape(camera.height, camera.width, 3)


def make_flight(
    root: Path,
    *,
    count: int = 9,
    camera: pycolmap.Camera | None = None,
    ecef: bool = False,
    noise_px: float = 0.0,
    prefix: str = "",
    extension: str = ".png",
    round_rotations: bool = False,
    seed: int = 0,
) -> Flight:
    """Write root/model (binary) and root/images: a lawnmower flight 100 m above the ground.

    Args:
        round_rotations: hold rotations in float32 before the ECEF translation is computed from
            them, the way such models lose precision.
    """
    rng = np.random.default_rng(seed)
    camera = camera_of("PINHOLE") if camera is None else camera
    side = int(np.ceil(np.sqrt(count)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[:count]
    centres = np.column_stack([grid * 40.0 - 20.0 * (side - 1), rng.uniform(-1, 1, count)])
    tilts = rng.uniform(-0.15, 0.15, (count, 3))
    rotations = np.array([cv2.Rodrigues(tilt)[0] @ DOWN_FACING for tilt in tilts])
    points = np.column_stack([rng.uniform(-90, 90, (400, 2)), -100 + 12 * rng.random(400) ** 2])
    names = tuple(f"{prefix}{index:04d}{extension}" for index in range(count))
    flight = Flight(root, names, rotations, centres, points, camera)
    _write_model(flight, ecef=ecef, noise_px=noise_px, rounded=round_rotations, rng=rng)
    encoded = cv2.imencode(extension, picture_of(camera)[..., ::-1])[1].tobytes()
    encoded += prefix.encode()  # behind the picture's end: other flights are other photographs
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    return flight


def _write_model(
    flight: Flight, *, ecef: bool, noise_px: float, rounded: bool, rng: np.random.Generator
) -> None:
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(flight.camera)
    tracks: list[list[tuple[int, int]]] = [[] for _ in flight.points_m]
    to_world = ecef_to_enu_rotation(SITE) if ecef else np.eye(3)
    for index, name in enumerate(flight.names):
        rotation, centre = flight.rotations[index], flight.centres_m[index]
        local = (flight.points_m - centre) @ rotation.T
        pixels = np.asarray(flight.camera.img_from_cam(local))
        size = (flight.camera.width, flight.camera.height)
        seen = np.flatnonzero(((pixels > 0) & (pixels < size)).all(axis=1))
        noisy = pixels[seen] + rng.normal(0, noise_px, (len(seen), 2)) if noise_px else pixels[seen]
        world_rotation = rotation @ to_world
        if rounded:
            world_rotation = world_rotation.astype(np.float32).astype(np.float64)
        world_centre = enu_to_ecef(centre, SITE) if ecef else centre
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(world_rotation), -world_rotation @ world_centre)
        image = pycolmap.Image(
            name=name, camera_id=flight.camera.camera_id, image_id=index + 1, keypoints=noisy
        )
        model.add_image_with_trivial_frame(image, pose)
        for row, point in enumerate(seen):
            tracks[point].append((index + 1, row))
    world_points = enu_to_ecef(flight.points_m, SITE) if ecef else flight.points_m
    for point, track in zip(world_points, tracks, strict=True):
        if len(track) >= 2:
            elements = [pycolmap.TrackElement(*element) for element in track]
            model.add_point3D(point, pycolmap.Track(elements), np.array([9, 8, 7], np.uint8))
    if rounded:
        _list_true_errors(model, noise_px)
    else:
        model.update_point_3d_errors()
    folder = flight.root / "model"
    folder.mkdir(parents=True, exist_ok=True)
    model.write_binary(str(folder))


def _list_true_errors(model: pycolmap.Reconstruction, noise_px: float) -> None:
    """List the errors the points had before the poses were rounded."""
    for point in model.points3D.values():
        point.error = noise_px * np.sqrt(np.pi / 2)


def back_to_colmap(dataset: Dataset, flight_root: Path) -> pycolmap.Reconstruction:
    """Return COLMAP's model with poses and points taken from the prepared dataset."""
    assert dataset.points is not None
    model = pycolmap.Reconstruction(str(flight_root / "model"))
    frame = dataset.frame
    for images in (dataset.train, dataset.val):
        rotations, centres = c2w_to_colmap(
            images.c2w, frame.origin_drb_m, frame.pose_scale_factor_m
        )
        if frame.enu_ref is not None:
            rotations = ecef_to_enu_rotation(frame.enu_ref).T @ rotations
            centres = enu_to_ecef(centres, frame.enu_ref)
        for name, rotation, centre in zip(images.names, rotations, centres, strict=True):
            left, _, right = np.linalg.svd(rotation)
            world_to_camera = (left @ right).T
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(world_to_camera), -world_to_camera @ centre)
            image = model.find_image_with_name(name)
            image.frame.set_cam_from_world(image.camera_id, pose)
    points = frame.world_to_enu_m(dataset.points.xyz)
    if frame.enu_ref is not None:
        points = enu_to_ecef(points, frame.enu_ref)
    for point, xyz in zip(model.points3D.values(), points, strict=True):
        point.xyz = xyz
    return model


def leftovers(folder: Path) -> list[str]:
    """Return the names of temporary entries directly below the folder."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]
