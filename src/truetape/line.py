"""A connection for what must not wait: neither for those who work over others, nor for a network that is gone."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg

from truetape.circuit import Circuit
from truetape.connect import Configure, answered, has_ended, told_to

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 2


@dataclass
class Line:
    """One connection, made when it is needed, and anew when the last one failed."""

    conninfo: str
    configure: Configure
    circuit: Circuit
    _conn: psycopg.AsyncConnection | None = None

    async def ask(
        self, work: Callable[[psycopg.AsyncConnection], Coroutine[Any, Any, T]], seconds: float
    ) -> T:
        """What some work answers within so many seconds; TimeoutError where it does not."""
        conn = self._conn
        if conn is None or conn.closed or has_ended(conn):
            conn = await self._open(seconds)
        try:
            answer = await answered(conn, work(conn), seconds)
        except BaseException:
            await self.close()  # Nobody knows what is still under way on it.
            raise
        self.circuit.succeeded()
        return answer

    async def _open(self, seconds: float) -> psycopg.AsyncConnection:
        await self.close()
        made = told_to(self.circuit)
        self._conn = await made.connect(self.conninfo, connect_timeout=CONNECT_TIMEOUT_SECONDS)
        await answered(self._conn, self._set_up(self._conn), seconds)
        return self._conn

    async def _set_up(self, conn: psycopg.AsyncConnection) -> None:
        await self.configure(conn)

    async def close(self) -> None:
        """The next who asks gets another connection."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
