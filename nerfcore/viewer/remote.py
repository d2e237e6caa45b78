"""Owns the server's side of `nerfcore.view_client`: views for other programs, as JSON and pictures.

A socket at /remote speaks text messages that are JSON objects, and binary ones that are image
files. The server greets with `hello` (protocol, frame, start view). The client asks with

    {"type": "update_camera", "id": 7, "position_enu_m": [e, n, u], "heading_deg": 0,
     "pitch_deg": -45, "roll_deg": 0, "fov_deg": 50, "width_px": 640, "height_px": 480,
     "show": "RGB", "format": "jpeg"}

(or `position_geo`: [lat_deg, lon_deg, alt_m], or `c2w`: 3 x 4, world DRB from camera RUB, in place
of position and angles). Each picture comes as `picture` (id, update, rung, is_final, size, format)
followed by its bytes; what cannot be rendered comes as `error`. Each socket has a render queue of
its own, so its guarantee holds: nothing of an earlier update after a later one's first picture.
"""

import asyncio
import contextlib
import json
import logging
import math
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from nerfcore.geometry.aiming import camera_towards
from nerfcore.geometry.camera import Camera
from nerfcore.geometry.geodesy import GeoPoint, ecef_to_enu, geodetic_to_ecef
from nerfcore.viewer import colours
from nerfcore.viewer.colours import Show
from nerfcore.viewer.places import heading_of
from nerfcore.viewer.poses import FARTHEST_UNITS, BadViewError
from nerfcore.viewer.queue import Picture, RenderFailedError, RenderQueue
from nerfcore.viewer.reasons import reason_of
from nerfcore.viewer.sharing import SharedScene
from nerfcore.viewer.site import Site

PROTOCOL: Final = 1
MOST_VISITORS: Final = 16
JPEG_QUALITY: Final = 90
SHOWS: Final = (Show.RGB, Show.DEPTH, Show.OPACITY)

_log = logging.getLogger(__name__)


class _Request(BaseModel):
    """One `update_camera`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    type: str = Field(pattern="^update_camera$")
    id: int = Field(ge=0, le=2**53)
    position_enu_m: tuple[float, float, float] | None = None
    position_geo: tuple[float, float, float] | None = None
    c2w: list[list[float]] | None = None
    heading_deg: float = 0.0
    pitch_deg: float = Field(-45.0, ge=-90.0, le=90.0)
    roll_deg: float = 0.0
    fov_deg: float = Field(50.0, ge=1.0, le=170.0)
    width_px: int = Field(640, ge=1, le=4096)
    height_px: int = Field(480, ge=1, le=4096)
    show: str = "RGB"
    format: str = Field("jpeg", pattern="^(jpeg|png)$")


class RemoteDesk:
    """Serves all sockets of other programs.

    Args:
        scene: rendered.
        site: the place.
    """

    def __init__(self, scene: SharedScene, site: Site) -> None:
        self._scene = scene
        self._site = site
        self._visitors: set[_Visitor] = set()

    @property
    def is_visited(self) -> bool:
        """Whether any program is connected."""
        return bool(self._visitors)

    def follow_scene(self) -> None:
        """Render every program's view again because the model changed."""
        for visitor in tuple(self._visitors):
            visitor.queue.refresh(after_this=True)

    def close(self, timeout_s: float) -> bool:
        """End all their renders; False when one does not end in time."""
        visitors = tuple(self._visitors)
        for visitor in visitors:
            visitor.queue.close()
        return all(visitor.queue.join(timeout_s) for visitor in visitors)

    async def serve(self, connection: ServerConnection) -> None:
        """Serve one program until it leaves."""
        if len(self._visitors) >= MOST_VISITORS:
            await connection.close(1013, f"at most {MOST_VISITORS} programs at once")
            return
        visitor = _Visitor(self._scene, self._site)
        self._visitors.add(visitor)
        sender = None
        try:
            await connection.send(json.dumps(self._hello()))
            sender = asyncio.create_task(visitor.send_news(connection))
            async for message in connection:
                await visitor.receive(connection, message)
        except ConnectionClosed:
            pass  # an abrupt end is an end
        finally:
            self._visitors.discard(visitor)
            visitor.queue.close()
            if sender is not None:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                    await sender

    def _hello(self) -> dict[str, Any]:
        frame, start = self._site.frame, self._site.start_camera
        heading = heading_of(start, frame)
        reference = frame.enu_ref
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "name": self._site.name,
            "ground_up_m": self._site.ground_up_m,
            "depth_max_m": self._site.depth_max_m,
            "max_side_px": self._site.max_side_px,
            "enu_ref": None
            if reference is None
            else [reference.lat_deg, reference.lon_deg, reference.alt_m],
            "start": {
                "position_enu_m": frame.world_to_enu_m(start.c2w[:, 3]).tolist(),
                "heading_deg": heading.heading_deg,
                "pitch_deg": heading.pitch_deg,
            },
        }


