"""Each kind of damage is found, under the right name, and nothing else is."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from survey_sites import Damage, make_site, move_camera

from nerfcore.data.balance import Balance
from nerfcore.data.clusters import ClusterSettings, write_partition
from nerfcore.data.dataset import load_dataset
from nerfcore.errors import DataError
from nerfcore.survey import Survey, survey_dataset
from nerfcore.survey.experts import check_experts
from nerfcore.survey.photo_checks import check_photographs
from nerfcore.survey.pose_checks import check_poses
from nerfcore.survey.problems import TITLES, Kind, Problem, Severity, in_order
from nerfcore.survey.summary import check_whole, verdict

DAMAGE = Damage(
    blurred=("0003.png",),
    dark=("0006.png",),
    burnt=("0008.png",),
    copied=(("0011.png", "0010.png"),),
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Survey:
    root = make_site(tmp_path_factory.mktemp("damaged"), DAMAGE)
    move_camera(root, "0016.png", (20.0, 30.0, 0.0))
    move_camera(root, "0020.png", (-500.0, 900.0, 0.0))
    move_camera(root, "0024.png", (140.0, 0.0, 0.0))
    return survey_dataset(load_dataset(root))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return make_site(tmp_path_factory.mktemp("clean"), experts=False, ecef=False)


def names(survey: Survey, kind: Kind) -> list[str]:
    return [one.subject for one in survey.problems if one.kind is kind]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Kind.BLURRED, ["0003.png"]),
        (Kind.DARK, ["0006.png"]),
        (Kind.BURNT, ["0008.png"]),
        (Kind.TWO_POSES, ["0011.png"]),
        (Kind.POSE_ERROR, ["0016.png", "0020.png", "0024.png"]),
        (Kind.POSE_FAR, ["0020.png"]),
        (Kind.POSE_HEIGHT, ["0024.png", "0020.png"]),
        (Kind.DUPLICATE, []),
        (Kind.UNREADABLE, []),
        (Kind.FEW_POINTS, []),
        (Kind.EXPOSURE_JUMP, []),
    ],
)
def test_damage_is_found(damaged: Survey, kind: Kind, found: list[str]) -> None:
    """Given one spoilt photograph or pose, it is named, and no other."""
    assert names(damaged, kind) == found


def test_every_problem_says_what_limit_and_mend(damaged: Survey) -> None:
    """A problem names value, limit and mend, and its photograph is the one it is about."""
    for one in damaged.problems:
        assert one.value and one.limit and one.mend
        if one.images:
            assert damaged.roster.names[one.images[0]] == one.subject
    assert verdict(damaged.problems)[0] is Severity.SERIOUS
    assert set(TITLES) == set(Kind)


def test_below_the_ground_is_serious(damaged: Survey) -> None:
    """A camera 40 m under the ground has no footprint, and that is serious."""
    (one,) = [p for p in damaged.problems if p.subject == "0024.png" and p.kind is Kind.POSE_HEIGHT]
    assert one.severity is Severity.SERIOUS
    assert np.isnan(damaged.views.corners_m[one.images[0]]).all()


@pytest.mark.parametrize(("gap_m", "found"), [(60.0, []), (130.0, ["0024.png"])])
def test_lines_that_cross_make_no_camera_far(clean: Path, gap_m: float, found: list[str]) -> None:
    """Given cameras that meet in pairs, one alone is far only beyond the flight's height."""
    survey = survey_dataset(load_dataset(clean))
    roster = survey.roster
    places = roster.positions_m.copy()
    order = np.argsort(roster.names)
    places[order[:24]] = np.repeat(np.arange(12), 2)[:, None] * [50.0, 0.0, 0.0]
    places[order[1:24:2], 1] += 3.0
    places[order[24]] = [-gap_m, 0.0, 0.0]
    problems = check_poses(replace(roster, positions_m=places), survey.views, survey.tracks)
    assert [one.subject for one in problems if one.kind is Kind.POSE_FAR] == found


def test_duplicate_in_one_place(tmp_path: Path) -> None:
    """Given two copies whose poses agree, then it is a duplicate, not a wrong pose."""
    root = make_site(tmp_path, Damage(copied=(("0011.png", "0010.png"),)), experts=False)
    survey = survey_dataset(load_dataset(root))
    a, b = (survey.roster.names.index(name) for name in ("0010.png", "0011.png"))
    survey.roster.positions_m[b] = survey.roster.positions_m[a]
    survey.roster.rotations[b] = survey.roster.rotations[a]
    found = check_photographs(survey.roster, survey.views, survey.photos)
    assert [one.kind for one in found] == [Kind.DUPLICATE]
    assert set(found[0].images) == {a, b}


