"""Owns what stands before the page library at the viewer's port: the token, and other protocols.

The page library answers every request and every socket itself and offers no hook. While its server
starts, `Door.installed` wraps the function it listens with, so that the door sees every request
first:

    /about          {"program": "skyline-viewer", "name": job id}; no token needed
    /?token=...     the right token becomes a cookie and the page opens
    any page        without cookie or `Authorization: Bearer`: a page that asks for the token
    any socket      without either: refused with 401
    /remote         the socket of `nerfcore.view_client` (see `nerfcore.viewer.remote`)

The cookie holds no token but a digest of it with a salt of this server. Messages above
`MOST_MESSAGE_BYTES` end their sender's connection.
"""

import asyncio
import contextlib
import hashlib
import hmac
import http
import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from nerfcore.errors import NerfcoreError
from nerfcore.viewer.address import ABOUT_PATH, PROGRAM

MOST_MESSAGE_BYTES: Final = 4 * 1024 * 1024
WRONG_TOKEN_DELAY_S: Final = 1.0
REMOTE_PATH: Final = "/remote"
TOO_BIG: Final = 1009

Handler = Callable[[ServerConnection], Awaitable[None]]

_starting = threading.Lock()

_ASK: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Skyline</title><style>
body{margin:0;min-height:100vh;display:grid;place-items:center;background:#14171c;color:#e6e9ee;
font:16px system-ui,sans-serif}form{display:grid;gap:.8em;width:min(22em,90vw)}
input,button{font:inherit;padding:.6em;border-radius:6px;border:1px solid #3a4250;
background:#1d222a;color:inherit}button{background:#1769e0;border:0;cursor:pointer}
p{color:#ff8a80;min-height:1.2em;margin:0}</style></head><body>
<form method="get" action="/"><label for="token">This viewer asks for its access token.</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<button>Open the viewer</button><p role="alert">__WRONG__</p></form></body></html>"""


class PageLibraryError(NerfcoreError):
    """The page library does not start its server as expected; nothing was opened."""


class Door:
    """Guards one viewer's port.

    Args:
        token: what a visitor must know; None = nothing.
        name: of the job, told at /about.
        serve_remote: serves a socket at `REMOTE_PATH`.
        on_cut_off: called with one line about a client whose message was too large.
    """

    def __init__(
        self,
        token: str | None,
        name: str,
        serve_remote: Handler,
        on_cut_off: Callable[[str], None],
    ) -> None:
        self._token = token
        self._name = name
        self._serve_remote = serve_remote
        self._on_cut_off = on_cut_off
        self._salt = secrets.token_bytes(16)
        self._cookie_name = "skyline_token"
        self._is_used = False

    def note_port(self, port: int) -> None:
        """Name the cookie after the port: browsers share cookies between ports of a host."""
        self._cookie_name = f"skyline_token_{port}"

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Stand before the page library's server that is started within the block.

        Raises:
            PageLibraryError: it was not started through what is wrapped here.
        """
        listen = websockets.asyncio.server.serve

        def serve(handler: Handler, *args: Any, **options: Any) -> Any:
            self._is_used = True
            inner = options["process_request"]
            options |= {
                "process_request": lambda connection, request: self._receive(
                    connection, request, inner
                ),
                "max_size": MOST_MESSAGE_BYTES,
            }
            return listen(self._route(handler), *args, **options)

        with _starting:
            websockets.asyncio.server.serve = serve  # type: ignore[assignment]
            try:
                yield
            finally:
                websockets.asyncio.server.serve = listen
        if not self._is_used:
            raise PageLibraryError(
                "viser starts its server otherwise than version 1.1.1 did, so the viewer cannot "
                "guard it; install the pinned version"
            )

    def _route(self, page_handler: Handler) -> Handler:
        async def handle(connection: ServerConnection) -> None:
            request = connection.request
            is_remote = request is not None and urlsplit(request.path).path == REMOTE_PATH
            try:
                await (self._serve_remote if is_remote else page_handler)(connection)
            finally:
                said = connection.protocol.close_sent
                if said is not None and said.code == TOO_BIG:
                    limit = f"{MOST_MESSAGE_BYTES / 2**20:.0f} MiB"
                    self._on_cut_off(f"It sent a message of more than {limit}.")

        return handle

    async def _receive(
        self, connection: ServerConnection, request: Request, inner: Callable[..., Any]
    ) -> Response | None:
        url = urlsplit(request.path)
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if url.path == ABOUT_PATH and not is_socket:
            about = json.dumps({"program": PROGRAM, "name": self._name})
            return _answer(http.HTTPStatus.OK, about, "application/json")
        if not self._is_known(request):
            return await self._ask(url.query, is_socket)
        if is_socket:
            return None
        return inner(connection, request)

    async def _ask(self, query: str, is_socket: bool) -> Response:
        """Refuse who brings no token, ask a person for it, and let in who has it."""
        if is_socket:
            return _answer(http.HTTPStatus.UNAUTHORIZED, "viewer_token: missing or wrong\n")
        given = parse_qs(query).get("token", [""])[0]
        if given and self._is_right(given):
            answer = _answer(http.HTTPStatus.SEE_OTHER, "")
            answer.headers["Location"] = "/"
            answer.headers["Set-Cookie"] = (
                f"{self._cookie_name}={self._proof()}; Path=/; HttpOnly; SameSite=Strict"
            )
            return answer
        if given:
            await asyncio.sleep(WRONG_TOKEN_DELAY_S)  # makes guessing slow
        page = _ASK.replace("__WRONG__", "That is not the token." if given else "")
        return _answer(http.HTTPStatus.UNAUTHORIZED, page, "text/html; charset=utf-8")

    def _is_known(self, request: Request) -> bool:
        if self._token is None:
            return True
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer and self._is_right(bearer):
            return True
        cookies = ";".join(request.headers.get_all("Cookie")).split(";")
        pairs = (cookie.strip().partition("=") for cookie in cookies)
        return any(
            name == self._cookie_name
            and hmac.compare_digest(value.encode(), self._proof().encode())
            for name, _, value in pairs
        )

    def _is_right(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def _proof(self) -> str:
        assert self._token is not None
        return hmac.new(self._salt, self._token.encode(), hashlib.sha256).hexdigest()


def _answer(status: http.HTTPStatus, body: str, kind: str = "text/plain") -> Response:
    content = body.encode()
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Connection": "close",
        }
    )
    return Response(status, status.phrase, headers, content)
