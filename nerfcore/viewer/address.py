"""Owns the viewer's address: that it is free before the page starts, and the URL it is told by.

The page library moves to the next port when one is taken, silently; here a taken port is an error.
"""

import errno
import http.client
import json
import socket
from typing import Final

from nerfcore.errors import PortInUseError, SettingsError

PROGRAM: Final = "skyline-viewer"
ABOUT_PATH: Final = "/about"
ABOUT_LIMIT_BYTES: Final = 4096
ASK_TIMEOUT_S: Final = 1.0
WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})


def check_free(host: str, port: int) -> None:
    """Check that `host`:`port` can be listened on, by doing it for a moment.

    Args:
        host: name or address of this machine.
        port: 0 to 65535; 0 = any free port.

    Raises:
        PortInUseError: somebody listens there.
        SettingsError: the host is not this machine's, or the port is not ours to use.
    """
    if not 0 <= port <= 65535:
        raise SettingsError(f"viewer_port {port}: allowed are 0 to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise SettingsError(
            f"viewer_host {host!r}: no address found ({error.strerror}); use 0.0.0.0 or 127.0.0.1"
        ) from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the page's server does, so that a port in TIME_WAIT counts as free for both.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise _refusal(host, port, error) from error


def port_taken(host: str, port: int) -> PortInUseError:
    """Return the error that says a port is taken, and by which job where one answers."""
    job = _job_at(host, port)
    who = "another program listens" if job is None else f"the viewer of job {job} listens"
    mend = "end it" if job is None else f"end it (its page's End button, or cancel {job})"
    return PortInUseError(
        f"viewer_port {port}: {who} on {host or '0.0.0.0'}:{port}; {mend} or choose another "
        "viewer_port"
    )


def _job_at(host: str, port: int) -> str | None:
    """Ask who listens whether it is a viewer, and return its job's name."""
    name = "127.0.0.1" if host in WILDCARDS else host
    connection = http.client.HTTPConnection(name, port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", ABOUT_PATH)
        about = json.loads(connection.getresponse().read(ABOUT_LIMIT_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    is_viewer = isinstance(about, dict) and about.get("program") == PROGRAM
    return str(about["name"])[:64] if is_viewer and about.get("name") else None


def page_url(host: str, port: int) -> str:
    """Return the URL to open; a wildcard host becomes localhost."""
    name = "localhost" if host in WILDCARDS else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _refusal(host: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return port_taken(host, port)
    if error.errno == errno.EADDRNOTAVAIL:
        return SettingsError(
            f"viewer_host {host!r}: no address of this machine; use 0.0.0.0 or 127.0.0.1"
        )
    if error.errno == errno.EACCES:
        return SettingsError(
            f"viewer_port {port}: not allowed for this user; choose one above 1023"
        )
    return SettingsError(f"viewer_host {host!r}, viewer_port {port}: {error.strerror}")
