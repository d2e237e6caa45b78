"""Camera paths, presets and films."""

import itertools
import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerfcore.data.records import SceneFrame
from nerfcore.errors import DataError, SettingsError
from nerfcore.geometry.aiming import camera_towards, looking_at
from nerfcore.video.film import FilmError, FilmWriter, check_room, new_film, render_film
from nerfcore.video.path import (
    CameraPath,
    KeyFrame,
    key_frame_of,
    parse_path,
    read_path,
    write_path,
)
from nerfcore.video.presets import Area, Preset, preset_path

FRAME = SceneFrame(100.0, np.array([-80.0, 10.0, 20.0]), None, (5.0, 80.0))


def key(east: float, fov_deg: float = 50.0, heading_deg: float = 0.0) -> KeyFrame:
    eye = FRAME.enu_m_to_world([east, 0.0, 60.0])
    camera = camera_towards(eye, heading_deg, -30.0, 0.0, 64, 48, math.radians(fov_deg))
    return key_frame_of(camera, FRAME)


def path_of(*keys: KeyFrame, **changes) -> CameraPath:
    values = {"key_frames": keys, "seconds_per_key": 1.0, "fps": 10.0, **changes}
    return CameraPath(**values)


class TestPath:
    def test_a_key_frame_is_the_camera_it_was_made_of(self):
        camera = looking_at([0.3, -0.2, 0.9], [0.8, 0.1, 0.0], 64, 48, 0.9)
        again = path_of(key_frame_of(camera, FRAME), key(0.0)).cameras(FRAME, 64, 48)[0]
        np.testing.assert_allclose(again.c2w, camera.c2w, atol=1e-5)
        assert again.fy == pytest.approx(camera.fy)

    @pytest.mark.parametrize("tension", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("loop", [False, True])
    def test_it_goes_through_every_key_frame(self, tension, loop):
        keys = [key(0.0), key(10.0, 60.0, 40.0), key(30.0, 40.0, 80.0)]
        path = path_of(*keys, tension=tension, loop=loop)
        positions, wxyz, fovs = path.poses()
        assert len(positions) == path.frame_count == (30 if loop else 21)
        for index, expected in enumerate(keys):
            np.testing.assert_allclose(positions[10 * index], expected.position_enu_m, atol=1e-6)
            assert abs(wxyz[10 * index] @ expected.wxyz) == pytest.approx(1.0)
            assert fovs[10 * index] == pytest.approx(expected.fov_deg)

    def test_between_two_alike_slopes_it_runs_straight(self):
        positions, _, _ = path_of(key(0.0), key(10.0), key(20.0), key(30.0)).poses()
        np.testing.assert_allclose(positions[10:21, 0], np.linspace(10, 20, 11), atol=1e-9)

    def test_full_tension_stops_at_the_key_frames(self):
        positions, _, _ = path_of(key(0.0), key(10.0), key(20.0), tension=1.0, fps=100.0).poses()
        speeds = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        assert speeds[100] < 0.05 * speeds.max()

    def test_a_loop_closes_smoothly(self):
        keys = [key(math.sin(a) * 20, heading_deg=math.degrees(a)) for a in np.arange(0, 6, 1.0)]
        positions, wxyz, _ = path_of(*keys, loop=True, fps=50.0).poses()
        steps = np.linalg.norm(np.diff(np.vstack([positions, positions[:1]]), axis=0), axis=1)
        assert steps[-1] < 2.0 * steps.mean() + 1e-9
        assert abs(wxyz[-1] @ wxyz[0]) > 0.999

    @given(
        st.lists(st.floats(-180, 180), min_size=2, max_size=6),
        st.floats(0, 1),
        st.booleans(),
    )
    def test_every_pose_is_a_rotation_and_turns_little_between_pictures(
        self, headings, tension, loop
    ):
        keys = [key(10.0 * i, heading_deg=h) for i, h in enumerate(headings)]
        cameras = path_of(*keys, tension=tension, loop=loop, fps=30.0).cameras(FRAME, 64, 48)
        for before, after in itertools.pairwise(cameras):
            rotation = after.c2w[:, :3].astype(np.float64)
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
            cosine = (np.trace(before.c2w[:, :3].T @ after.c2w[:, :3]) - 1.0) / 2.0
            assert math.degrees(math.acos(np.clip(cosine, -1, 1))) < 40.0

    def test_the_file_round_trips(self, tmp_path):
        path = path_of(key(0.0), key(10.0), tension=0.3, loop=True)
        write_path(tmp_path / "new" / "a.json", path)
        assert read_path(tmp_path / "new" / "a.json") == path

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"key_frames": []}, "key_frames"),
            ({"fps": 0}, "fps"),
            ({"fps": "fast"}, "fps"),
            ({"tension": 2}, "tension"),
            ({"unknown": 1}, "unknown"),
            ({"format_version": 2}, "format_version"),
        ],
    )
    def test_a_wrong_file_is_named_with_its_field(self, change, named):
        good = json.loads(path_of(key(0.0), key(10.0)).model_dump_json())
        with pytest.raises(DataError, match=f"a.json: {named}"):
            parse_path(json.dumps({**good, **change}), "a.json")

    def test_a_wrong_rotation_a_missing_file_and_no_json(self, tmp_path):
        good = json.loads(path_of(key(0.0), key(10.0)).model_dump_json())
        good["key_frames"][1]["wxyz"] = [0, 0, 0, 0]
        with pytest.raises(DataError, match=r"key_frames\.1: .*unit quaternion"):
            parse_path(json.dumps(good), "a.json")
        with pytest.raises(DataError, match="camera path unreadable"):
            read_path(tmp_path / "none.json")
        with pytest.raises(DataError, match="x: content"):
            parse_path(b"\xff{", "x")


