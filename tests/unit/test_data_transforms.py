"""Flights from a transforms.json: the same dataset as from the COLMAP model, and every refusal."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from data_flights import camera_of, leftovers, make_flight
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfcore.data.colmap import read_model
from nerfcore.data.flight import find_source
from nerfcore.data.images import ImageStore
from nerfcore.data.ply import read_ply_points
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.transforms import read_transforms
from nerfcore.errors import DataError
from nerfcore.geometry.frames import RDF_TO_RUB, camera_centres

# nerfstudio's way of turning COLMAP's world: swap y and z, mirror the new z back.
NERFSTUDIO = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
PLAIN = PrepareSettings()


def lens_fields(camera: pycolmap.Camera) -> dict:
    """Return the camera as nerfstudio writes it."""
    names = {
        "PINHOLE": "fl_x fl_y cx cy",
        "OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2",
        "OPENCV_FISHEYE": "fl_x fl_y cx cy k1 k2 k3 k4",
        "FULL_OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2 k3",
    }[camera.model_name].split()
    fields = dict(zip(names, map(float, camera.params), strict=False))
    kind = "OPENCV" if camera.model_name == "FULL_OPENCV" else camera.model_name
    return {"w": camera.width, "h": camera.height, "camera_model": kind, **fields}


def write_ply(path: Path, xyz, rgb, kind: str) -> None:
    """Write points as ASCII or binary PLY with an extra property and a face element."""
    order = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    layout = [("x", f"{order}f8"), ("y", f"{order}f8"), ("z", f"{order}f8"), ("q", f"{order}f4")]
    layout += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.zeros(len(xyz), layout)
    for axis, name in enumerate("xyz"):
        rows[name] = xyz[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = rgb[:, channel]
    head = f"ply\nformat {kind} 1.0\ncomment a point cloud\nelement vertex {len(xyz)}\n"
    head += "".join(f"property double {name}\n" for name in "xyz") + "property float q\n"
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    head += "element face 0\nproperty list uchar int vertex_index\nend_header\n"
    if kind == "ascii":
        body = "".join(" ".join(repr(v.item()) for v in row) + "\n" for row in rows).encode()
    else:
        body = rows.tobytes()
    path.write_bytes(head.encode() + body)


def export(flight_root: Path, applied=None, scale: float = 1.0, kind: str = "ascii") -> Path:
    """Write the flight's COLMAP model as transforms.json beside it, and return the file."""
    model = read_model(flight_root)
    applied = np.eye(3, 4) if applied is None else applied
    frames = []
    centres = camera_centres(model.cam_from_world)
    for index, name in enumerate(model.names):
        rotation = model.cam_from_world[index, :, :3].T @ RDF_TO_RUB
        pose = np.column_stack([rotation, centres[index]])
        pose = np.column_stack(
            [applied[:, :3] @ pose[:, :3], scale * (applied[:, :3] @ pose[:, 3] + applied[:, 3])]
        )
        matrix = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"./images/{name}", "transform_matrix": matrix})
    content = {**lens_fields(model.cameras[0]), "frames": frames[::-1]}
    content |= {"applied_transform": applied.tolist(), "applied_scale": scale, "aabb_scale": 16}
    points = scale * (model.points.xyz_m @ applied[:, :3].T + applied[:, 3])
    write_ply(flight_root / "points.ply", points, model.points.rgb, kind)
    content["ply_file_path"] = "points.ply"
    file = flight_root / "transforms.json"
    file.write_text(json.dumps(content))
    return file


def change(file: Path, spoil) -> None:
    """Change the file's content in place."""
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("applied", [None, NERFSTUDIO], ids=["as it is", "nerfstudio"])
@pytest.mark.parametrize("ecef", [False, True], ids=["local", "ecef"])
def test_same_dataset_as_from_colmap(tmp_path, model, applied, ecef):
    """Poses, lenses, photographs and points come out as from the COLMAP model."""
    camera = camera_of(model)
    if model == "FULL_OPENCV":
        camera.params = np.concatenate([camera.params[:8], [0.02, 0.0, 0.0, 0.0]])
    make_flight(tmp_path / "a", camera=camera, ecef=ecef)
    chosen = PrepareSettings(ecef_to_enu=ecef, val_split=0.2)
    want = prepare_dataset(tmp_path / "a", tmp_path / "want", chosen)
    export(tmp_path / "a", applied, kind="binary_little_endian")
    shutil.rmtree(tmp_path / "a" / "model")
    got = prepare_dataset(tmp_path / "a", tmp_path / "got", chosen)
    for ours, theirs in ((got.train, want.train), (got.val, want.val)):
        assert ours.names == theirs.names
        assert np.allclose(ours.c2w, theirs.c2w, atol=1e-6)
        assert np.allclose(ours.intrinsics, theirs.intrinsics, atol=1e-3)
        for one, other in zip(ours.paths, theirs.paths, strict=True):
            assert one.read_bytes() == other.read_bytes()
    assert np.allclose(got.points.xyz, want.points.xyz, atol=1e-6)
    assert np.array_equal(got.points.rgb, want.points.rgb)
    assert (got.points.error_px == -1.0).all() and len(got.points.image_ids) == 0


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    st.tuples(*[st.floats(-1e4, 1e4)] * 3),
    st.floats(1e-3, 1e3),
)
def test_applied_transform_is_undone(tmp_path_factory, turn, shift, scale):
    """Any rotation, shift and scale that the writer applied leaves no trace."""
    root = tmp_path_factory.mktemp("undone")
    make_flight(root, count=4)
    want = read_model(root)
    file = export(root, np.column_stack([cv2.Rodrigues(np.array(turn))[0], shift]), scale)
    got = read_transforms(file).model
    tolerance = 1e-9 * (1.0 + float(np.abs(shift).max()))
    assert got.names == want.names
    assert np.allclose(
        camera_centres(got.cam_from_world), camera_centres(want.cam_from_world), atol=tolerance
    )
    assert np.allclose(got.cam_from_world[:, :, :3], want.cam_from_world[:, :, :3], atol=1e-9)
    assert np.allclose(got.points.xyz_m, want.points.xyz_m, atol=tolerance)


