"""Owns how a client's look turns a render into the picture that is sent."""

import numpy as np
from numpy.typing import NDArray

from nerfcore.geometry.camera import Camera, Rendered
from nerfcore.viewer import colours
from nerfcore.viewer.change import ChangeMap
from nerfcore.viewer.colours import Show
from nerfcore.viewer.look import Compare, Look
from nerfcore.viewer.photographs import PhotoGroup, blend, drape, surface_points, wipe
from nerfcore.viewer.site import Site


class Painter:
    """Paints one client's pictures.

    Args:
        site: the place.
        changes: compares renders with photographs.
    """

    def __init__(self, site: Site, changes: ChangeMap) -> None:
        self._site = site
        self._changes = changes

    def paint(
        self,
        camera: Camera,
        rendered: Rendered,
        look: Look,
        *,
        other: Rendered | None = None,
        generation: int = 0,
        is_final: bool = True,
    ) -> NDArray[np.uint8]:
        """Return the picture, u8[H, W, 3] RGB.

        Args:
            camera, rendered: the view.
            look: what is wanted.
            other: the same view before adaptation, where the look compares it.
            generation: counts changes of the model.
            is_final: nothing finer follows, so slow and exact is right.

        Raises:
            DataError: a photograph that is needed is gone or damaged.
        """
        picture = self._shown(camera, rendered, look, generation, is_final)
        if look.compare is Compare.BEFORE and other is not None:
            before = self._shown(camera, other, look, generation, is_final)
            everywhere = np.ones(before.shape[:2], np.bool_)
            return wipe(picture, before, everywhere, look.compare_share)
        if look.compare in (Compare.WIPE, Compare.BLEND) and look.photograph is not None:
            name, index = look.photograph
            photograph = self._site.shelf.photograph(self._site.shelf.group(name), index)
            scale_m = self._site.frame.pose_scale_factor_m
            drawn, is_there = drape(photograph, surface_points(camera, rendered, scale_m))
            mix = wipe if look.compare is Compare.WIPE else blend
            return mix(picture, drawn, is_there, look.compare_share)
        return picture

    def _shown(
        self, camera: Camera, rendered: Rendered, look: Look, generation: int, is_final: bool
    ) -> NDArray[np.uint8]:
        match look.show:
            case Show.DEPTH:
                depth_max_m = self._site.depth_max_m
                return colours.depth_colours(rendered.depth_m, depth_max_m, look.depth_map)
            case Show.OPACITY:
                return colours.opacity_greys(rendered.opacity)
            case Show.EXPERTS:
                return colours.expert_colours(rendered, self._owners(camera, rendered))
            case Show.CHANGE if (group := self._change_group(look)) is not None:
                change = self._changes.compare(
                    camera, rendered, group, generation, may_render=is_final
                )
                return colours.change_colours(rendered, change)
            case _:
                return colours.tone(rendered.rgb, look.exposure_stops, look.gamma)

    def _owners(self, camera: Camera, rendered: Rendered) -> NDArray[np.integer]:
        points = surface_points(camera, rendered, self._site.frame.pose_scale_factor_m)
        owners = self._site.experts.owners(points.reshape(-1, 3)).reshape(points.shape[:2])
        return np.where(np.isfinite(rendered.depth_m), owners, -1)

    def _change_group(self, look: Look) -> PhotoGroup | None:
        shelf = self._site.shelf
        return shelf.newest if look.change_group is None else shelf.group(look.change_group)