def test_changed_and_unreadable_photographs(clean: Path, tmp_path: Path) -> None:
    """A photograph that is not the recorded file is a problem, not a crash; without a record, one
    that is no picture is. The rest is measured."""
    root = tmp_path / "site"
    shutil.copytree(clean, root)
    dataset = load_dataset(root)
    path = dataset.train.paths[4]
    path.write_bytes(b"x" * path.stat().st_size)
    survey = survey_dataset(load_dataset(root))
    (one,) = [p for p in survey.problems if p.severity is Severity.SERIOUS]
    assert one.kind is Kind.CHANGED and one.subject == survey.roster.names[4]
    assert "SHA-256" in one.value and "prepare the dataset again" in one.mend
    unrecorded = replace(dataset, train=replace(dataset.train, checksums=(), valid_checksums=()))
    survey = survey_dataset(unrecorded)
    (one,) = [p for p in survey.problems if p.kind is Kind.UNREADABLE]
    assert one.subject == survey.roster.names[4] and "not an image" in one.value
    assert not names(survey, Kind.CHANGED)


@pytest.mark.parametrize(("error_px", "found"), [(1.0, []), (3.9, []), (6.0, ["first flight"])])
def test_a_flight_that_is_bad_as_a_whole(clean: Path, error_px: float, found: list[str]) -> None:
    """Errors that all photographs share are said once; one photograph may not hide among them."""
    survey = survey_dataset(load_dataset(clean))
    errors = np.full(len(survey.roster), error_px)
    tracks = replace(survey.tracks, errors_px=errors)
    problems = check_poses(survey.roster, survey.views, tracks)
    assert [one.subject for one in problems if one.kind is Kind.POSE_ERROR] == found
    errors[3] = 5.0
    alone = [survey.roster.names[3]] if error_px < 4.0 else found
    problems = check_poses(survey.roster, survey.views, tracks)
    assert [one.subject for one in problems if one.kind is Kind.POSE_ERROR] == alone


def test_no_experts_and_no_place_are_notes(clean: Path) -> None:
    """A dataset in local coordinates without a partition is usable, with two notes."""
    survey = survey_dataset(load_dataset(clean))
    assert {one.kind for one in survey.problems} == {Kind.NO_EXPERTS, Kind.NO_PLACE}
    assert verdict(survey.problems) == (None, "ready for training once divided into experts")


def test_unknown_clusters(clean: Path) -> None:
    """A partition that is not there is refused by name, with those that are."""
    with pytest.raises(DataError, match=r"clusters: 'nowhere' is not in .*masks; known: none"):
        survey_dataset(load_dataset(clean), "nowhere")


def test_experts_without_work(clean: Path, tmp_path: Path) -> None:
    """An empty expert is serious, one with a quarter of its share a warning."""
    root = tmp_path / "site"
    shutil.copytree(clean, root)
    write_partition(load_dataset(root), ClusterSettings((2, 2), cluster_2d=True))
    experts = survey_dataset(load_dataset(root)).experts
    assert experts is not None and check_experts(experts) == []
    shares = np.array([0.5, 0.4, 0.03, 0.0])
    counts = Balance(np.array([9, 8, 2, 0]), np.array([5, 5, 1, 0]), shares, 0.0, 0.0)
    found = check_experts(replace(experts, counts=counts))
    assert [(one.kind, one.severity) for one in found] == [
        (Kind.UNBALANCED_EXPERT, Severity.WARNING),
        (Kind.EMPTY_EXPERT, Severity.SERIOUS),
    ]


def test_thin_flights(damaged: Survey) -> None:
    """Few photographs, little overlap and no points are each named."""
    thin = replace(damaged.figures, photographs=(("train", 4),), overlap=0.3, points=0)
    assert [one.kind for one in check_whole(thin)] == [
        Kind.FEW_PHOTOGRAPHS,
        Kind.LOW_OVERLAP,
        Kind.NO_POINTS,
    ]


def test_gravest_kinds_come_first() -> None:
    """A kind with one serious problem comes before a kind with warnings only."""

    def problem(kind: Kind, severity: Severity, subject: str) -> Problem:
        return Problem(kind, severity, subject, "v", "l", "m")

    mixed = [
        problem(Kind.NO_PLACE, Severity.NOTE, "x"),
        problem(Kind.DARK, Severity.WARNING, "a"),
        problem(Kind.BLURRED, Severity.WARNING, "b"),
        problem(Kind.BLURRED, Severity.SERIOUS, "c"),
    ]
    assert [one.subject for one in in_order(mixed)] == ["c", "b", "a", "x"]
