"""Datasets prepared for the reference system: read as they are, and nothing in them is run."""

import io
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nerfcore.data.dataset import load_dataset
from nerfcore.data.partition import list_partitions, load_partition
from nerfcore.data.pixel_masks import route_image, stored_pixels
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.reference_partition import read_reference_masks
from nerfcore.data.tensor_file import load_tensors
from nerfcore.data.update import update_dataset
from nerfcore.errors import DataError
from nerfcore.survey.experts import check_masks, choose_partition

DATA = Path(__file__).parents[3] / "shared" / "data"
EXAMPLE = DATA / "drz_reference_format" / "out" / "example"
real = pytest.mark.skipif(not EXAMPLE.is_dir(), reason="../shared/data is not here")
POSE = torch.tensor([[0.0, 0.0, -1.0, 0.1], [1.0, 0.0, 0.0, 0.2], [0.0, -1.0, 0.0, 0.3]])


class Payload:
    """What a malicious file holds: loading it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def camera(**changes):
    values = {
        "H": 36,
        "W": 48,
        "c2w": POSE,
        "intrinsics": torch.tensor([40.0, 41.0, 24.0, 18.0]),
        "distortion": torch.zeros(4),
    }
    return values | changes


def make_dataset(root: Path) -> Path:
    """Write three training images, one to validate on, a batch of four, and a partition."""
    for split, count in (("train", 3), ("val", 1), ("continual/batch_0001", 4)):
        for part in ("metadata", "rgbs"):
            (root / split / part).mkdir(parents=True)
        for index in range(count):
            stem = f"{index + 10 * (split == 'val') + 20 * split.startswith('c'):06d}"
            torch.save(camera(), root / split / "metadata" / f"{stem}.pt")
            cv2.imwrite(str(root / split / "rgbs" / f"{stem}.jpg"), np.full((36, 48, 3), 99, "u1"))
    stems = ["000000", "000001", "000002", "000010"]
    (root / "mappings.txt").write_text("".join(f"IMG {s},x.jpg,{s}.pt\n" for s in stems))
    items = ",".join(f'{{"id": "{i:06d}", "image_name": "n{i}.jpg"}}' for i in range(20, 24))
    (root / "continual" / "batch_0001" / "manifest.json").write_text(f'{{"items": [{items}]}}')
    torch.save(
        {
            "origin_drb": torch.tensor([1.0, 2.0, 3.0]),
            "pose_scale_factor": 50.0,
            "altitude_range_enu": torch.tensor([-100.0, 1.0]),
            "enu_ref_coords": (51.5, 7.3, 230.0),
        },
        root / "coordinates.pt",
    )
    masks = root / "masks" / "g12"
    masks.mkdir(parents=True)
    centroids = torch.tensor([[0.0, -0.5, 0.0], [0.0, 0.5, 0.0]])
    params = {
        "format_version": 3,
        "centroid_mode": "grid",
        "centroids": centroids,
        "grid_dim": (1, 1, 2),
        "cluster_2d": True,
        "boundary_margin": 1.1,
        "aabb_global": torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]),
    }
    torch.save(params, masks / "params.pt")
    boxes = {"mins": torch.tensor([[-1.0, -1, -1], [-1, 0, -1]]), "maxs": torch.ones(2, 3)}
    torch.save(boxes, masks / "scene_boxes.pt")
    for expert in range(2):
        write_mask(masks / str(expert) / "000000.pt", torch.full((36, 48), expert == 0))
    return root


def write_mask(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    inner = io.BytesIO()
    torch.save(value, inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name, inner.getvalue())


def test_everything_is_read(tmp_path):
    """Frame, names, cameras, a batch with a held-out quarter, partition and masks."""
    dataset = load_dataset(make_dataset(tmp_path))
    assert dataset.frame.pose_scale_factor_m == 50.0
    assert dataset.frame.origin_drb_m.tolist() == [1.0, 2.0, 3.0]
    assert dataset.frame.enu_ref.lat_deg == 51.5
    assert dataset.train.names == ("IMG 000000,x.jpg", "IMG 000001,x.jpg", "IMG 000002,x.jpg")
    assert (dataset.train.widths_px[0], dataset.train.heights_px[0]) == (48, 36)
    assert np.array_equal(dataset.train.c2w[1], POSE.numpy())
    assert dataset.train.find_borders and dataset.train.subset([0]).find_borders
    assert len(dataset.val) == 1 and dataset.points is None
    batch = dataset.batch("batch_0001")
    assert (len(batch.adapt), len(batch.heldout)) == (3, 1)
    (folder,) = list_partitions(tmp_path)
    partition = load_partition(folder)
    assert partition.name == "g12" and len(partition) == 2 and partition.grid_dim == (1, 1, 2)
    assert partition.cluster_2d and partition.boundary_margin == 1.1
    masks = stored_pixels(folder, partition, dataset.train, 0)
    assert masks.shape == (2, 36, 48) and masks[0].all() and not masks[1].any()
    assert stored_pixels(folder, partition, dataset.train, 1) is None


def test_the_survey_finds_its_partition(tmp_path):
    """The report of such a dataset shows the experts that the reference system divided it into."""
    dataset = load_dataset(make_dataset(tmp_path))
    partition, others = choose_partition(dataset, None)
    assert partition is not None and partition.name == "g12" and others == []
    with pytest.raises(DataError, match=r"clusters: 'g22' is not in .*; known: g12"):
        choose_partition(dataset, "g22")


@real
def test_the_real_one():
    """36 + 8 + 8 images; cameras where the COLMAP model has them; both partitions."""
    from nerfcore.data.colmap import read_model
    from nerfcore.data.recentre import recentre
    from nerfcore.geometry.frames import camera_centres
    from nerfcore.geometry.geodesy import ecef_to_enu

    dataset = load_dataset(EXAMPLE)
    assert (len(dataset.train), len(dataset.val)) == (36, 8)
    assert len(dataset.batch("batch_0001").adapt) == 6
    model, _ = recentre(read_model(DATA / "drz"))
    want = ecef_to_enu(camera_centres(model.cam_from_world), dataset.frame.enu_ref)
    got = dataset.frame.world_to_enu_m(dataset.train.c2w[:, :, 3])
    rows = [model.names.index(name) for name in dataset.train.names]
    # The reference converted the centres that had lost up to 0.4 m (see `recentre`).
    assert np.linalg.norm(got - want[rows], axis=1).max() < 0.45
    assert [folder.name[:3] for folder in list_partitions(EXAMPLE)] == ["g12", "g22"]


@real
def test_a_later_flight_is_added(tmp_path):
    """Our batch joins theirs; old photographs that this dataset lacks must be there or go."""
    import pycolmap

    shutil.copytree(EXAMPLE, tmp_path / "data", ignore=shutil.ignore_patterns("masks"))
    update = tmp_path / "update"
    (update / "model").mkdir(parents=True)
    (update / "images").symlink_to(DATA / "drz_update" / "images")
    model = pycolmap.Reconstruction(str(DATA / "drz_update" / "model"))
    model.write_binary(str(update / "model"))
    with pytest.raises(DataError, match=r"56 of 75 photographs .* remove them from the model"):
        update_dataset(tmp_path / "data", update)
    dataset = load_dataset(tmp_path / "data")
    kept = {*dataset.train.names, *(path.name for path in (update / "images").iterdir())}
    for image in list(model.images.values()):
        if image.name not in kept:
            model.deregister_frame(image.frame_id)
    model.write_binary(str(update / "model"))
    batch = update_dataset(tmp_path / "data", update)
    assert batch.name == "batch_0002" and (len(batch.adapt), len(batch.heldout)) == (14, 5)
    assert not {*batch.adapt.names, *batch.heldout.names} & {
        *dataset.batch("batch_0001").adapt.names
    }
    low, high = (edge(dataset.train.c2w[:, :, 3], axis=0) for edge in (np.min, np.max))
    centres = batch.adapt.c2w[:, 1:, 3]
    assert ((centres >= low[1:] - 0.1) & (centres <= high[1:] + 0.1)).all(), "over the same site"
    with pytest.raises(DataError, match="they are batch_0002 already"):
        update_dataset(tmp_path / "data", update)


@real
@pytest.mark.parametrize("name", ["g12_grid_bm110_ss11", "g22_grid_bm110_ss11"])
def test_the_kernel_gives_the_masks_that_the_reference_stored(name):
    """Our routing of rays agrees with the reference's masks but for rounding at borders.

    The reference's first sample is the ray's first point, ours lies half a step further. Where the
    camera itself is inside the box and within a border's margin, that point gives the reference
    every pixel of the image for both neighbours: one of these images.
    """
    dataset, folder = load_dataset(EXAMPLE), EXAMPLE / "masks" / name
    partition = load_partition(folder)
    shares = []
    for images in (dataset.train, dataset.val):
        for index in range(len(images)):
            stored = read_reference_masks(folder, images.paths[index].stem, len(partition))
            routed = np.moveaxis(route_image(images, index, partition, 256, stride=32), -1, 0)
            # The masks are four times as large; look where our pixels' centres lie in them.
            rows, columns = (4 * np.arange(16, size, 32) + 2 for size in (384, 512))
            shares.append((stored[:, rows][:, :, columns] != routed).mean())
    assert np.median(shares) < 0.001
    assert np.sort(shares)[-2] < 0.01
    assert check_masks(dataset, partition) == []


def test_a_payload_is_not_run(tmp_path):
    """A file with anything but tensors is refused by its name and what it holds."""
    make_dataset(tmp_path)
    for file in (
        tmp_path / "coordinates.pt",
        tmp_path / "train" / "metadata" / "000001.pt",
        tmp_path / "continual" / "batch_0001" / "metadata" / "000021.pt",
    ):
        content = file.read_bytes()
        torch.save(camera(extra=Payload(tmp_path / "pwned")), file)
        with pytest.raises(
            DataError, match=rf"{file.name}: refused, .*Path\.touch|{file.name}: re"
        ):
            load_dataset(tmp_path)
        file.write_bytes(content)
    masks = tmp_path / "masks" / "g12"
    torch.save(Payload(tmp_path / "pwned"), masks / "params.pt")
    with pytest.raises(DataError, match=r"params\.pt: refused"):
        load_partition(masks)
    write_mask(masks / "0" / "000000.pt", Payload(tmp_path / "pwned"))
    with pytest.raises(DataError, match=r"0/000000\.pt: refused"):
        read_reference_masks(masks, "000000", 2)
    assert not (tmp_path / "pwned").exists()


def test_plain_values_only(tmp_path):
    """What torch itself allows beyond tensors and plain values is refused too."""
    torch.save({"a": torch.nn.Parameter(torch.zeros(2))}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt: refused, it holds Parameter"):
        load_tensors(tmp_path / "a.pt")
    torch.save({"a": [torch.zeros(2), (1, 2.0, None, "x", True)]}, tmp_path / "a.pt")
    assert load_tensors(tmp_path / "a.pt")["a"][1] == (1, 2.0, None, "x", True)


def more(line):
    return lambda path: path.write_text(path.read_text() + line + "\n")


def test_an_image_in_both_splits(tmp_path):
    """An image that is trained on and validated on would flatter every score."""
    make_dataset(tmp_path)
    for part, ending in (("metadata", "pt"), ("rgbs", "jpg")):
        shutil.copy(tmp_path / "train" / part / f"000001.{ending}", tmp_path / "val" / part)
    with pytest.raises(DataError, match=r"IMG 000001,x\.jpg: in train/ and in val/"):
        load_dataset(tmp_path)


def test_metadata_and_photograph_both_gone(tmp_path):
    """An image that is only listed is not left out silently: all such are named."""
    make_dataset(tmp_path)
    for part, ending in (("metadata", "pt"), ("rgbs", "jpg")):
        (tmp_path / "train" / part / f"000001.{ending}").unlink()
    with pytest.raises(
        DataError, match=r"mappings\.txt: IMG 000001,x\.jpg \(000001\.pt\): no meta"
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("coordinates.pt", lambda p: p.write_bytes(p.read_bytes()[:200]), "no tensor file"),
        ("coordinates.pt", lambda p: p.write_bytes(b""), r"no tensor file, or cut off \(0 bytes"),
        ("coordinates.pt", lambda p: torch.save([1], p), "holds list, not named values"),
        ("coordinates.pt", lambda p: torch.save({}, p), "pose_scale_factor must be finite"),
        ("mappings.txt", lambda p: p.unlink(), r"mappings\.txt: missing"),
        ("mappings.txt", lambda p: p.write_text("hello\n"), "line 1 is 'hello'"),
        ("mappings.txt", lambda p: p.write_text("a.jpg,000000.pt\n"), "no image for 000001"),
        ("mappings.txt", more("b.jpg,000077.pt"), r"b\.jpg \(000077\.pt\): no metadata \(1 of 5"),
        ("mappings.txt", more("../b.jpg,000077.pt"), r"image '\.\./b\.jpg' is absolute or leaves"),
        ("mappings.txt", more("b.jpg,../77.pt"), r"id '\.\./77' is absolute or leaves"),
        (
            "mappings.txt",
            more("IMG 000001,x.jpg,000077.pt"),
            r"image 'IMG 000001,x\.jpg' is listed",
        ),
        ("mappings.txt", more("b.jpg,000001.pt"), r"id '000001' is listed more than once"),
        (
            "train/metadata/000001.pt",
            lambda p: p.unlink(),
            r"rgbs: 000001\.jpg: no metadata for these photographs \(1\)",
        ),
        (
            "val/metadata/000010.pt",
            lambda p: shutil.move(p, p.parents[2] / "train" / "metadata"),
            r"000010\.jpg: missing although|rgbs: 000010\.jpg",
        ),
        (
            "continual/batch_0001/manifest.json",
            lambda p: p.write_text(p.read_text().replace("n21", "n22")),
            r"image 'n22\.jpg' is listed more than once",
        ),
        (
            "continual/batch_0001/manifest.json",
            lambda p: p.write_text(p.read_text().replace("n21", "../n21")),
            r"image '\.\./n21\.jpg' is absolute or leaves",
        ),
        ("train/rgbs/000001.jpg", lambda p: p.unlink(), r"000001\.jpg: missing although"),
        ("train/metadata", shutil.rmtree, r"no metadata for these photographs \(3\)"),
        ("train", shutil.rmtree, "no image; at least 1"),
        ("continual/batch_0001/manifest.json", lambda p: p.write_text("{"), "unreadable"),
    ],
)
def test_damaged_files(tmp_path, name, spoil, reason):
    """Missing and damaged files are named."""
    spoil(make_dataset(tmp_path) / name)
    with pytest.raises(DataError, match=reason):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"H": 0}, "W, H, intrinsics: height of 0 px is outside 1..65500"),
        ({"W": 1e300}, r"width of 1e\+300 px is outside"),
        ({"W": 10**12}, r"width of 1e\+12 px is outside"),
        ({"W": 60000, "H": 60000}, "60000x60000 px are more than"),
        ({"c2w": torch.zeros(3, 3)}, r"c2w must be .* \[3, 4\], is \[3, 3\]"),
        ({"c2w": POSE * float("nan")}, "c2w must be finite"),
        ({"c2w": POSE * 2.0}, "c2w holds no rotation"),
        ({"c2w": POSE * torch.tensor([[1.0], [1.0], [-1.0]])}, "c2w holds no rotation"),
        ({"c2w": POSE + 0j}, "c2w is array.*not numbers"),
        ({"intrinsics": torch.tensor([0.0, 1, 1, 1])}, "focal length of 0 px"),
        ({"intrinsics": torch.tensor([40.0, 40, 1e30, 18])}, r"principal point at x = 1e\+30"),
        ({"intrinsics": None}, "intrinsics must be .* missing"),
        ({"W": "wide"}, "W is 'wide'"),
    ],
)
def test_wrong_cameras(tmp_path, changes, reason):
    """Each wrong field of an image's metadata is named with the file."""
    make_dataset(tmp_path)
    torch.save(camera(**changes), tmp_path / "train" / "metadata" / "000002.pt")
    with pytest.raises(DataError, match=rf"000002\.pt: .*{reason}"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format_version", 2, "format_version is 2"),
        ("boundary_margin", 0.5, "boundary_margin is 0.5"),
        ("cluster_2d", "yes", "cluster_2d is 'yes'"),
        ("grid_dim", (2, 2), r"grid_dim is \(2, 2\) for 2 centroids"),
        ("centroids", torch.zeros(0, 3), "centroids is"),
        ("aabb_global", torch.ones(2, 3), "minimum must lie below"),
    ],
)
def test_wrong_partitions(tmp_path, field, value, reason):
    """Each wrong field of a partition is named."""
    folder = make_dataset(tmp_path) / "masks" / "g12"
    params = torch.load(folder / "params.pt", weights_only=True)
    torch.save(params | {field: value}, folder / "params.pt")
    with pytest.raises(DataError, match=reason):
        load_partition(folder)


