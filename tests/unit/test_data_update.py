"""Adding a later flight: placement, the held-out part, and all or nothing."""

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from data_flights import make_flight

from nerfcore.data.dataset import load_dataset
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.update import add_flight, update_dataset
from nerfcore.errors import DataError
from nerfcore.geometry.frames import project


@pytest.fixture
def prepared(tmp_path) -> Path:
    make_flight(tmp_path / "old", ecef=True)
    settings = PrepareSettings(ecef_to_enu=True, val_split=0.2)
    prepare_dataset(tmp_path / "old", tmp_path / "data", settings)
    return tmp_path / "data"


def state_of(root):
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_new_images_become_a_batch(prepared, tmp_path):
    """New names only, in the stored frame, every fourth held out, with the points they see."""
    flight = make_flight(tmp_path / "new", count=16, prefix="new/", ecef=True, seed=3)
    before = state_of(prepared)
    batch = update_dataset(prepared, tmp_path / "new")
    assert batch.name == "batch_0001"
    assert (len(batch.adapt), len(batch.heldout)) == (12, 4)
    assert sorted(batch.adapt.names + batch.heldout.names) == list(flight.names)
    dataset = load_dataset(prepared)
    assert dataset.batch("batch_0001").adapt.names == batch.adapt.names
    centres = {name: centre for name, centre in zip(flight.names, flight.centres_m, strict=True)}
    first = make_flight(tmp_path / "again", ecef=True)
    # ENU zero of the dataset is the first camera of the old flight.
    for images in (batch.adapt, batch.heldout):
        got = dataset.frame.world_to_enu_m(images.c2w[:, :, 3])
        want = np.array([centres[name] for name in images.names]) - first.centres_m[0]
        assert np.abs(got - want).max() < 0.01  # the ENU planes differ by their tilt over 60 m
    points = batch.points
    assert points.image_names == batch.adapt.names
    pixels, _ = project(
        points.xyz[points.point_ids],
        batch.adapt.c2w[points.image_ids],
        batch.adapt.intrinsics[points.image_ids],
    )
    assert np.abs(pixels - points.xy_px).max() < 0.01
    after = state_of(prepared)
    assert {path: after[path] for path in before if path in after} == before


def test_old_photographs_need_not_be_there(prepared, tmp_path):
    """A model with old and new images needs the new photographs only."""
    make_flight(tmp_path / "new", count=12, ecef=True)  # names 0000..0008 are the dataset's
    for index in range(9):
        (tmp_path / "new" / "images" / f"{index:04d}.png").unlink()
    # Another grid: the shared images lie elsewhere, which must be noticed.
    with pytest.raises(DataError, match="9 images shared with the dataset lie"):
        update_dataset(prepared, tmp_path / "new")
    shutil.rmtree(tmp_path / "new")
    make_flight(tmp_path / "new", count=9, ecef=True)
    path = tmp_path / "new" / "model" / "images.bin"
    path.write_bytes(path.read_bytes().replace(b"0008.png", b"0009.png"))
    shutil.rmtree(tmp_path / "new" / "images")
    (tmp_path / "new" / "images").mkdir()
    old = tmp_path / "old" / "images" / "0008.png"
    (tmp_path / "new" / "images" / "0009.png").write_bytes(old.read_bytes() + b"another")
    batch = update_dataset(prepared, tmp_path / "new", heldout_split=0.0)
    assert batch.adapt.names == ("0009.png",) and len(batch.heldout) == 0


def test_the_same_batch_twice(prepared, tmp_path):
    """A second run with the same flight is refused, or kept by --resume; under other names it is
    recognised; another flight is batch_0002."""
    make_flight(tmp_path / "new", prefix="a", ecef=True)
    update_dataset(prepared, tmp_path / "new")
    before = state_of(prepared)
    with pytest.raises(DataError, match="0 of 9 images are new, they are batch_0001 already"):
        update_dataset(prepared, tmp_path / "new")
    again = add_flight(prepared, tmp_path / "new", resume=True)
    assert again.kept and again.batch.name == "batch_0001"
    make_flight(tmp_path / "third", prefix="b", ecef=True)
    same_photographs(tmp_path / "new", "a", tmp_path / "third", "b")
    with pytest.raises(DataError, match="0 of 9 images are new, they are batch_0001 already"):
        update_dataset(prepared, tmp_path / "third")
    renamed = add_flight(prepared, tmp_path / "third", resume=True)
    assert renamed.kept and renamed.batch.name == "batch_0001"
    assert state_of(prepared) == before
    for path in (tmp_path / "third" / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"another")
    assert update_dataset(prepared, tmp_path / "third").name == "batch_0002"