def test_cameras_of_their_own(tmp_path):
    """A frame's own camera fields win over the file's."""
    make_flight(tmp_path, count=4)
    file = export(tmp_path)
    change(file, lambda c: c["frames"][0].update(fl_x=99.0, k1=0.1, camera_model="OPENCV"))
    model = read_transforms(file).model
    assert [camera.model_name for camera in model.cameras] == ["PINHOLE"] * 3 + ["OPENCV"]
    assert model.cameras[3].params[:2].tolist() == [99.0, 80.0]


def test_angles_and_missing_sizes(tmp_path):
    """Blender's and instant-ngp's short form: an angle, no size, names without endings."""
    make_flight(tmp_path, count=4)
    file = export(tmp_path)

    def shorten(content):
        for name in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_model"):
            del content[name]
        content["camera_angle_x"] = 2.0 * math.atan(48.0 / 80.0)
        for frame in content["frames"]:
            frame["file_path"] = frame["file_path"].removesuffix(".png")

    change(file, shorten)
    camera = read_transforms(file).model.cameras[0]
    assert (camera.width, camera.height) == (96, 72)
    assert np.allclose(camera.params, [80.0, 80.0, 48.0, 36.0])


def test_fisheye_flag(tmp_path):
    """instant-ngp's is_fisheye means OpenCV's fisheye."""
    make_flight(tmp_path, count=4, camera=camera_of("OPENCV_FISHEYE"))
    file = export(tmp_path)
    change(file, lambda c: c.update(camera_model=None, is_fisheye=True))
    assert read_transforms(file).model.cameras[0].model_name == "OPENCV_FISHEYE"


def test_masks_are_applied(tmp_path):
    """A frame's mask_path leaves pixels out, undistorted with its photograph."""
    make_flight(tmp_path, count=4, camera=camera_of("OPENCV"))
    file = export(tmp_path)
    mask = np.full((72, 96), 255, np.uint8)
    mask[:, :30] = 0
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "m.png"), mask)
    change(file, lambda c: c["frames"][0].update(mask_path="masks/m.png"))
    dataset = prepare_dataset(file, tmp_path / "out", PLAIN)
    store = ImageStore(dataset.train)
    assert not store.valid_mask(3)[:, :20].any() and store.valid_mask(3)[:, 40:].all()
    assert store.valid_mask(0).all()
    cv2.imwrite(str(tmp_path / "masks" / "m.png"), mask[:10])
    with pytest.raises(DataError, match=r"m\.png: 96x10 px, but its photograph has 96x72"):
        prepare_dataset(file, tmp_path / "again", PLAIN)
    (tmp_path / "masks" / "m.png").unlink()
    with pytest.raises(DataError, match=r"1 of 1 .*m\.png"):
        prepare_dataset(file, tmp_path / "again", PLAIN)


def set_first(field, value):
    return lambda content: content["frames"][0].update({field: value})


