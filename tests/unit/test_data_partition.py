"""Dividing a scene: routing against a slow reference, boxes, names, files and the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_flights import make_flight
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfcore.data.clusters import (
    ClusterSettings,
    balance,
    make_partition,
    scene_box,
    write_partition,
)
from nerfcore.data.dataset import Dataset
from nerfcore.data.partition import Partition, load_partition, save_partition
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.routing import point_owners, ray_owners
from nerfcore.errors import DataError

SCRIPT = Path(__file__).parents[2] / "scripts" / "create_clusters.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("flight")
    make_flight(root, count=16)
    return prepare_dataset(root, root / "out", PrepareSettings(val_split=0.2))


def slow_owners(points, centroids, margin, cluster_2d):
    """d_c^2 <= margin^2 d_min^2, one point and one expert at a time."""
    axes = [1, 2] if cluster_2d else [0, 1, 2]
    owned = np.zeros((len(points), len(centroids)), bool)
    for i, point in enumerate(points):
        squares = [sum((point[a] - c[a]) ** 2 for a in axes) for c in centroids]
        for k, square in enumerate(squares):
            owned[i, k] = square <= margin**2 * min(squares)
    return owned


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from([1.0, 1.05, 1.5]), st.booleans())
def test_points_against_the_slow_reference(seed, experts, margin, cluster_2d):
    """The kernel agrees with the definition, except within rounding of a boundary."""
    rng = np.random.default_rng(seed)
    points, centroids = rng.normal(size=(50, 3)), rng.normal(size=(experts, 3))
    got = point_owners(points, centroids, boundary_margin=margin, cluster_2d=cluster_2d)
    strict = slow_owners(points, centroids, margin * (1 - 1e-5), cluster_2d)
    loose = slow_owners(points, centroids, margin * (1 + 1e-5), cluster_2d)
    if margin > 1.0:
        assert (strict <= got).all()
    assert (got <= loose).all()
    assert got.any(axis=1).all()


@pytest.mark.parametrize("cluster_2d", [True, False])
def test_rays_against_the_slow_reference(dataset, cluster_2d):
    """A ray's experts are those that own one of its samples inside the box."""
    partition = make_partition(dataset, ClusterSettings(cluster_2d=cluster_2d), "p")
    rng = np.random.default_rng(0)
    origins = rng.uniform(-0.5, 0.5, (40, 3)) - [2.0, 0.0, 0.0]
    directions = rng.normal((2.0, 0.0, 0.0), 1.0, (40, 3))
    origins[0], directions[0] = (-2.0, 0.0, 0.0), (-1.0, 0.0, 0.0)  # flies away from the box
    got = ray_owners(origins, directions, partition, 64)
    low, high = partition.aabb.astype(float)
    differing = 0
    for index in range(40):
        with np.errstate(divide="ignore"):
            sides = np.stack([low - origins[index], high - origins[index]]) / directions[index]
        near, far = max(0.0, sides.min(axis=0).max()), sides.max(axis=0).min()
        want = np.zeros(len(partition), bool)
        if far > near:
            t = near + (np.arange(64)[:, None] + 0.5) * (far - near) / 64
            samples = origins[index] + t * directions[index]
            want = slow_owners(samples, partition.centroids, 1.05, cluster_2d).any(axis=0)
        differing += int((want != got[index]).sum())
    assert not got[0].any() and got[1:].any()
    assert differing <= 1  # a sample within rounding of a boundary


def test_two_by_two(dataset):
    """Centroids are the quarter centres of the camera box, on axes 1 (East) and 2 (South)."""
    partition = make_partition(dataset, ClusterSettings((2, 2), cluster_2d=True), "p")
    positions = np.concatenate([dataset.train.c2w, dataset.val.c2w])[:, :, 3]
    low, high = positions.min(axis=0), positions.max(axis=0)
    for expert, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        want = low + (high - low) * [0, (row + 0.5) / 2, (column + 0.5) / 2]
        assert np.allclose(partition.centroids[expert, 1:], want[1:], atol=1e-6)
    assert partition.grid_dim == (2, 2) and len(partition) == 4


