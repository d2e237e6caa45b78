"""Reading COLMAP models: layouts, and every way their files are wrong."""

import shutil
import struct

import numpy as np
import pycolmap
import pytest
from data_flights import SITE, camera_of, make_flight

from nerfcore.data.colmap import read_model
from nerfcore.data.recentre import recentre
from nerfcore.errors import DataError
from nerfcore.geometry.frames import camera_centres
from nerfcore.geometry.geodesy import ecef_to_enu

FILES = ("cameras", "images", "points3D", "rigs", "frames")


def as_text(folder):
    model = pycolmap.Reconstruction(str(folder))
    for path in folder.iterdir():
        path.unlink()
    model.write_text(str(folder))


def as_old_layout(folder):
    (folder / "rigs.bin").unlink()
    (folder / "frames.bin").unlink()


def in_sub_folder(folder):
    (folder / "0").mkdir()
    for path in folder.glob("*.bin"):
        path.rename(folder / "0" / path.name)


def as_sparse(folder):
    shutil.move(folder, folder.parent / "sparse")


@pytest.mark.parametrize(
    "change", [lambda folder: None, as_text, as_old_layout, in_sub_folder, as_sparse]
)
def test_every_layout_reads_the_same(tmp_path, change):
    """Binary, text, old (no rigs) and nested models give the flight's poses and tracks."""
    flight = make_flight(tmp_path)
    change(tmp_path / "model")
    model = read_model(tmp_path)
    assert model.names == flight.names
    assert np.allclose(camera_centres(model.cam_from_world), flight.centres_m, atol=1e-9)
    assert np.allclose(model.cam_from_world[:, :, :3], flight.rotations, atol=1e-9)
    points = model.points
    assert points.track_lengths.sum() == len(points.image_ids) == len(points.xy_px)
    assert np.array_equal(np.bincount(points.point_ids), points.track_lengths)
    local = points.xyz_m[points.point_ids] - camera_centres(model.cam_from_world)[points.image_ids]
    local = np.einsum("nij,nj->ni", model.cam_from_world[points.image_ids, :, :3], local)
    assert np.allclose(flight.camera.img_from_cam(local), points.xy_px, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_cut_off_binary_files(tmp_path, name, share):
    """A binary file cut anywhere is refused by name (pycolmap would read garbage or for ever)."""
    make_flight(tmp_path, count=4)
    path = tmp_path / "model" / f"{name}.bin"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"{name}\.bin: (empty|cut off|damaged)"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_cut_off_text_files(tmp_path, name):
    """A text file that lost its last entries is refused, its header tells how many there were."""
    make_flight(tmp_path, count=4)
    as_text(tmp_path / "model")
    path = tmp_path / "model" / f"{name}.txt"
    lines = path.read_text().splitlines(keepends=True)
    kept = 2 if name == "images" else 1
    path.write_text("".join(lines[:-kept]))
    with pytest.raises(DataError, match=rf"{name}\.txt: cut off"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_missing_files(tmp_path, name):
    """A missing model file is named."""
    make_flight(tmp_path, count=4)
    (tmp_path / "model" / f"{name}.bin").unlink()
    with pytest.raises(DataError, match=rf"{name}\.bin: missing"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["rigs", "frames"])
def test_half_of_the_new_layout(tmp_path, name):
    """One of the two files of the new layout alone: the other one is named, not a third."""
    make_flight(tmp_path, count=4)
    (tmp_path / "model" / f"{name}.bin").unlink()
    with pytest.raises(DataError, match=rf"model/{name}\.bin: missing"):
        read_model(tmp_path)


def test_several_models(tmp_path):
    """COLMAP numbers the parts it could not connect in no order: none of them is taken silently."""
    make_flight(tmp_path, count=4)
    shutil.copytree(tmp_path / "model", tmp_path / "sparse" / "0")
    shutil.move(tmp_path / "model", tmp_path / "sparse" / "1")
    with pytest.raises(DataError, match=r"sparse: holds 2 models \(0, 1\).*copy the one to use"):
        read_model(tmp_path)
    shutil.rmtree(tmp_path / "sparse" / "1")
    assert len(read_model(tmp_path).names) == 4


def rename(folder, old, new):
    model = pycolmap.Reconstruction(str(folder))
    image = next(image for image in model.images.values() if image.name == old)
    image.name = new
    model.write_binary(str(folder))


def test_names_are_compared_as_paths(tmp_path):
    """`./a` and `a` are one photograph: alone it is found, beside each other they are refused."""
    make_flight(tmp_path, count=4)
    rename(tmp_path / "model", "0001.png", ".//0001.png")
    assert read_model(tmp_path).names[1] == "0001.png"
    rename(tmp_path / "model", "0002.png", "./0001.png")
    with pytest.raises(DataError, match=r"'0001\.png' occurs more than once"):
        read_model(tmp_path)


def test_a_panorama(tmp_path):
    """A camera without a pinhole is named with its image and folder."""
    make_flight(tmp_path, count=4)
    text = tmp_path / "model"
    as_text(text)
    line = next(x for x in (text / "cameras.txt").read_text().splitlines() if x[0] != "#")
    number, _, *size = line.split()[:4]
    (text / "cameras.txt").write_text(" ".join([number, "EQUIRECTANGULAR", *size, *size]) + "\n")
    with pytest.raises(DataError, match=r"model: image '0000\.png', camera 1: .*cannot be undist"):
        read_model(tmp_path)


def test_no_model(tmp_path):
    """A folder without a model, and a folder that is not there, say what is expected."""
    with pytest.raises(DataError, match="no COLMAP model"):
        read_model(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_model(tmp_path / "nowhere")


def test_garbage(tmp_path):
    """Random bytes are refused."""
    make_flight(tmp_path, count=4)
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    (tmp_path / "model" / "images.bin").write_bytes(noise.tobytes())
    with pytest.raises(DataError, match=r"images\.bin"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"0001.png", b"0000.png", "more than once"),
        (b"0001.png", b"../1.png", "absolute or leaves"),
        (b"0001.png", b"/001.png", "absolute or leaves"),
        (b"0001.png", b"a\\..\\.p", "absolute or leaves"),
    ],
)
def test_bad_names(tmp_path, old, new, reason):
    """Duplicate names and names that leave the image folder are refused."""
    make_flight(tmp_path, count=4)
    path = tmp_path / "model" / "images.bin"
    path.write_bytes(path.read_bytes().replace(old, new[: len(old)].ljust(len(old), b"g")))
    with pytest.raises(DataError, match=reason):
        read_model(tmp_path)


def test_pose_that_is_not_finite(tmp_path):
    """An image whose translation is NaN is named."""
    make_flight(tmp_path, count=4)
    as_old_layout(tmp_path / "model")
    path = tmp_path / "model" / "images.bin"
    content = bytearray(path.read_bytes())
    # count u64, then image 1: id u32, quaternion 4 x f64, translation 3 x f64.
    struct.pack_into("<d", content, 8 + 4 + 32, float("nan"))
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"pose of '000\d.png' is not finite"):
        read_model(tmp_path)