def first_pose(row, column, value):
    def spoil(content):
        content["frames"][0]["transform_matrix"][row][column] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: c.pop("frames"), r"frames: Field required"),
        (lambda c: c.update(frames=[]), r"frames: List should have at least 1"),
        (lambda c: c["frames"][0].pop("transform_matrix"), r"transform_matrix.*0003\.png"),
        (set_first("file_path", "../x.png"), r"file_path '\.\./x\.png' is absolute or leaves"),
        (set_first("file_path", "/etc/x.png"), r"file_path '/etc/x\.png' is absolute or leaves"),
        (set_first("mask_path", "../m.png"), r"mask_path '\.\./m\.png' is absolute or leaves"),
        (set_first("file_path", "images/0000.png"), r"'0000\.png' occurs more than once"),
        (set_first("file_path", "images/none.png"), r"1 of 4 photographs.*none\.png"),
        (first_pose(0, 3, float("nan")), r"frames\.0\.transform_matrix\.0\.3.*0003\.png"),
        (first_pose(0, 0, 9.0), r"'\./images/0003\.png' holds no rotation"),
        (set_first("transform_matrix", [[1.0]]), r"must be 3 x 4 or 4 x 4"),
        (first_pose(3, 2, 1.0), r"0003\.png' ends in \[0\.0, 0\.0, 1\.0, 1\.0\]"),
        (lambda c: c.pop("fl_x") and c.pop("fl_y"), r"fl_x is missing"),
        (lambda c: c.update(fl_x=-3.0), r"fl_x: Input should be greater than 0"),
        (lambda c: c.update(w=1e300), r"0000\.png.*: width of 1e\+300 px is outside 1\.\.65500"),
        (lambda c: c.update(h=10**12), r"height of 1e\+12 px is outside"),
        (set_first("w", 10**400), r"frames\.0\.w: .*0003\.png"),
        (lambda c: c.update(fl_x=1e300), r"focal length of 1e\+300 px is outside"),
        (lambda c: c.update(fl_y=1e-9), r"focal length of 1e-09 px is outside"),
        (lambda c: c.update(cx=1e300), r"principal point at x = 1e\+300 px"),
        (lambda c: c.update(k1=1e300), r"distortion term 1e\+300"),
        (lambda c: c.pop("fl_x") and c.update(fl_y=None, camera_angle_x=5e-324), "camera_angle_x"),
        (lambda c: c.update(applied_scale=5e-324), r"applied_scale"),
        (first_pose(0, 3, 1e308), r"0003\.png"),
        (lambda c: c.update(camera_model="FISHEYE624"), r"camera_model 'FISHEYE624'"),
        (lambda c: c.update(ftheta_p0=1.0), r"ftheta_p0 is not a lens"),
        (lambda c: c.update(k4=0.1), r"k4: 0\.1"),
        (lambda c: c.update(is_fisheye=True, p1=0.1), r"p1, p2: a fisheye"),
        (lambda c: c.update(applied_transform=[[0.0] * 4] * 3), r"applied_transform is no rot"),
        (lambda c: c.update(applied_scale=0.0), r"applied_scale"),
        (lambda c: c.update(ply_file_path="../p.ply"), r"ply_file_path '\.\./p\.ply'"),
        (lambda c: c.update(ply_file_path="none.ply"), r"none\.ply: unreadable"),
    ],
)
def test_refusals(tmp_path, spoil, reason):
    """Every wrong field is named with its frame, and nothing is written."""
    make_flight(tmp_path, count=4)
    file = export(tmp_path)
    shutil.rmtree(tmp_path / "model")
    change(file, spoil)
    with pytest.raises(DataError, match=reason):
        prepare_dataset(tmp_path, tmp_path / "out", PLAIN)
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_no_json(tmp_path, content):
    """A file that is cut off or no object is refused."""
    make_flight(tmp_path, count=4)
    (tmp_path / "transforms.json").write_text(content)
    with pytest.raises(DataError, match=r"transforms\.json: "):
        read_transforms(tmp_path / "transforms.json")


def test_a_model_wins_over_transforms(tmp_path):
    """With both there the COLMAP model is read; the JSON file can be named itself."""
    make_flight(tmp_path, count=4)
    file = export(tmp_path)
    assert find_source(tmp_path).kind == "colmap"
    assert find_source(file).kind == "transforms"
    shutil.rmtree(tmp_path / "model")
    assert find_source(tmp_path).kind == "transforms"
    with pytest.raises(DataError, match="leave --sfm out"):
        find_source(tmp_path, sfm=True)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_point_files(tmp_path, kind):
    """Every kind of PLY reads the same; cut off, without positions or not finite are refused."""
    rng = np.random.default_rng(0)
    xyz, rgb = rng.normal(size=(20, 3)), rng.integers(0, 256, (20, 3), dtype=np.uint8)
    path = tmp_path / "p.ply"
    write_ply(path, xyz, rgb, kind)
    got = read_ply_points(path)
    assert np.array_equal(got[0], xyz) and np.array_equal(got[1], rgb)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(DataError, match="cut off"):
        read_ply_points(path)
    path.write_bytes(content[:40])
    with pytest.raises(DataError, match="header is missing"):
        read_ply_points(path)
    path.write_bytes(content.replace(b"double x", b"double u"))
    with pytest.raises(DataError, match="lack x, y, z"):
        read_ply_points(path)
    xyz[3, 1] = np.nan
    write_ply(path, xyz, rgb, kind)
    with pytest.raises(DataError, match="1 of 20 points are not finite"):
        read_ply_points(path)
