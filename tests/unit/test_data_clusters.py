"""k-means, chosen grids, empty experts, the stored balance, and the cache of pixel masks."""

import errno
import json
from dataclasses import replace

import numpy as np
import pytest
from data_flights import make_flight

from nerfcore import atomic
from nerfcore.data.balance import balance, describe_balance, save_balance
from nerfcore.data.centroids import kmeans_centroids
from nerfcore.data.clusters import ClusterSettings, make_partition, write_partition
from nerfcore.data.grid_choice import choose_grid
from nerfcore.data.partition import load_partition
from nerfcore.data.pixel_masks import (
    MaskSettings,
    route_image,
    stored_pixels,
    write_pixel_masks,
)
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.errors import DataError
from nerfcore.survey.experts import check_masks
from nerfcore.survey.problems import Kind

AABB = np.array([[0.2, -2.0, -2.0], [0.6, 2.0, 2.0]])


@pytest.fixture
def dataset(tmp_path):
    make_flight(tmp_path / "flight", count=16)
    return prepare_dataset(tmp_path / "flight", tmp_path / "data", PrepareSettings(val_split=0.2))


def test_kmeans_finds_separate_groups():
    """Three clouds of cameras give three centroids at their means, the same each time."""
    rng = np.random.default_rng(3)
    means = np.array([[-1.0, -1.0], [0.0, 1.2], [1.5, -0.5]])
    plan = np.concatenate([mean + rng.normal(0, 0.05, (20, 2)) for mean in means])
    positions = np.column_stack([rng.normal(0, 0.1, 60), plan])
    got = kmeans_centroids(positions, AABB, 3)
    want = np.array([plan[20 * i : 20 * i + 20].mean(axis=0) for i in range(3)])
    assert np.allclose(got[:, 1:], want, atol=1e-9)
    assert np.allclose(got[:, 0], 0.4)
    assert np.array_equal(got, kmeans_centroids(positions, AABB, 3))


def test_kmeans_needs_as_many_places():
    """More groups than camera positions are refused."""
    with pytest.raises(DataError, match="kmeans: 3 experts for 1 camera positions"):
        kmeans_centroids(np.zeros((5, 3)), AABB, 3)
    with pytest.raises(DataError, match="kmeans: 0 is outside"):
        ClusterSettings(kmeans=0)


def test_kmeans_partition(dataset):
    """A k-means partition is named, stored and read back like a grid."""
    chosen = ClusterSettings(kmeans=3, cluster_2d=True)
    made, _ = write_partition(dataset, chosen)
    assert made.name == "k3_kmeans_bm105_ss11" and len(made) == 3 and made.grid_dim == (3,)
    assert write_partition(dataset, chosen, resume=True)[1]
    counts = balance(dataset, made, chosen)
    assert counts.empty == [] and counts.points.sum() >= len(dataset.points)


@pytest.mark.parametrize(("per_expert", "experts"), [(13, 1), (6, 2), (3, 4), (1, 12)])
def test_auto_meets_the_wanted_number(dataset, per_expert, experts):
    """The grid has about as many cells as the images ask for, and says why with numbers."""
    choice = choose_grid(dataset, per_expert)
    made = choice.grid_dim[0] * choice.grid_dim[1]
    assert experts / 1.5 <= made <= experts * 1.5 + 1
    assert f"13 training images at {per_expert} an expert" in choice.reason
    assert f"{choice.grid_dim[0]} x {choice.grid_dim[1]} cells" in choice.reason


def test_auto_follows_the_site(tmp_path):
    """A strip four times as long east-west as north-south is cut across its length."""
    make_flight(tmp_path, count=16)
    dataset = prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings())
    narrow = dataset.points.xyz * np.array([1.0, 1.0, 0.25], np.float32)
    c2w = dataset.train.c2w.copy()
    c2w[:, 2, 3] *= 0.25
    strip = replace(
        dataset,
        points=replace(dataset.points, xyz=narrow),
        train=replace(dataset.train, c2w=c2w),
    )
    assert choose_grid(strip, 4).grid_dim == (4, 1)
    bare = choose_grid(replace(strip, points=None), 4)
    assert bare.grid_dim == (4, 1) and "the cameras spread" in bare.reason
    with pytest.raises(DataError, match="images_per_expert: 0"):
        choose_grid(strip, 0)