def test_an_empty_expert_keeps_its_number(tmp_path):
    """An expert without an extent is kept, with a tiny box."""
    folder = make_dataset(tmp_path) / "masks" / "g12"
    infinite = torch.full((2, 3), float("inf"))
    torch.save({"mins": infinite, "maxs": -infinite}, folder / "scene_boxes.pt")
    partition = load_partition(folder)
    assert len(partition) == 2
    assert np.allclose(
        (partition.box_mins + partition.box_maxs) / 2, partition.centroids, atol=1e-6
    )


def test_masks_that_do_not_fit(tmp_path):
    """A mask that is missing for one expert, of another type, or no zip, is named."""
    folder = make_dataset(tmp_path) / "masks" / "g12"
    write_mask(folder / "1" / "000000.pt", torch.zeros(3, 3))
    with pytest.raises(DataError, match=r"1/000000\.pt: float32\[3, 3\]"):
        read_reference_masks(folder, "000000", 2)
    (folder / "1" / "000000.pt").write_bytes(b"x")
    with pytest.raises(DataError, match="no zip of one tensor"):
        read_reference_masks(folder, "000000", 2)
    (folder / "1" / "000000.pt").unlink()
    with pytest.raises(DataError, match="1 of 2 masks are there"):
        read_reference_masks(folder, "000000", 2)


def test_it_is_never_overwritten(tmp_path):
    """--overwrite leaves a dataset of the reference system alone."""
    from data_flights import make_flight

    make_flight(tmp_path / "flight", count=4)
    make_dataset(tmp_path / "theirs")
    with pytest.raises(DataError, match="no prepared dataset"):
        prepare_dataset(tmp_path / "flight", tmp_path / "theirs", PrepareSettings(overwrite=True))
    assert len(load_dataset(tmp_path / "theirs").train) == 3
