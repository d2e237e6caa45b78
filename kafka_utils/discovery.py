"""Owns how a broker is found: given by name, on localhost:9092, or by the discovery file.

The discovery file is JSON `{"address", "pid", "cluster_id", "started"}`; the embedded broker writes
it when it is ready and removes it when it ends. It is believed only if that address answers with
that cluster id, so one left behind by a kill does no harm.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kafka_utils import wire
from kafka_utils.errors import BrokerStartError
from kafka_utils.settings import DEFAULT_BOOTSTRAP, DEFAULT_PORT, check_bootstrap

DISCOVERY_NAME = "broker.json"
BROKER_LOG_NAME = "broker.log"
LOOPBACK = "127.0.0.1"

_POLL_S = 0.02
# Kept so that the interpreter does not warn about children meant to outlive it.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class BrokerAddress:
    """A broker and how it was found.

    Attributes:
        bootstrap: `host:port[,host:port...]`.
        embedded: it is this package's own broker.
        cluster_id: its cluster id, or None if it did not answer the probe (down, or TLS).
        source: `explicit`, `localhost`, `discovery` or `started`.
    """

    bootstrap: str
    embedded: bool
    cluster_id: str | None
    source: Literal["explicit", "localhost", "discovery", "started"]


def write_discovery(path: Path, address: str, cluster_id: str, started: str) -> None:
    """Write the discovery file atomically, for this process.

    Args:
        path: the file; its folder is made if missing.
        address: `host:port` of the front.
        cluster_id: this start's cluster id.
        started: ISO 8601 time, UTC.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "address": address,
        "pid": os.getpid(),
        "cluster_id": cluster_id,
        "started": started,
    }
    descriptor, temporary = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump(record, handle)
            handle.flush()
            os.fchmod(descriptor, 0o640)
            os.fsync(descriptor)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_discovery(path: Path) -> dict[str, object] | None:
    """Return the discovery file's record, or None if it is missing or not one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and isinstance(record.get("address"), str)
    return record if known else None


def remove_discovery(path: Path) -> None:
    """Remove the discovery file if it is this process's."""
    record = read_discovery(path)
    if record is not None and record.get("pid") == os.getpid():
        path.unlink(missing_ok=True)


def first_address(address: str) -> tuple[str, int]:
    """Return host and port of the first broker of `host:port[,host:port...]`."""
    host, _, port = address.split(",")[0].strip().rpartition(":")
    return host.strip("[]"), int(port)


def _probed(
    address: str, source: Literal["explicit", "localhost", "discovery"]
) -> BrokerAddress | None:
    answer = wire.probe(*first_address(address))
    if answer is None:
        return None
    return BrokerAddress(address, answer.embedded, answer.cluster_id, source)


def find_broker(explicit: str | None, discovery_file: Path) -> BrokerAddress | None:
    """Return the broker to use: the one named, else localhost:9092, else the discovery file's.

    Args:
        explicit: `host:port` given by the user, returned even if it does not answer; or None.
        discovery_file: the embedded broker's discovery file, which may be missing.

    Returns:
        The address, or None if none was named and none answers.

    Raises:
        KafkaSettingsError: `explicit` is malformed.
    """
    if explicit is not None:
        check_bootstrap(explicit)
        return _probed(explicit, "explicit") or BrokerAddress(explicit, False, None, "explicit")
    if (found := _probed(f"{LOOPBACK}:{DEFAULT_PORT}", "localhost")) is not None:
        return BrokerAddress(DEFAULT_BOOTSTRAP, found.embedded, found.cluster_id, "localhost")
    record = read_discovery(discovery_file)
    if record is None:
        return None
    address = str(record["address"])
    with contextlib.suppress(ValueError):
        found = _probed(address, "discovery")
        if found is not None and found.cluster_id == record.get("cluster_id"):
            return found
    return None


def ensure_broker(
    explicit: str | None,
    discovery_file: Path,
    *,
    port: int = DEFAULT_PORT,
    timeout_s: float = 10.0,
) -> BrokerAddress:
    """Return a broker, starting the embedded one in a session of its own if none is found.

    Args:
        explicit: `host:port` given by the user (never started), or None.
        discovery_file: where the embedded broker's discovery file is or will be; its log
            `broker.log` lies beside it.
        port: wanted port of a new embedded broker; 0 for any free one.
        timeout_s: longest wait for it to be ready, s, > 0.

    Raises:
        BrokerStartError: it did not start in time.
        KafkaSettingsError: `explicit` is malformed.
    """
    if (found := find_broker(explicit, discovery_file)) is not None:
        return found
    discovery_file.parent.mkdir(parents=True, exist_ok=True)
    with _only_starter(discovery_file):
        # Another mediator may have started it while this one waited for the lock.
        found = find_broker(None, discovery_file)
        return found or _start(discovery_file, port, timeout_s)


@contextlib.contextmanager
def _only_starter(discovery_file: Path) -> Iterator[None]:
    with discovery_file.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _start(discovery_file: Path, port: int, timeout_s: float) -> BrokerAddress:
    log = discovery_file.with_name(BROKER_LOG_NAME)
    command = [
        sys.executable, "-m", "kafka_utils.broker",
        "--port", str(port), "--state", str(discovery_file.resolve()),
    ]  # fmt: skip
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        record = read_discovery(discovery_file)
        if record is not None and record.get("pid") == process.pid:
            return BrokerAddress(
                str(record["address"]), True, str(record.get("cluster_id")), "started"
            )
        if process.poll() is not None:
            raise BrokerStartError(
                f"the embedded broker ended with code {process.returncode}; see {log}"
            )
        time.sleep(_POLL_S)
    process.terminate()
    raise BrokerStartError(f"the embedded broker was not ready within {timeout_s:g} s; see {log}")