def same_photographs(source, prefix, target, new_prefix):
    for path in (source / "images").iterdir():
        name = new_prefix + path.name.removeprefix(prefix)
        shutil.copy(path, target / "images" / name)


def test_some_of_the_photographs_twice(prepared, tmp_path):
    """Photographs of the first flight or of a batch under other names are named, with both."""
    before = state_of(prepared)
    make_flight(tmp_path / "copies", prefix="copy", ecef=True)
    same_photographs(tmp_path / "old", "", tmp_path / "copies", "copy")
    with pytest.raises(
        DataError, match=r"9 of 9 new .* copy0000\.png = 0000\.png, .*; remove them"
    ):
        update_dataset(prepared, tmp_path / "copies")
    assert state_of(prepared) == before
    make_flight(tmp_path / "new", prefix="a", ecef=True, seed=5)
    update_dataset(prepared, tmp_path / "new", heldout_split=0.5)
    make_flight(tmp_path / "more", prefix="b", ecef=True, seed=5)
    same_photographs(tmp_path / "new", "a", tmp_path / "more", "b")
    for name in ("b0003.png", "b0004.png"):
        path = tmp_path / "more" / "images" / name
        path.write_bytes(path.read_bytes() + b"another")
    with pytest.raises(DataError, match=r"7 of 9 new .*b0000\.png = a0000\.png"):
        update_dataset(prepared, tmp_path / "more")


def remove_photograph(root):
    (root / "images" / "new0004.png").unlink()


def cut_photograph(root):
    (root / "images" / "new0004.png").write_bytes(b"\x89PNG")


def cut_model(root):
    path = root / "model" / "images.bin"
    path.write_bytes(path.read_bytes()[:-100])


def leave_the_folder(root):
    path = root / "model" / "images.bin"
    path.write_bytes(path.read_bytes().replace(b"new0004.png", b"../0004.png"))


def empty_points(root):
    (root / "model" / "points3D.bin").write_bytes(b"")


def far_away(root):
    model = pycolmap.Reconstruction(str(root / "model"))
    turn = pycolmap.Rotation3d(np.array([0.0, 0.0, 0.1, np.sqrt(0.99)]))
    model.transform(pycolmap.Sim3d(1.0, turn, np.zeros(3)))
    model.write_binary(str(root / "model"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove_photograph, r"1 of 9 photographs.*new0004\.png"),
        (cut_photograph, r"new0004\.png: unreadable"),
        (cut_model, r"images\.bin: cut off"),
        (empty_points, r"points3D\.bin: empty"),
        (leave_the_folder, r"'\.\./0004\.png'.* leaves"),
        (far_away, "another place or another frame"),
    ],
)
def test_all_or_nothing(prepared, tmp_path, spoil, reason):
    """A failure leaves the dataset as it was."""
    make_flight(tmp_path / "new", prefix="new", ecef=True)
    spoil(tmp_path / "new")
    with pytest.raises(DataError, match=reason):
        update_dataset(prepared, tmp_path / "new")
    assert load_dataset(prepared).batches == {}
    assert not list(prepared.rglob(".tmp-*"))


def test_frame_of_the_update_must_fit(prepared, tmp_path):
    """A local model cannot extend an ECEF dataset, and the flag may not contradict it."""
    make_flight(tmp_path / "new", prefix="new")
    with pytest.raises(
        DataError, match="local coordinates, but the dataset was prepared from ECEF"
    ):
        update_dataset(prepared, tmp_path / "new")
    with pytest.raises(DataError, match="prepared from ECEF; add it"):
        update_dataset(prepared, tmp_path / "new", ecef_to_enu=False)
    with pytest.raises(DataError, match="heldout_split"):
        update_dataset(prepared, tmp_path / "new", heldout_split=1.0)


def test_unknown_batch(prepared):
    """A batch that is not there is refused by name."""
    with pytest.raises(DataError, match="batch: 'nope'"):
        load_dataset(prepared).batch("nope")
