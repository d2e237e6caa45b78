"""What the survey measures: ground, footprints, coverage, sharpness, each against known numbers."""

import cv2
import numpy as np
import pytest
from survey_sites import COUNT, GROUND_UP_M, ground_texture, make_site

from nerfcore.data.dataset import load_dataset
from nerfcore.survey import survey_dataset
from nerfcore.survey.coverage import Extent, count_cameras
from nerfcore.survey.footprints import nearest_others
from nerfcore.survey.photographs import PhotoFacts, blur_of
from nerfcore.survey.summary import summary_line, verdict
from nerfcore.survey.terrain import fit_terrain, flat_terrain


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return survey_dataset(load_dataset(make_site(tmp_path_factory.mktemp("site"))))


def test_a_clean_site_has_no_problems(survey) -> None:
    """Nothing is reported where nothing is wrong, and the verdict says so."""
    assert survey.problems == ()
    assert verdict(survey.problems) == (None, "ready for training")


def test_key_figures(survey) -> None:
    """25 cameras 100 m above the ground with 213 px focal length see 47 cm a pixel."""
    figures = survey.figures
    assert dict(figures.photographs) == {"train": 20, "validation": 5}
    assert figures.gsd_cm == pytest.approx(100 * 100 / 213, rel=0.04)
    assert figures.height_m == pytest.approx(100.0, abs=3.0)
    assert figures.error_px is not None and 0.1 < figures.error_px < 0.4
    assert figures.overlap is not None and 0.55 < figures.overlap < 0.8
    assert summary_line(figures).startswith("25 photographs · ")


def test_place(survey) -> None:
    """The middle of the site is where the flight was, on the ground."""
    place = survey.figures.place
    assert place is not None
    assert place.lat_deg == pytest.approx(51.549, abs=2e-4)
    assert place.lon_deg == pytest.approx(7.373, abs=3e-4)
    assert place.alt_m == pytest.approx(233.0 + GROUND_UP_M, abs=3.0)


def test_footprints_lie_where_the_photographs_look(survey) -> None:
    """The footprint's corners see the ground at the photograph's corners."""
    roster, views = survey.roster, survey.views
    for image in (0, 7, COUNT - 1):
        ups = survey.terrain.ground_at(views.corners_m[image])
        places = np.column_stack([views.corners_m[image], ups])
        local = (places - roster.positions_m[image]) @ roster.rotations[image]
        x = 128 + 213 * local[:, 0] / -local[:, 2]
        y = 96 - 213 * local[:, 1] / -local[:, 2]
        assert np.allclose(x, [0, 256, 256, 0], atol=0.5)
        assert np.allclose(y, [0, 0, 192, 192], atol=0.5)


def test_mosaic_shows_the_ground(survey) -> None:
    """The picture from above has the ground's colours where they are."""
    mosaic, extent = survey.mosaics[0], survey.extent
    centres = extent.cell_centres(1000)
    east, north = np.moveaxis(centres, -1, 0)
    # The ENU reference is the first camera, 80 m west and south of the texture's middle.
    shift = survey.roster.positions_m[survey.roster.names.index("0000.png"), :2]
    x, y = (east - shift[0] - 80) * 2 + 600, 600 - (north - shift[1] - 80) * 2
    truth = cv2.remap(
        ground_texture(), x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR
    )
    seen = mosaic[..., 3] > 0
    off = np.abs(mosaic[..., :3].astype(float) - truth).mean(axis=-1)
    assert 0.3 < seen.mean() <= 1.0
    assert np.median(off[seen]) < 12.0  # a picture elsewhere is about 40 off


def test_coverage_counts_footprints() -> None:
    """Two squares that overlap in a quarter of each are counted once, and twice there."""
    extent = Extent(0.0, 0.0, 40.0, 40.0)
    square = np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 20.0], [0.0, 20.0]])
    coverage = count_cameras(extent, np.stack([square + 5, square + 15, np.full((4, 2), np.nan)]))
    assert coverage.area_ha(2) == pytest.approx(0.01, rel=0.03)
    assert coverage.area_ha(1) == pytest.approx(0.07, rel=0.03)
    assert coverage.counts.max() == 2
    assert coverage.counts[-1, 0] == 0 and coverage.counts[220, 180] == 2


def test_terrain_follows_a_slope_and_ignores_roofs() -> None:
    """Ground is the low part of each cell, the surface its median; outside it is held."""
    rng = np.random.default_rng(1)
    places = rng.uniform(-100, 100, (20_000, 2))
    ups = 0.1 * places[:, 0]
    ups[rng.random(20_000) < 0.7] += 12.0
    terrain = fit_terrain(np.column_stack([places, ups]))
    wanted = np.array([[-50.0, 0.0], [50.0, 20.0]])
    assert np.allclose(terrain.ground_at(wanted), [-5.0, 5.0], atol=0.8)
    assert np.allclose(terrain.surface_at(wanted), [7.0, 17.0], atol=0.8)
    far = terrain.ground_at(np.array([1e6, 0.0]))
    assert far == pytest.approx(10.0, abs=1.0)
    assert flat_terrain(3.0).ground_at(np.zeros((5, 2))).tolist() == [3.0] * 5


def test_blur_grows_with_blur() -> None:
    """Sharp below 0.3, 1.5 px above 0.36, and one direction of shaking is enough."""
    rng = np.random.default_rng(3)
    sharp = cv2.resize(rng.integers(0, 255, (48, 64), np.uint8), (512, 384),
                       interpolation=cv2.INTER_NEAREST)  # fmt: skip
    scores = [blur_of(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (0.3, 1.5, 3.0)]
    assert scores[0] < 0.25 < 0.36 < scores[1] < scores[2] < 1.0
    assert blur_of(cv2.blur(sharp, (9, 1))) > blur_of(sharp) + 0.2
    assert blur_of(np.full((20, 20), 9, np.uint8)) == 1.0


def test_facts_are_those_of_the_photograph(survey) -> None:
    """Brightness and thumbnails belong to the photograph of the same index."""
    for image in (0, 12):
        picture = cv2.imread(str(survey.roster.images.paths[image]), cv2.IMREAD_GRAYSCALE)
        facts = survey.photos[image]
        assert picture is not None and isinstance(facts, PhotoFacts)
        assert facts.brightness == pytest.approx(float(picture.mean()), abs=0.5)
        assert facts.thumbnail.startswith("data:image/jpeg;base64,")


def test_nearest_others_match_a_slow_reference() -> None:
    """Neighbours come nearest first and never the place itself."""
    places = np.random.default_rng(5).uniform(0, 9, (30, 3))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert np.array_equal(nearest_others(places, 4), np.argsort(apart, axis=1)[:, :4])
    assert nearest_others(places[:2], 9).tolist() == [[1], [0]]