@pytest.mark.parametrize(
    ("grid", "cluster_2d"), [((1, 1), True), ((3, 1), True), ((2, 3), False), ((2, 2, 2), False)]
)
def test_boxes_hold_what_experts_own(dataset, grid, cluster_2d):
    """Every point of the scene lies in the box of each expert that owns it; boxes are clamped."""
    chosen = ClusterSettings(grid, cluster_2d=cluster_2d, boundary_margin=1.2)
    partition = make_partition(dataset, chosen, "p")
    assert len(partition) == int(np.prod(grid))
    low, high = partition.aabb
    points = np.random.default_rng(0).uniform(low, high, (3000, 3))
    owned = point_owners(points, partition.centroids, boundary_margin=1.2, cluster_2d=cluster_2d)
    for expert in range(len(partition)):
        mine = points[owned[:, expert]]
        assert (mine >= partition.box_mins[expert]).all()
        assert (mine <= partition.box_maxs[expert]).all()
    assert (partition.box_mins >= low).all() and (partition.box_maxs <= high).all()
    if len(partition) == 1:
        assert np.allclose(partition.box_mins[0], low) and np.allclose(partition.box_maxs[0], high)


def test_scene_box(dataset):
    """The box holds the ground and the camera box horizontally, and stays below the cameras."""
    box = scene_box(dataset, 1.1)
    xyz = dataset.points.xyz
    inside = ((xyz >= box[0]) & (xyz <= box[1])).all(axis=1)
    assert inside.mean() > 0.97
    positions = np.concatenate([dataset.train.c2w, dataset.val.c2w])[:, :, 3]
    assert (positions[:, 1:] >= box[0, 1:]).all() and (positions[:, 1:] <= box[1, 1:]).all()
    assert positions[:, 0].max() < box[0, 0]


def test_scene_box_ignores_a_lone_point_in_the_air(dataset):
    """One wrong point near the cameras does not fill the box with empty air."""
    xyz = dataset.points.xyz.copy()
    box = scene_box(dataset, 1.1)
    xyz[0] = (0.1, 0.0, 0.0)
    points = type(dataset.points)(**{**vars(dataset.points), "xyz": xyz})
    again = scene_box(Dataset(**{**vars(dataset), "points": points}), 1.1)
    assert np.allclose(box, again, atol=0.02)


def test_scene_box_without_points(dataset):
    """Without points the box spans the cameras and the altitude range."""
    box = scene_box(Dataset(**{**vars(dataset), "points": None}), 1.1)
    up = dataset.frame.world_to_enu_m(box)[:, 2]
    assert np.allclose(up, dataset.frame.altitude_range_enu_m[::-1], atol=1e-3)


def test_balance(dataset):
    """Shares cover every pixel that meets the box; overlap grows with the margin."""
    tight = ClusterSettings((2, 2), cluster_2d=True, boundary_margin=1.0)
    wide = ClusterSettings((2, 2), cluster_2d=True, boundary_margin=1.3)
    counts = [balance(dataset, make_partition(dataset, one, "p"), one) for one in (tight, wide)]
    assert counts[0].overlap_share < counts[1].overlap_share
    assert counts[0].points.sum() == len(dataset.points) <= counts[1].points.sum()
    assert counts[0].pixel_shares.sum() >= 1.0 - counts[0].missed_share - 1e-9
    assert counts[0].images.max() <= 16 and counts[0].missed_share < 0.15


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (ClusterSettings((2, 2), boundary_margin=1.05, scene_scale=1.1), "g22_grid_bm105_ss11"),
        (ClusterSettings((1, 2), boundary_margin=1.1, scene_scale=1.1), "g12_grid_bm110_ss11"),
        (ClusterSettings((2, 2, 1), scene_scale=1.25), "g221_grid_bm105_ss125"),
        (ClusterSettings((12, 3)), "g12x3_grid_bm105_ss11"),
    ],
)
def test_default_names(chosen, name):
    """Names are the reference system's."""
    assert chosen.default_name == name


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"grid_dim": (2,)}, "grid_dim"),
        ({"grid_dim": (0, 2)}, "grid_dim"),
        ({"grid_dim": (100, 100)}, "10000 experts, at most 256"),
        ({"grid_dim": (2, 2, 2), "cluster_2d": True}, "vertical"),
        ({"boundary_margin": 0.9}, "boundary_margin"),
        ({"scene_scale": 0.5}, "scene_scale"),
        ({"ray_samples": 0}, "ray_samples"),
    ],
)
def test_settings_out_of_range(fields, reason):
    """Each setting names itself."""
    with pytest.raises(DataError, match=reason):
        ClusterSettings(**fields)


