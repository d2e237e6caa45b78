"""Owns the photographs panel: their cameras in the scene, jumping into one, comparing with it."""

import threading
from typing import Final

import numpy as np
import viser

from nerfcore.viewer.client_view import ClientView
from nerfcore.viewer.limits import one_of, within
from nerfcore.viewer.look import Compare
from nerfcore.viewer.photographs import PhotoGroup
from nerfcore.viewer.places import heading_of
from nerfcore.viewer.poses import ground_target, page_from_camera
from nerfcore.viewer.queue import Picture
from nerfcore.viewer.reasons import guarded
from nerfcore.viewer.site_map import FIRST_RGB, LATER_RGB

KINDS: Final = tuple(kind.value for kind in Compare)
MOST_NUMBER: Final = 1_000_000
MOST_FRUSTA: Final = 300
FRUSTUM_SHARE: Final = 0.025  # of the scene's width


class PhotoPanel:
    """One client's photographs.

    Args:
        view: acted on.
    """

    def __init__(self, view: ClientView) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._nodes: dict[tuple[str, int], viser.CameraFrustumHandle] = {}
        self._inside: tuple[str, int] | None = None
        self._has_arrived = False
        gui, groups = view.client.gui, view.site.shelf.groups
        self._is_empty = not groups
        if self._is_empty:
            gui.add_markdown("This viewer was given no photographs.")
            return
        self._cameras = gui.add_checkbox(
            "Show cameras", False, hint="Blue: the model's photographs, orange: later; click one"
        )
        self._flight = gui.add_dropdown("Flight", [group.name for group in groups])
        self._number = gui.add_number("Photograph", 1, min=1, max=len(groups[0]), step=1)
        jump = gui.add_button("Jump there", icon=viser.Icon.PLANE)
        step = gui.add_button_group("Next", ["◀ previous", "next ▶"])
        # Below the buttons, which a long name's second line would move from step to step.
        self._line = gui.add_markdown("")
        self._compare = gui.add_dropdown("Compare with", KINDS)
        self._share = gui.add_slider("Compare", 0.0, 100.0, 1.0, 50.0, hint="% of the picture")
        newest = view.site.shelf.newest or groups[0]
        self._changes = gui.add_dropdown(
            "Change shows",
            [group.name for group in groups],
            initial_value=newest.name,
            hint="The photographs that View, Show, Change compares the render with",
        )
        self._cameras.on_update(lambda _: self._act("Cameras", self._show_cameras))
        self._flight.on_update(lambda _: self._act("Flight", self._change_flight))
        self._number.on_update(lambda _: self._act("Photograph", self._choose))
        jump.on_click(lambda _: self._act("Not jumped", self._jump))
        step.on_click(lambda _: self._act("Not jumped", lambda: self._next(step.value)))
        self._compare.on_update(lambda _: self._act("Compare", self._change_compare))
        self._share.on_update(lambda _: self._act("Compare", self._change_compare))
        self._changes.on_update(lambda _: self._act("Change shows", self._change_group))
        self._describe()
        view.on_picture.append(self._show_left_camera)

    def _act(self, title: str, action) -> None:
        guarded(self._view.say, title, action)

    def _chosen(self) -> tuple[PhotoGroup, int]:
        shelf = self._view.site.shelf
        names = (group.name for group in shelf.groups)
        group = shelf.group(one_of("Flight", self._flight.value, names))
        number = within("Photograph", self._number.value, 1, MOST_NUMBER)
        return group, min(int(number), len(group)) - 1

    def _change_flight(self) -> None:
        group = self._view.site.shelf.group(self._flight.value)
        self._number.max = len(group)
        self._number.value = min(int(self._number.value), len(group))
        self._choose()

    def _choose(self) -> None:
        self._describe()
        if self._view.look.photograph is not None:
            self._view.change_look(lambda: {"photograph": self._photograph()})

    def _describe(self) -> None:
        group, index = self._chosen()
        heading = heading_of(group.camera(index), self._view.site.frame)
        self._line.content = f"{group.images.names[index]} — {index + 1} of {len(group)}; {heading}"

    def _jump(self) -> None:
        group, index = self._chosen()
        camera = group.camera(index)
        target = ground_target(camera, self._view.site.frame)
        distance = float(np.linalg.norm(target - camera.c2w[:, 3]))
        self._view.fly_into(camera, distance)
        self._hide_own_camera()
        self._view.change_look(lambda: {"photograph": self._photograph()})

    def _next(self, which: str) -> None:
        group, index = self._chosen()
        step = -1 if which.startswith("◀") else 1
        self._number.value = (index + step) % len(group) + 1
        self._jump()
        self._describe()

    def _change_compare(self) -> None:
        self._view.change_look(
            lambda: {
                "compare": Compare(one_of("Compare with", self._compare.value, KINDS)),
                "compare_share": within("Compare", self._share.value, 0.0, 100.0) / 100.0,
                "photograph": self._photograph(),
            }
        )

    def compare_with(self, kind: Compare, share: float) -> None:
        """Compare from now on with something else, as this panel shows too; share from 0 to 1."""
        if not self._is_empty:
            if kind is not Compare.OFF:
                self._share.value = 100.0 * share
            self._compare.value = kind.value
        self._view.change_look(lambda: {"compare": kind, "compare_share": share})

    def _change_group(self) -> None:
        names = tuple(group.name for group in self._view.site.shelf.groups)
        self._view.change_look(
            lambda: {"change_group": one_of("Change shows", self._changes.value, names)}
        )

    def _photograph(self) -> tuple[str, int]:
        group, index = self._chosen()
        return group.name, index

    def _show_cameras(self) -> None:
        with self._lock:
            for node in self._nodes.values():
                node.remove()
            self._nodes.clear()
            if not self._cameras.value:
                return
            groups = self._view.site.shelf.groups
            total = sum(len(group) for group in groups)
            stride = max(1, -(-total // MOST_FRUSTA))
            for group in groups:
                for index in range(0, len(group), stride):
                    self._nodes[group.name, index] = self._frustum(group, index)
            if self._inside in self._nodes:
                self._nodes[self._inside].visible = False
        if stride > 1:
            self._view.say("Cameras", f"Every {stride}th of {total} is drawn.", "green")

    def _hide_own_camera(self) -> None:
        """Take the camera that was jumped into out of its own picture, until one leaves it."""
        with self._lock:
            for key, is_visible in ((self._inside, True), (self._photograph(), False)):
                if key in self._nodes:
                    self._nodes[key].visible = is_visible
            self._inside, self._has_arrived = self._photograph(), False

    def _show_left_camera(self, picture: Picture) -> None:
        """Show the camera that was jumped into again once the view is elsewhere."""
        with self._lock:
            if self._inside is None:
                return
            name, index = self._inside
            place = self._view.site.shelf.group(name).camera(index).c2w[:, 3]
            moved = float(np.linalg.norm(picture.camera.c2w[:, 3] - place))
            if moved < self._frustum_size():
                self._has_arrived = True
            elif self._has_arrived:  # before that, a picture of where one came from
                if self._inside in self._nodes:
                    self._nodes[self._inside].visible = True
                self._inside = None

    def _frustum_size(self) -> float:
        aabb = self._view.site.experts.aabb
        return FRUSTUM_SHARE * float((aabb[1] - aabb[0])[1:].max())

    def _frustum(self, group: PhotoGroup, index: int) -> viser.CameraFrustumHandle:
        camera = group.camera(index)
        pose = page_from_camera(camera)
        node = self._view.client.scene.add_camera_frustum(
            f"/cameras/{group.name}/{index}",
            pose.fov_rad,
            camera.width_px / camera.height_px,
            scale=self._frustum_size(),
            thickness=1.5,
            thickness_units="screen",
            color=LATER_RGB if group.is_later else FIRST_RGB,
            wxyz=pose.wxyz,
            position=pose.position,
            cast_shadow=False,
            receive_shadow=False,
        )
        node.on_click(lambda _: self._act("Not jumped", lambda: self._jump_to(group, index)))
        return node

    def _jump_to(self, group: PhotoGroup, index: int) -> None:
        self._flight.value = group.name
        self._number.value = index + 1
        self._describe()
        self._jump()
