"""Reconstructions of photographs: damaged ones, contradictory GPS, further tries, changed files."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data_flights import SITE, leftovers
from sfm_photographs import camera_positions, make_photographs

from nerfcore.data import reconstruction
from nerfcore.data.georegistration import Alignment, Placement, accepted_median_m
from nerfcore.data.prepare import PrepareSettings, prepare_dataset
from nerfcore.data.reconstruction import Request
from nerfcore.errors import DataError
from nerfcore.geometry.geodesy import geodetic_to_ecef

SFM = PrepareSettings(sfm=True)
COUNT = 6
JPEG_COMMENT = b"\xff\xfe\x00\x04"  # a segment of four bytes: its length and two more


class Interrupted(BaseException):
    """Ends a run the way Ctrl-C does."""


def phases_until_placing(folder, out, settings):
    """Prepare until the mapper begins; return the phases until then."""
    seen = []

    def on_progress(phase, done, total):
        seen.append(phase)
        if phase == "placing photographs":
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare_dataset(folder, out, settings, on_progress)
    return seen


@pytest.mark.parametrize(
    ("spread_m", "limit_m"),
    [(5.0, 1.0), (44.0, 8.8), (50.0, 10.0), (100.0, 10.0), (200.0, 10.0), (800.0, 40.0)],
)
def test_the_limit_follows_the_spread(spread_m, limit_m):
    """Twice the GPS noise; less on a small site, where that fits anything; more on a wide one."""
    assert accepted_median_m(spread_m) == pytest.approx(limit_m)


def alignment(reconstructed, median_m, upper_m=None):
    upper_m = median_m if upper_m is None else upper_m
    return Alignment(14, reconstructed, reconstructed, 9.0, median_m, upper_m, 60.0, 50.0, 10.0)


def test_half_of_the_cameras_is_not_enough():
    """A median within the limit does not hide a quarter of the cameras far off."""
    assert alignment(12, 9.9).fits and alignment(12, 1.0, 19.9).fits
    assert not alignment(12, 10.1).fits and not alignment(12, 1.0, 20.1).fits


def tried(monkeypatch, *tries):
    """Run the tries, each a list of alignments; return what is chosen and how many were made."""
    made = []

    def one(request, attempt, phase, on_progress):
        made.append(attempt.seed)
        return [SimpleNamespace(found=found, num_reg_images=lambda n=found.reconstructed: n)
                for found in tries[attempt.seed]]  # fmt: skip

    monkeypatch.setattr(reconstruction, "_map", one)
    monkeypatch.setattr(
        reconstruction, "place", lambda folder, model, *_: Placement(None, model.found)
    )
    request = Request(Path("photographs"), Path("work"), ("a.jpg",) * 14, {})
    _, placement = reconstruction._map_until_it_fits(request, lambda *_: None)
    return placement.alignment, made


def test_a_model_that_does_not_fit_is_tried_again(monkeypatch):
    """A larger model that does not fit gives way to a smaller one; one try that fits is enough."""
    good, small, folded = alignment(12, 0.7), alignment(4, 0.4), alignment(13, 27.0)
    assert tried(monkeypatch, [good]) == (good, [0])
    assert tried(monkeypatch, [folded, good]) == (good, [0])
    assert tried(monkeypatch, [folded], [good]) == (good, [0, 1])
    assert tried(monkeypatch, [small], [folded], []) == (small, [0, 1, 2])
    with pytest.raises(DataError, match=r"13 of 14 photographs lie 27\.0 m \(median\)"):
        tried(monkeypatch, [folded], [], [alignment(3, 30.0)])
    with pytest.raises(DataError, match="no reconstruction of the 14 photographs"):
        tried(monkeypatch, [], [], [])


def test_gps_of_other_photographs(tmp_path):
    """Photographs whose GPS was mixed up are refused with median, spread, limit and mend."""
    mixed = camera_positions(COUNT)[[4, 2, 5, 0, 3, 1]] * [3.0, 3.0, 1.0]
    make_photographs(tmp_path / "photographs", count=COUNT, places=mixed)
    with pytest.raises(
        DataError,
        match=r"does not fit its GPS.*\d m \(median\).*spread over \d.* at most \d.* 3 tries .*"
        "bring a COLMAP model",
    ):
        prepare_dataset(tmp_path / "photographs", tmp_path / "out", SFM)
    assert not (tmp_path / "out").exists() and leftovers(tmp_path) == []


def test_damaged_photographs_are_named_before_the_work(tmp_path):
    """Photographs that are cut off are listed, ten at most, with their number."""
    folder = tmp_path / "photographs"
    make_photographs(folder, count=13)
    for index in range(11):
        path = folder / f"{index:03d}.jpg"
        path.write_bytes(path.read_bytes()[: 4000 + 100 * index])
    phases = []
    with pytest.raises(DataError) as caught:
        prepare_dataset(folder, tmp_path / "out", SFM, lambda phase, *_: phases.append(phase))
    text = str(caught.value)
    assert f"{folder}: 11 of 13 photographs cannot be used: 000.jpg (unreadable" in text
    assert "009.jpg" in text and "010.jpg" not in text and ", ...; restore the files" in text
    assert set(phases) == {"checking photographs"} and leftovers(tmp_path) == []


def test_a_changed_photograph_begins_anew(tmp_path):
    """Old features are not taken for another photograph of the same name, size and time."""
    folder, out = tmp_path / "photographs", tmp_path / "out"
    make_photographs(folder, count=COUNT)
    path = folder / "003.jpg"
    plain = path.read_bytes()
    path.write_bytes(plain[:2] + JPEG_COMMENT + b"ab" + plain[2:])
    resume = PrepareSettings(sfm=True, resume=True)
    assert "matching photographs" in phases_until_placing(folder, out, SFM)
    assert "matching photographs" not in phases_until_placing(folder, out, resume)
    time_ns = path.stat().st_mtime_ns
    path.write_bytes(plain[:2] + JPEG_COMMENT + b"cd" + plain[2:])
    os.utime(path, ns=(time_ns, time_ns))
    assert "matching photographs" in phases_until_placing(folder, out, resume)


def test_the_reconstruction_is_where_the_cameras_were(tmp_path):
    """Six photographs with exact GPS give cameras within 0.2 m of where they were taken."""
    centres = make_photographs(tmp_path / "photographs", count=COUNT)
    dataset = prepare_dataset(tmp_path / "photographs", tmp_path / "out", SFM)
    assert dataset.train.names == tuple(f"{index:03d}.jpg" for index in range(COUNT))
    assert dataset.frame.enu_ref is not None
    got = dataset.frame.world_to_enu_m(dataset.train.c2w[:, :, 3])
    offset = geodetic_to_ecef(dataset.frame.enu_ref) - geodetic_to_ecef(SITE)
    assert np.linalg.norm(offset) == pytest.approx(np.linalg.norm(centres[0]), abs=0.2)
    want = centres - centres[0]
    assert np.linalg.norm((got - got[0]) - want, axis=1).max() < 0.2
