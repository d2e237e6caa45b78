"""Owns the embedded broker's fixed address: every connection passes here on its way to the cluster.

What is changed in the frames that pass is `link`'s; in plain mode bytes are forwarded untouched.
"""

import asyncio
import contextlib
import logging

from kafka_utils.link import CreateTopic, Link, Shared
from kafka_utils.wire import MalformedFrameError

_CHUNK_BYTES = 1 << 16
_logger = logging.getLogger("kafka_utils.broker")


class Front:
    """Listens on loopback and passes connections on to the cluster.

    Args:
        upstream_port: the cluster's real loopback port.
        create_topic: makes a topic (name, partitions) and returns Kafka's error code; None is
            plain mode.
    """

    def __init__(self, upstream_port: int, create_topic: CreateTopic | None) -> None:
        self._upstream_port = upstream_port
        self._shared = None if create_topic is None else Shared(create_topic)
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> int:
        """Listen on 127.0.0.1, and on ::1 where there is one; return the port.

        Args:
            port: wanted port; 0 for any free one.

        Raises:
            OSError: the port is taken.
        """
        server = await asyncio.start_server(self._on_connection, "127.0.0.1", port)
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        # Clients that resolve localhost to ::1 first would otherwise log a refused connection.
        with contextlib.suppress(OSError):
            self._servers.append(await asyncio.start_server(self._on_connection, "::1", bound))
        return bound

    def replace_cluster_id(self, old: str, new: str) -> None:
        """Show clients another cluster id of the same length.

        Raises:
            ValueError: the lengths differ, which would change the size of frames, or this is
                plain mode.
        """
        if self._shared is None:
            raise ValueError("the plain front changes no frames")
        if len(old.encode()) != len(new.encode()) or not old:
            raise ValueError(f"cluster id {new!r} must be as long as {old!r}")
        self._shared.own_id = (old.encode(), new.encode())

    async def close(self) -> None:
        """Stop listening and end every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # Only close() cancels; asyncio's stream callback would log it as an error.
            pass
        except (OSError, EOFError) as error:
            _logger.debug("connection ended: %s", error)
        except MalformedFrameError as error:
            _logger.warning("connection closed, it does not speak Kafka: %s", error)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        if self._shared is None:
            pumps = (_copy(reader, up_writer), _copy(up_reader, writer))
        else:
            link = Link(reader, writer, up_reader, up_writer, self._shared)
            pumps = (link.pump_requests(), link.pump_responses())
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            up_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