def test_exact_ecef_poses_stay(tmp_path):
    """A model whose points reproject as listed is left alone, and recovered within 0.1 mm."""
    flight = make_flight(tmp_path, ecef=True, noise_px=0.3)
    model, done = recentre(read_model(tmp_path))
    assert done is None
    centres = ecef_to_enu(camera_centres(model.cam_from_world), SITE)
    assert np.abs(centres - flight.centres_m).max() < 1e-4


def test_rounded_ecef_poses_are_repaired(tmp_path):
    """Rotations once held in float32 move ECEF centres by decimetres; the tracks restore them."""
    camera = camera_of("PINHOLE", 480, 360)
    camera.params = np.array([400.0, 400.0, 240.0, 180.0])
    flight = make_flight(tmp_path, ecef=True, noise_px=0.2, round_rotations=True, camera=camera)
    model = read_model(tmp_path)
    off = ecef_to_enu(camera_centres(model.cam_from_world), SITE) - flight.centres_m
    assert np.linalg.norm(off, axis=1).max() > 0.1
    repaired, done = recentre(model)
    assert done is not None and done.moved == len(flight.names)
    assert done.before_px > 0.4 and done.after_px == pytest.approx(done.listed_px, abs=0.03)
    off = ecef_to_enu(camera_centres(repaired.cam_from_world), SITE) - flight.centres_m
    assert np.linalg.norm(off, axis=1).max() < 0.03
