"""A TCP proxy that can be a bad network: it stands between a service and its server, in a thread of its own."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

_CHUNK_BYTES = 65_536
_CALL_SECONDS = 30.0

Address = tuple[str, int]
Harm = Literal["reset", "client", "server"]
"""Both sides are reset; or one side reads an end of file, and may go on to write."""
T = TypeVar("T")


@dataclass(eq=False)
class _Connection:
    """A client's, and the one to the server that was opened for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    harmed: bool = False
    """Once is enough: what still arrives after that is passed on."""

    def close(self) -> None:
        """What is under way arrives first."""
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        """Both sides are told at once (RST), and what was under way is lost."""
        for writer in (self.client, self.server):
            found: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already, or a Unix socket, which has no RST
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def harm(self, how: Harm) -> None:
        """See `Harm`."""
        self.harmed = True
        if how == "reset":
            self.reset()
            return
        writer = self.client if how == "client" else self.server
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)


class Proxy:
    """Passes bytes to one server, from as many addresses as are asked for."""

    def __init__(self, server: Address | Path) -> None:
        """`server`: where it listens; a path is a Unix socket's."""
        self._server = server
        self._delay_seconds = 0.0
        self._harm: Harm | None = None
        self.harmed = 0
        """Connections, so far."""
        self._connections: set[_Connection] = set()
        self._listeners: dict[Address, asyncio.Server] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    # === What it is for ===

    def listen(self, host: str) -> int:
        """The port of a new address."""
        return self._call(self._listen(host, 0))

    def close(self) -> None:
        """Reset everything, listen no more."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # === What it does to a network ===

    def cut(self) -> None:
        """Reset all connections."""
        self._call(self._harm_all("reset"))

    @contextmanager
    def harming(self, how: Harm) -> Iterator[None]:
        """Harm all connections, and meanwhile each other one in the place of its first answer."""
        self._harm = how
        try:
            self._call(self._harm_all(how))
            yield
        finally:
            self._harm = None

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Meanwhile every chunk is so late."""
        self._delay_seconds = seconds
        try:
            yield
        finally:
            self._delay_seconds = 0.0

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Meanwhile nobody can connect; who is connected already stays so."""
        addresses = list(self._listeners)
        self._call(self._stop_listening())
        try:
            yield
        finally:
            for host, port in addresses:
                self._call(self._listen(host, port))

    # === In its thread ===

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)

    async def _listen(self, host: str, port: int) -> int:
        listener = await asyncio.start_server(self._serve, host, port)
        found: int = listener.sockets[0].getsockname()[1]
        self._listeners[host, found] = listener
        return found

    async def _stop_listening(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    async def _end(self) -> None:
        await self._stop_listening()
        await self._harm_all("reset")
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*serving, return_exceptions=True)

    async def _harm_all(self, how: Harm) -> None:
        for connection in list(self._connections):
            self.harmed += 1
            connection.harm(how)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(client=writer, server=server_writer)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, server_writer))
                both.create_task(self._pass_on(server_reader, writer, answers=connection))
        except* OSError:
            connection.reset()  # one side is gone
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._server, Path):
            return await asyncio.open_unix_connection(str(self._server))
        return await asyncio.open_connection(*self._server)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: _Connection | None = None
    ) -> None:
        """`answers`: what is passed on are the answers of this connection."""
        while chunk := await source.read(_CHUNK_BYTES):
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            if self._harm and answers and not answers.harmed:
                self.harmed += 1
                answers.harm(self._harm)
                return
            sink.write(chunk)
            await sink.drain()
        sink.write_eof()
