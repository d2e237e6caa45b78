"""Owns the viewer's address: that it is free before the page starts, and the URL it is told by.

The page library moves to the next port when one is taken, silently; here a taken port is an error.
"""

import errno
import socket
from typing import Final

from nerfcore.errors import PortInUseError, SettingsError

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
    """Return the error that says a port is taken."""
    return PortInUseError(
        f"viewer_port {port}: another program listens on {host or '0.0.0.0'}:{port}; end it (a "
        "view job ends with its page's End button) or choose another viewer_port"
    )


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