def test_empty_experts_are_kept(dataset):
    """Experts that nobody sees keep their numbers and are reported."""
    # All cameras but one in the west: the eastern column of the grid is far from what they see.
    c2w = dataset.train.c2w.copy()
    points = dataset.points.xyz.copy()
    c2w[:, 1, 3] *= 0.01
    c2w[-1, 1, 3] = 30.0
    c2w[-1, :, :3] = [[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]  # looks up
    far = replace(dataset, train=replace(dataset.train, c2w=c2w))
    far = replace(far, points=replace(dataset.points, xyz=points))
    chosen = ClusterSettings((3, 1), cluster_2d=True)
    partition = make_partition(far, chosen, "p")
    counts = balance(far, partition, chosen)
    assert len(partition) == 3 and 1 in counts.empty and 0 not in counts.empty
    report = describe_balance(partition, counts, len(far.train))
    assert report["empty_experts"] == counts.empty
    assert [row["expert"] for row in report["experts"]] == [0, 1, 2]
    save = write_partition(far, chosen, "kept")[0]
    assert len(load_partition(far.root / "masks" / "kept")) == len(save) == 3


def test_stored_balance(dataset):
    """balance.json says for each expert its images, points and pixels, and the overlap."""
    chosen = ClusterSettings((2, 1), cluster_2d=True)
    partition, _ = write_partition(dataset, chosen)
    folder = dataset.root / "masks" / partition.name
    counts = balance(dataset, partition, chosen)
    save_balance(folder, describe_balance(partition, counts, 16))
    stored = json.loads((folder / "balance.json").read_text())
    assert stored["images"] == 16 and stored["total_pixels"] == 16 * 96 * 72
    assert [row["pixels"] for row in stored["experts"]] == counts.pixels.tolist()
    assert 0.0 < stored["overlap_share"] < 1.0
    every = np.concatenate(
        [
            route_image(images, i, partition, chosen.ray_samples).reshape(-1, 2)
            for images in (dataset.train, dataset.val)
            for i in range(len(images))
        ]
    )
    assert np.allclose(counts.pixel_shares, every.mean(axis=0), atol=0.01)
    assert counts.overlap_share == pytest.approx(every.all(axis=1).mean(), abs=0.01)


def test_masks_are_stored_as_they_are_computed(dataset):
    """What is stored is what is computed; damaged files are named; what is not stored is None."""
    chosen = ClusterSettings((2, 2), cluster_2d=True)
    partition, _ = write_partition(dataset, chosen)
    folder = dataset.root / "masks" / partition.name
    assert stored_pixels(folder, partition, dataset.train, 5) is None
    heard = []
    how = MaskSettings(chosen.ray_samples, 4, center_pixels=True)
    write_pixel_masks(folder, partition, (dataset.train,), how, lambda *said: heard.append(said))
    assert heard[-1] == ("train masks", 13, 13)
    files = sorted((folder / "pixels" / "train").iterdir())
    assert len(files) == 13 and max(file.stat().st_size for file in files) < 1000
    stored = stored_pixels(folder, partition, dataset.train, 5)
    want = np.moveaxis(route_image(dataset.train, 5, partition, 256, stride=4), -1, 0)
    assert stored.shape == (4, 18, 24) and np.array_equal(stored, want)
    files[5].write_bytes(files[5].read_bytes()[:50])
    with pytest.raises(DataError, match=r"000005\.npz: unreadable .* only a cache"):
        stored_pixels(folder, partition, dataset.train, 5)


def test_masks_follow_their_settings(dataset):
    """Masks of other settings, another partition or other cameras are made anew, like ones kept."""
    sets = (dataset.train, dataset.val)
    partition, _ = write_partition(dataset, ClusterSettings((2, 2)), "two")
    folder = dataset.root / "masks" / "two"
    file = folder / "pixels" / "train" / "000003.npz"

    def written(how, of, images):
        write_pixel_masks(folder, of, images, how)
        return file.stat().st_ino, stored_pixels(folder, of, images[0], 3)

    first, _ = written(MaskSettings(64, 4, center_pixels=True), partition, sets)
    assert written(MaskSettings(64, 4, center_pixels=True), partition, sets)[0] == first
    moved = replace(partition, centroids=partition.centroids + np.float32(0.2))
    turned = replace(dataset.train, c2w=np.roll(dataset.train.c2w, 1, axis=0))
    for how, of, images in (
        (MaskSettings(64, 2, center_pixels=True), partition, sets),
        (MaskSettings(16, 4, center_pixels=True), partition, sets),
        (MaskSettings(64, 4, center_pixels=False), partition, sets),
        (MaskSettings(64, 4, center_pixels=True), moved, sets),
        (MaskSettings(64, 4, center_pixels=True), partition, (turned, dataset.val)),
    ):
        before = file.read_bytes()
        _, stored = written(how, of, images)
        want = route_image(
            images[0], 3, of, how.ray_samples, stride=how.stride, center_pixels=how.center_pixels
        )
        assert np.array_equal(stored, np.moveaxis(want, -1, 0))
        assert file.read_bytes() != before or how.ray_samples == 16 or not how.center_pixels


def test_the_survey_finds_masks_of_another_partition(dataset):
    """Given masks that contradict the boxes, then the survey says so, and only then."""
    partition, _ = write_partition(dataset, ClusterSettings((1, 2)), "two")
    folder = dataset.root / "masks" / "two"
    assert check_masks(dataset, partition) == []
    how = MaskSettings(256, 4, center_pixels=True)
    write_pixel_masks(folder, partition, (dataset.train,), how)
    assert check_masks(dataset, partition) == []
    other = replace(partition, centroids=partition.centroids[::-1].copy())
    (one,) = check_masks(dataset, other)
    assert one.kind is Kind.STALE_MASKS and "create_clusters.py --masks" in one.mend


def test_a_full_disk_leaves_no_empty_folders(dataset, monkeypatch):
    """A partition that could not be written leaves masks/ as it was: not there."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_partition(dataset, ClusterSettings((2, 2)))
    assert not (dataset.root / "masks").exists()
