"""Owns the video panel: key frames, presets, preview, path files, and rendering to MP4."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import viser
from numpy.typing import NDArray

from nerfcore.geometry.camera import Camera
from nerfcore.video.film import check_room, render_film
from nerfcore.video.path import (
    CameraPath,
    KeyFrame,
    key_frame_of,
    parse_path,
    read_path,
    write_path,
)
from nerfcore.video.presets import Area, Preset, preset_path
from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.colours import Show, depth_colours, tone
from nerfcore.viewer.limits import one_of, within
from nerfcore.viewer.look import Look
from nerfcore.viewer.poses import BadViewError, page_from_camera, page_from_world
from nerfcore.viewer.reasons import guarded, reason_of
from nerfcore.viewer.sharing import SharedScene

SIZES: Final = {
    "640 x 360": (640, 360),
    "854 x 480": (854, 480),
    "1280 x 720": (1280, 720),
    "1920 x 1080": (1920, 1080),
    "320 x 180": (320, 180),
}
PREVIEW_FPS: Final = 15.0
KEY_SECONDS: Final = (0.1, 600.0)
FPS: Final = (1.0, 120.0)
MOST_FOV_DEG: Final = 170.0
LINE_RGB: Final = (90, 220, 120)
LINE_POINTS: Final = 200
FILM_SHOWS: Final = (Show.RGB.value, Show.DEPTH.value)
NO_FILES: Final = "none yet"
NO_KEYS: Final = "No key frames: add views, use a preset"


class VideoPanel:
    """One client's camera path and film.

    Args:
        view: acted on.
        scene: rendered.
    """

    def __init__(self, view: ClientView, scene: SharedScene) -> None:
        self._view = view
        self._scene = scene
        self._keys: list[KeyFrame] = []
        self._loaded_fov: float | None = None
        self._lock = threading.Lock()
        self._render_thread: threading.Thread | None = None
        self._is_cancelled = threading.Event()
        self._is_previewing = threading.Event()
        self._file: Path | None = None
        self._nodes: list[viser.SceneNodeHandle] = []
        self._folder = view.site.folder
        gui = view.client.gui
        self._line = gui.add_markdown(NO_KEYS)
        self._add_key_controls(gui)
        self._add_way_controls(gui)
        self._add_file_controls(gui)
        self._add_render_controls(gui)

    @property
    def is_rendering(self) -> bool:
        """Whether a film is under way."""
        thread = self._render_thread
        return thread is not None and thread.is_alive()

    def abandon(self) -> None:
        """Stop the preview; a film under way is finished for the job's folder."""
        self._is_previewing.clear()

    def close(self, timeout_s: float) -> bool:
        """Give up whatever is under way; False when it does not end in time."""
        self.abandon()
        self._is_cancelled.set()
        thread = self._render_thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _add_key_controls(self, gui: viser.GuiApi) -> None:
        preset = gui.add_dropdown("Preset", [preset.value for preset in Preset])
        use = gui.add_button("Use preset", icon=viser.Icon.WAND)
        add = gui.add_button("Add this view", icon=viser.Icon.PLUS)
        edit = gui.add_button_group("Key frames", ["Undo", "Clear", "Show"])
        use.on_click(lambda _: self._act("Preset", lambda: self._use(Preset(preset.value))))
        add.on_click(lambda _: self._act("Not added", self._add))
        edit.on_click(lambda _: self._act("Key frames", lambda: self._edit(edit.value)))

    def _add_way_controls(self, gui: viser.GuiApi) -> None:
        with gui.add_folder("Way", expand_by_default=False):
            self._seconds = gui.add_number(
                "Seconds a key", 1.5, min=KEY_SECONDS[0], max=KEY_SECONDS[1], step=0.1
            )
            self._fps = gui.add_number("Pictures a second", 24.0, min=FPS[0], max=FPS[1], step=1.0)
            self._tension = gui.add_slider("Tension", 0.0, 1.0, 0.05, 0.0)
            self._fov = gui.add_number(
                "Field of view",
                0.0,
                min=0.0,
                max=MOST_FOV_DEG,
                step=1.0,
                hint="degrees; 0 = each view's",
            )
            self._loop = gui.add_checkbox("Loop", False)
        for handle in (self._seconds, self._fps, self._tension, self._fov, self._loop):
            handle.on_update(lambda _: self._act("Way", self._describe))

    def _add_file_controls(self, gui: viser.GuiApi) -> None:
        with gui.add_folder("Path files", expand_by_default=False):
            self._name = gui.add_text("Name", "path")
            save = gui.add_button("Save path", icon=viser.Icon.DEVICE_FLOPPY)
            self._files = gui.add_dropdown("Saved", self._saved() or [NO_FILES])
            load = gui.add_button("Load path", icon=viser.Icon.FOLDER_OPEN)
            upload = gui.add_upload_button("Upload path", mime_type="application/json")
        save.on_click(lambda _: self._act("Path not saved", self._save))
        load.on_click(lambda _: self._act("Path not loaded", self._load))
        upload.on_upload(
            lambda _: self._act(
                "Path not loaded",
                lambda: self._take(parse_path(upload.value.content, upload.value.name)),
            )
        )

    def _add_render_controls(self, gui: viser.GuiApi) -> None:
        self._preview = gui.add_button("Preview", icon=viser.Icon.PLAYER_PLAY)
        self._size = gui.add_dropdown("Size", list(SIZES))
        self._what = gui.add_dropdown("Film shows", FILM_SHOWS)
        self._render = gui.add_button("Render MP4", icon=viser.Icon.MOVIE)
        self._progress = gui.add_progress_bar(0.0, visible=False)
        self._cancel = gui.add_button("Cancel", icon=viser.Icon.X, visible=False)
        self._download = gui.add_button("Download", icon=viser.Icon.DOWNLOAD, visible=False)
        # Last, as a reason may be long: what lies below it would move.
        self._film_line = gui.add_markdown("")
        self._preview.on_click(lambda _: self._act("No preview", self._toggle_preview))
        self._render.on_click(lambda _: self._act("Not rendered", self._start))
        self._cancel.on_click(lambda _: self._is_cancelled.set())
        self._download.on_click(lambda _: self._act("Not downloaded", self._send))

    def _act(self, title: str, action) -> None:
        guarded(self._view.say, title, action)

    def _path(self) -> CameraPath:
        """The path as the controls have it.

        Raises:
            BadViewError: fewer than two key frames.
        """
        if len(self._keys) < 2:
            raise BadViewError("a path needs two key frames or more; add views, or use a preset")
        keys = self._keys
        if self._fov.value:
            fov = within("Field of view", self._fov.value, 1.0, MOST_FOV_DEG)
            keys = [key.model_copy(update={"fov_deg": fov}) for key in keys]
        return CameraPath(
            key_frames=tuple(keys),
            seconds_per_key=within("Seconds a key", self._seconds.value, *KEY_SECONDS),
            fps=within("Pictures a second", self._fps.value, *FPS),
            tension=within("Tension", self._tension.value, 0.0, 1.0),
            loop=bool(self._loop.value),
        )

    def _use(self, preset: Preset) -> None:
        site = self._view.site
        if site.shelf.groups:
            area = Area.of_cameras(site.shelf.groups[0].images.c2w, site.frame)
        else:
            corners = np.zeros((2, 3, 4))
            corners[:, :, 3] = site.experts.aabb
            corners[:, 0, 3] = site.experts.aabb[0, 0]
            area = Area.of_cameras(corners, site.frame)
        self._take(preset_path(preset, area, float(self._fps.value)))

    def _take(self, path: CameraPath) -> None:
        self._keys = list(path.key_frames)
        self._seconds.value, self._fps.value = path.seconds_per_key, path.fps
        self._tension.value, self._loop.value = path.tension, path.loop
        self._fov.value = 0.0
        self._describe()
        self._draw()

    def _add(self) -> None:
        camera = self._view.camera
        if camera is None:
            raise BadViewError("no view yet; move the camera once")
        self._keys.append(key_frame_of(camera, self._view.site.frame))
        self._describe()
        self._draw()

    def _edit(self, what: str) -> None:
        if what == "Undo" and self._keys:
            self._keys.pop()
        elif what == "Clear":
            self._keys.clear()
        self._describe()
        self._draw()

    def _describe(self) -> None:
        count = len(self._keys)
        if count < 2:
            self._line.content = f"{count} key frame{'' if count == 1 else 's'}; two are needed."
            return
        path = self._path()
        self._line.content = (
            f"{count} key frames, {path.seconds:.1f} s, {path.frame_count} pictures"
        )

    def _draw(self) -> None:
        """Draw the way into the scene."""
        with self._lock:
            for node in self._nodes:
                node.remove()
            self._nodes.clear()
            if len(self._keys) < 2:
                return
            positions, _, _ = self._path().poses()
            stride = max(1, len(positions) // LINE_POINTS)
            spots = page_from_world(self._view.site.frame.enu_m_to_world(positions[::stride]))
            ends = np.stack([spots[:-1], spots[1:]], axis=1).astype(np.float32)
            self._nodes.append(
                self._view.client.scene.add_line_segments(
                    "/path/way", ends, LINE_RGB, thickness=2.0, thickness_units="screen"
                )
            )

    def _saved(self) -> list[str]:
        return sorted(path.stem for path in (self._folder / "camera_paths").glob("*.json"))

    def _save(self) -> None:
        name = self._name.value.strip()
        if not name or not all(c.isalnum() or c in "._- " for c in name) or len(name) > 64:
            raise BadViewError(f"name {name[:40]!r}: letters, digits, '.', '_', '-', at most 64")
        file = self._folder / "camera_paths" / f"{name.lstrip('.')}.json"
        write_path(file, self._path())
        self._files.options = self._saved() or [NO_FILES]
        self._files.value = file.stem
        self._view.client.send_file_download(file.name, file.read_bytes())
        self._view.say("Path saved", f"camera_paths/{file.name}", "green")

    def _load(self) -> None:
        self._files.options = self._saved() or [NO_FILES]
        if self._files.value not in self._saved():
            raise BadViewError("no path of this name is saved in the job's folder")
        self._take(read_path(self._folder / "camera_paths" / f"{self._files.value}.json"))

    def _toggle_preview(self) -> None:
        if self._is_previewing.is_set():
            self._is_previewing.clear()
            return
        cameras = (
            self._path()
            .model_copy(update={"fps": PREVIEW_FPS})
            .cameras(self._view.site.frame, 64, 64)
        )
        self._is_previewing.set()
        self._preview.label = "Stop preview"
        try:
            self._fly(cameras)
        finally:
            self._is_previewing.clear()
            self._preview.label = "Preview"

    def _fly(self, cameras: list[Camera]) -> None:
        """Move the client's camera along the way, at the way's own speed."""
        began = time.monotonic()
        for index, camera in enumerate(cameras):
            if not self._is_previewing.is_set() or self._view.is_closed:
                return
            pose = page_from_camera(camera)
            ahead = camera.c2w[:, 3] - camera.c2w[:, 2].astype(np.float64)
            self._view.fly_to(camera.c2w[:, 3], ahead, pose.fov_rad)
            time.sleep(max(0.0, began + (index + 1) / PREVIEW_FPS - time.monotonic()))

    def _start(self) -> None:
        path = self._path()
        if self.is_rendering:
            raise BadViewError("a film is being rendered already; wait, or cancel it")
        size = SIZES[one_of("Size", self._size.value, SIZES)]
        what = Show(one_of("Film shows", self._what.value, FILM_SHOWS))
        check_room(self._folder, path.frame_count, size)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        file = self._folder / "videos" / f"{stamp}_{what.value.lower()}.mp4"
        self._is_cancelled.clear()
        self._render_thread = threading.Thread(
            target=self._work,
            args=(path, file, size, self._view.look, what),
            name="film",
            daemon=True,
        )
        self._render_thread.start()

    def _work(
        self, path: CameraPath, file: Path, size: tuple[int, int], look: Look, what: Show
    ) -> None:
        total = path.frame_count
        self._show_progress(0, total)
        try:
            cameras = path.cameras(self._view.site.frame, *size)
            write_path(file.with_suffix(".json"), path)
            count = render_film(
                file, self._pictures(cameras, look, what), size, path.fps,
                lambda done: self._show_progress(done, total),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - the thread's end; the page says why
            self._view.say("Film not rendered", reason_of(error))
            count, line = None, f"Film not rendered: {reason_of(error)}"
        else:
            line = f"Film cancelled; nothing was kept of its {total} pictures."
        if count is None:
            file.with_suffix(".json").unlink(missing_ok=True)
        else:
            self._file = file
            line = f"Film rendered: videos/{file.name}, {count} pictures."
            self._view.say("Film rendered", f"videos/{file.name}, {count} pictures", "green")
        self._view.update_panel(lambda: self._show_end(line))

    def _show_end(self, line: str) -> None:
        self._film_line.content = line
        self._progress.visible = self._cancel.visible = False
        self._download.visible = self._file is not None
        self._render.disabled = False

    def _pictures(
        self, cameras: list[Camera], look: Look, what: Show
    ) -> Iterator[NDArray[np.uint8] | None]:
        for camera in cameras:
            shot = self._scene.render(camera, self._is_cancelled.is_set, look.options)
            if shot is None:
                yield None
                return
            if what is Show.DEPTH:
                depth_max_m = self._view.site.depth_max_m
                yield depth_colours(shot.rendered.depth_m, depth_max_m, look.depth_map)
            else:
                yield tone(shot.rendered.rgb, look.exposure_stops, look.gamma)

    def _show_progress(self, done: int, total: int) -> None:
        self._view.update_panel(lambda: self._write_progress(done, total))

    def _write_progress(self, done: int, total: int) -> None:
        self._progress.visible = self._cancel.visible = True
        self._render.disabled = True
        self._progress.value = 100.0 * done / total
        self._film_line.content = f"Rendering picture {min(done + 1, total)} of {total}"

    def _send(self) -> None:
        if self._file is None:
            raise BadViewError("no film yet")
        self._view.client.send_file_download(
            self._file.name, self._file.read_bytes(), save_immediately=True
        )