class TestPresets:
    AREA = Area(FRAME, (100.0, -50.0), (80.0, 60.0), 5.0, 90.0)

    @pytest.mark.parametrize("preset", list(Preset))
    def test_every_preset_stays_above_the_ground_and_near_the_site(self, preset):
        positions, _, _ = preset_path(preset, self.AREA).poses()
        assert (positions[:, 2] > 5.0 + 20.0).all()
        assert (np.abs(positions[:, :2] - [100.0, -50.0]) < 250.0).all()

    def test_the_turntable_looks_at_the_middle(self):
        for camera in preset_path(Preset.TURNTABLE, self.AREA).cameras(FRAME, 64, 48):
            eye, ahead = FRAME.world_to_enu_m(
                [camera.c2w[:, 3], camera.c2w[:, 3] - camera.c2w[:, 2]]
            )
            direction = (ahead - eye) / np.linalg.norm(ahead - eye)
            wanted = np.array([100.0, -50.0, 5.0]) - eye
            assert direction @ wanted / np.linalg.norm(wanted) > 0.995

    def test_north_south_flies_south_and_looks_there(self):
        positions, _, _ = preset_path(Preset.NORTH_SOUTH, self.AREA).poses()
        assert (np.diff(positions[:, 1]) < 0).all() and np.ptp(positions[:, 0]) < 1e-6

    def test_the_area_of_cameras_leaves_strays_out(self):
        c2w = np.zeros((100, 3, 4), np.float32)
        places = np.stack([np.linspace(-50, 50, 100), np.zeros(100), np.full(100, 65.0)], axis=1)
        places[0] = [5000.0, 0.0, 65.0]
        c2w[:, :, 3] = FRAME.enu_m_to_world(places)
        area = Area.of_cameras(c2w, FRAME)
        assert area.middle_m[0] == pytest.approx(0.0, abs=6.0)
        assert area.half_m[0] < 60.0
        assert area.height_m == pytest.approx(60.0, abs=0.1)


def flat(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


class TestFilm:
    def test_it_plays_back_what_was_written(self, tmp_path):
        file = tmp_path / "films" / "a.mp4"
        told: list[int] = []
        pictures = [np.dstack([flat(40 * i)[..., 0]] * 2 + [flat(20)[..., 0]]) for i in range(5)]
        assert render_film(file, pictures, (64, 48), 10.0, told.append) == 5
        assert told == [1, 2, 3, 4, 5]
        film = cv2.VideoCapture(str(file))
        assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
        for expected in pictures:
            is_read, bgr = film.read()
            assert is_read
            assert np.abs(bgr[..., ::-1].astype(int) - expected).mean() < 8.0, "colours are kept"
        assert not film.read()[0]
        assert [p.name for p in file.parent.iterdir()] == ["a.mp4"]

    def test_giving_up_and_errors_leave_nothing(self, tmp_path):
        file = tmp_path / "a.mp4"
        assert render_film(file, [flat(1), None], (64, 48), 10.0, lambda _: None) is None

        def broken():
            yield flat(1)
            raise RuntimeError("the model fell over")

        with pytest.raises(RuntimeError, match="fell over"):
            render_film(file, broken(), (64, 48), 10.0, lambda _: None)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("size", [(63, 48), (64, 0), (8, 48), (64, 5000)])
    def test_impossible_sizes_are_named(self, tmp_path, size):
        with pytest.raises(SettingsError, match=r"(width|height)_px .*must be even, 16 to 4096"):
            render_film(tmp_path / "a.mp4", [], size, 10.0, lambda _: None)

    def test_an_encoder_that_loses_pictures_is_found_out(self, tmp_path, monkeypatch):
        """The encoder itself says nothing when the disk is full: the file is read back."""
        real = FilmWriter.write

        def losing(writer, picture):
            if writer.count < 3:
                real(writer, picture)
            else:
                writer.count += 1

        monkeypatch.setattr(FilmWriter, "write", losing)
        with pytest.raises(FilmError, match="holds 3 of 6 pictures; is the disk full"):
            render_film(tmp_path / "a.mp4", [flat(i) for i in range(6)], (64, 48), 10.0, print)
        assert list(tmp_path.iterdir()) == []

    def test_a_film_without_pictures_is_none(self, tmp_path):
        with (
            pytest.raises(FilmError, match="holds 0 of 0"),
            new_film(tmp_path / "a.mp4", 64, 48, 10.0),
        ):
            pass

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(OSError):
            render_film(tmp_path / "taken" / "a.mp4", [flat(0)], (64, 48), 10.0, print)

    def test_a_picture_of_another_size_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="shape"):
            render_film(tmp_path / "a.mp4", [flat(0)[:40]], (64, 48), 10.0, print)


def test_a_disk_without_room_is_said_before_anything_is_rendered(tmp_path):
    check_room(tmp_path, 24, (64, 48))
    with pytest.raises(FilmError, match=r"MB are free, .* may need .* MB; free some room"):
        check_room(tmp_path, 10**12, (640, 360))
    assert list(tmp_path.iterdir()) == []