class _Visitor:
    """One program and its queue, where every view carries the request that asked for it."""

    def __init__(self, scene: SharedScene, site: Site) -> None:
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._has_news = asyncio.Event()
        self.queue = RenderQueue(scene.render, on_news=self._take_note, name="remote-view")

    async def receive(self, connection: ServerConnection, message: str | bytes) -> None:
        """Take one message; whatever is wrong with it is answered."""
        try:
            request = _Request.model_validate_json(message)
            camera = camera_of(request, self._site)
        except (ValidationError, BadViewError) as error:
            await connection.send(_error(_line_of(error)))
            return
        self.queue.update_camera(camera, request)

    async def send_news(self, connection: ServerConnection) -> None:
        """Send pictures and errors as they come; what is overtaken while sending is left out."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            try:
                picture = self.queue.get_picture()
            except RenderFailedError as error:
                await connection.send(_error(reason_of(error)))
                picture = self.queue.get_picture()
            if picture is not None:
                head, content = await asyncio.to_thread(self._packed, picture)
                await connection.send(head)
                await connection.send(content)

    def _take_note(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._has_news.set)

    def _packed(self, picture: Picture) -> tuple[str, bytes]:
        request = picture.tag
        if not isinstance(request, _Request):
            raise TypeError(f"update {picture.update} was not asked for with a request")
        pixels = _painted(picture, request.show, self._site.depth_max_m)
        is_png = request.format == "png"
        suffix, options = (".png", []) if is_png else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90])
        is_encoded, encoded = cv2.imencode(suffix, pixels[..., ::-1], options)
        if not is_encoded:
            raise ValueError(f"a picture of shape {pixels.shape} cannot be encoded")
        head = {
            "type": "picture",
            "id": request.id,
            "update": picture.update,
            "rung": picture.rung,
            "is_final": picture.is_final,
            "width_px": picture.camera.width_px,
            "height_px": picture.camera.height_px,
            "format": request.format,
        }
        return json.dumps(head), encoded.tobytes()


def camera_of(request: _Request, site: Site) -> Camera:
    """Return the camera that a program asks for.

    Raises:
        BadViewError: a field is missing, doubled or out of its range.
    """
    if max(request.width_px, request.height_px) > site.max_side_px:
        raise BadViewError(
            f"width_px x height_px {request.width_px} x {request.height_px}: at most "
            f"{site.max_side_px} a side"
        )
    if request.show not in SHOWS:
        raise BadViewError(f"show {request.show!r}: one of {', '.join(SHOWS)}")
    places = (request.position_enu_m, request.position_geo, request.c2w)
    if sum(place is not None for place in places) != 1:
        raise BadViewError("give one of position_enu_m, position_geo and c2w")
    fov_rad = math.radians(request.fov_deg)
    size = (request.width_px, request.height_px)
    if request.c2w is not None:
        camera = _with_matrix(request.c2w, *size, fov_rad)
    else:
        eye = _eye(request, site)
        camera = camera_towards(
            eye, request.heading_deg, request.pitch_deg, request.roll_deg, *size, fov_rad
        )
    if float(np.abs(camera.c2w[:, 3]).max()) > FARTHEST_UNITS:
        raise BadViewError(f"camera: farther than {FARTHEST_UNITS:g} units from the scene")
    return camera


def _eye(request: _Request, site: Site) -> NDArray[np.float64]:
    if request.position_enu_m is not None:
        return site.frame.enu_m_to_world(request.position_enu_m)
    assert request.position_geo is not None
    lat, lon, alt = request.position_geo
    if site.frame.enu_ref is None:
        raise BadViewError("position_geo: this scene has no place on the Earth; give metres")
    if not (abs(lat) <= 90.0 and abs(lon) <= 180.0):
        raise BadViewError("position_geo: latitude -90 to 90, longitude -180 to 180")
    ecef = geodetic_to_ecef(GeoPoint(lat, lon, alt))
    return site.frame.enu_m_to_world(ecef_to_enu(ecef, site.frame.enu_ref))


def _with_matrix(rows: list[list[float]], width_px: int, height_px: int, fov_rad: float) -> Camera:
    if len(rows) != 3 or any(len(row) != 4 for row in rows):
        raise BadViewError("c2w: must be 3 rows of 4 numbers")
    c2w = np.array(rows, np.float64)
    rotation = c2w[:, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise BadViewError("c2w: its first three columns are no rotation")
    focal = 0.5 * height_px / math.tan(0.5 * fov_rad)
    middle = 0.5 * width_px, 0.5 * height_px
    return Camera(c2w.astype(np.float32), focal, focal, *middle, width_px, height_px)


def _painted(picture: Picture, show: str, depth_max_m: float) -> NDArray[np.uint8]:
    if show == Show.DEPTH:
        return colours.depth_colours(picture.rendered.depth_m, depth_max_m)
    if show == Show.OPACITY:
        return colours.opacity_greys(picture.rendered.opacity)
    return colours.to_bytes(picture.rendered.rgb)


def _error(message: str) -> str:
    return json.dumps({"type": "error", "message": message})


def _line_of(error: ValidationError | BadViewError) -> str:
    if isinstance(error, BadViewError):
        return reason_of(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'message'}: {first['msg']}"