def test_file_round_trip(tmp_path):
    """What is saved is loaded, from the folder or the file."""
    one = np.array([[0.0, 0, 0], [1, 1, 1]], np.float32)
    partition = Partition(
        "p",
        one,
        one - 1,
        one + 1,
        np.array([[-1, -1, -1], [2, 2, 2]], np.float32),
        True,
        1.05,
        (1, 2),
    )
    path = save_partition(tmp_path / "p", partition)
    for place in (path, path.parent):
        again = load_partition(place)
        assert again.name == "p" and again.grid_dim == (1, 2) and again.cluster_2d
        for name in ("centroids", "box_mins", "box_maxs", "aabb"):
            assert np.array_equal(getattr(again, name), getattr(partition, name))
            assert getattr(again, name).dtype == np.float32


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: r.update(boundary_margin=0.5), "boundary_margin"),
        (lambda r: r.update(format_version=9), "format_version"),
        (lambda r: r["box_mins"].pop(), "2 boxes each"),
        (lambda r: r["box_mins"].__setitem__(1, [5, 5, 5]), "box of expert 1 is empty"),
        (lambda r: r["centroids"].__setitem__(0, [1, 2]), r"centroids\.0"),
    ],
)
def test_damaged_file(tmp_path, spoil, reason):
    """A partition.json changed by hand is refused by field."""
    test_file_round_trip(tmp_path)
    path = tmp_path / "p" / "partition.json"
    record = json.loads(path.read_text())
    spoil(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=reason):
        load_partition(tmp_path / "p")


def test_missing_or_truncated_file(tmp_path):
    """No file, and half a file, are refused with the mend."""
    with pytest.raises(DataError, match=r"missing.*create_clusters"):
        load_partition(tmp_path / "p")
    test_file_round_trip(tmp_path)
    path = tmp_path / "p" / "partition.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="create_clusters"):
        load_partition(tmp_path / "p")


def test_existing_partition(dataset):
    """A partition is kept only by --resume, and only if its settings are the same."""
    chosen = ClusterSettings((2, 1), cluster_2d=True)
    made, kept = write_partition(dataset, chosen, "twice")
    assert not kept and made.name == "twice"
    with pytest.raises(DataError, match="exists; keep it with --resume"):
        write_partition(dataset, chosen, "twice")
    assert write_partition(dataset, chosen, "twice", resume=True)[1]
    with pytest.raises(DataError, match="other settings"):
        write_partition(dataset, ClusterSettings((1, 2)), "twice", resume=True)
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(DataError, match="output"):
            write_partition(dataset, chosen, name)


def test_command_line(dataset):
    """The script takes several numbers after --grid_dim and prints the balance."""
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            "--data_path",
            str(dataset.root),
            "--grid-dim",
            "2",
            "2",
            "--cluster_2d",
            "--boundary-margin",
            "1.1",
            "--center_pixels",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "g22_grid_bm110_ss11" in done.stdout and "Balance" in done.stdout
    partition = load_partition(dataset.root / "masks" / "g22_grid_bm110_ss11")
    assert len(partition) == 4 and partition.boundary_margin == 1.1
