"""A network between two processes that can be cut, reset, frozen and made to swallow replies."""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

AT_ONCE_BYTES = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes to the server of a URL; ``url`` is the same database through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 5432)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._open: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._replies = asyncio.Event()
        self.connections = 0
        self._server = self._do(asyncio.start_server(self._join, "127.0.0.1", 0))
        self.thaw()
        port = self._server.sockets[0].getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- what can happen -----------------------------------------------------------------------

    def cut(self) -> None:
        """Every connection ends as if the other side had closed it."""
        self._do(self._end(reset=False))

    def reset(self) -> None:
        """Every connection ends with RST, whatever is under way."""
        self._do(self._end(reset=True))

    def freeze(self) -> None:
        """No byte passes either way, and nobody is told."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def swallow_replies(self) -> None:
        """What is asked arrives and is done; no reply comes back."""
        self._loop.call_soon_threadsafe(self._replies.clear)

    def thaw(self) -> None:
        """All that was held up goes on its way."""
        for gate in (self._passes, self._replies):
            self._loop.call_soon_threadsafe(gate.set)

    # -- inside --------------------------------------------------------------------------------

    def _do(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(10)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._open.add(far_writer)
        ways = (
            self._pump(reader, far_writer, (self._passes,)),
            self._pump(far_reader, writer, (self._passes, self._replies)),
        )
        await asyncio.gather(*ways)
        self._open -= {writer, far_writer}

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gates: tuple[asyncio.Event, ...],
    ) -> None:
        try:
            while block := await reader.read(AT_ONCE_BYTES):
                for gate in gates:
                    await gate.wait()
                writer.write(block)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def _end(self, *, reset: bool) -> None:
        for writer in list(self._open):
            if reset:
                own: socket.socket = writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                writer.transport.abort()
            else:
                writer.close()

    async def _close(self) -> None:
        self._server.close()
        for gate in (self._passes, self._replies):
            gate.set()
        await self._end(reset=True)
        rest = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        await asyncio.wait(rest, timeout=5) if rest else None
