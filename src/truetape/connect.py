"""How we connect to a PostgreSQL: timeouts, read-only where it must be, faults in one sentence."""

import asyncio
import os
import re
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from truetape.circuit import Circuit
from truetape.errors import UnreachableError, UsageError

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5
CHECK_SECONDS = 3.0
"""So long after a check a connection is taken to be sound."""
CHECK_TIMEOUT_SECONDS = 5.0
RECONNECT_SECONDS = 5.0
"""A pool doubles the waits between its tries, from 1 s; after this it begins anew with the next who asks.
Left to its default it would sleep for minutes through the return of a server that was long away."""
WAKE_SECONDS = 10.0
"""How often who waits for a server wakes up for nothing: psycopg's default is ten times a second, of which
a cancellation has no need."""
# A peer that is gone without a word is noticed in half a minute, not after the system's hours.
DEAD_PEER = {
    "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000,
}  # fmt: skip


def without_password(url: str) -> str:
    """The URL as it may be shown: host, port, database and user."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "(not a valid libpq URL)"
    place = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"postgresql://{user}{place}/{parts.get('dbname', '')}"


def redis_place(url: str) -> str:
    """A Redis URL as it may be shown: without user, password and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def first_line(error: BaseException) -> str:
    """A driver's message as one line, without what may be secret."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(password=)\S+", r"\1***", text)


def told_to(circuit: Circuit) -> type[psycopg.AsyncConnection]:
    """Connections each attempt at which is told to a circuit."""

    class Connection(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Self:
            try:
                conn = await super().connect(*args, **kwargs)
            except psycopg.OperationalError as error:
                circuit.failed(first_line(error))
                raise
            circuit.succeeded()
            return conn

        async def wait(
            self, gen: PQGen[T], interval: float = WAKE_SECONDS, timeout: float | None = None
        ) -> T:
            return await super().wait(gen, interval, timeout)

    return Connection


def conninfo(url: str, name: str, session_name: str) -> str:
    """A URL with the limits that ours have. Raises UsageError where it is none."""
    try:
        limits = {k: v for k, v in DEAD_PEER.items() if k not in conninfo_to_dict(url)}
        return make_conninfo(
            url, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name=session_name, **limits
        )
    except psycopg.ProgrammingError as error:
        raise UsageError(f"The {name} database URL is not valid: {first_line(error)}.") from error


Configure = Callable[[psycopg.AsyncConnection], Awaitable[None]]


@asynccontextmanager
async def open_pool(
    url: str,
    *,
    name: str,
    size: int,
    read_only: bool = False,
    configure: Configure | None = None,
    further: bool = False,
    circuit: Circuit | None = None,
    session_name: str = "truetape",
) -> AsyncIterator[AsyncConnectionPool]:
    """A bounded pool. A first connection is made at once, so that a wrong URL is told now; but for a
    ``further`` pool to the same database, which makes none before one is needed.

    No start-up parameters, and nothing that the driver prepares, on a read-only (source) connection:
    poolers in between refuse them. ``circuit`` hears of each attempt to connect, and of what still answers.
    ``session_name``: what the server calls its sessions.
    """
    circuit = circuit or Circuit(name)
    place = conninfo(url, name, session_name)

    async def set_up(conn: psycopg.AsyncConnection) -> None:
        if read_only:
            conn.prepare_threshold = None
            await conn.set_autocommit(True)  # A look says BEGIN itself.
            # By each BEGIN, not by a SET: what is set for a session, a pooler hands on to others.
            await conn.set_read_only(True)
        if configure is not None:
            await configure(conn)

    checked_at: WeakKeyDictionary[psycopg.AsyncConnection, float] = WeakKeyDictionary()

    async def check(conn: psycopg.AsyncConnection) -> None:
        """One fault breaks all connections; each that is given out again would fail another round.
        One that was closed has its end to read; any other is asked now and then."""
        if has_ended(conn) or time.monotonic() - checked_at.get(conn, 0.0) > CHECK_SECONDS:
            # One that is frozen would never answer.
            asked = AsyncConnectionPool.check_connection(conn)
            await answered(conn, asked, CHECK_TIMEOUT_SECONDS)
            circuit.succeeded()  # Whose server takes no further connection answers over these.
            checked_at[conn] = time.monotonic()

    try:
        if not further:
            probe = await psycopg.AsyncConnection.connect(place)
            await probe.close()
    except psycopg.OperationalError as error:
        raise UnreachableError(
            f"The {name} database {without_password(url)} cannot be reached: {first_line(error)}."
        ) from error
    pool = AsyncConnectionPool(
        place,
        connection_class=told_to(circuit),
        min_size=0 if further else 1,
        max_size=size,
        configure=set_up,
        check=check,
        open=False,
        timeout=10,
        reconnect_timeout=RECONNECT_SECONDS,
        reconnect_failed=_try_again,
        name=name,
    )
    async with pool:
        yield pool


def has_ended(conn: psycopg.AsyncConnection) -> bool:
    """Whether a connection that nobody uses was closed by the server: then there is that to read."""
    ends = select.poll()
    ends.register(conn.fileno(), select.POLLIN)
    return bool(ends.poll(0))


async def answered(
    conn: psycopg.AsyncConnection, work: Coroutine[Any, Any, T], seconds: float
) -> T:
    """The result of some work over a connection; TimeoutError, and the connection closed, where it takes
    longer."""
    asking = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({asking}, timeout=seconds)
    except asyncio.CancelledError:
        await _cut(conn, asking)
        raise
    if not done:
        await _cut(conn, asking)
        raise TimeoutError(f"no answer within {seconds:g} s")
    return asking.result()


async def _cut(conn: psycopg.AsyncConnection, asking: asyncio.Task[Any]) -> None:
    """Closes a connection on which somebody still waits for an answer. He is told through the socket
    first: uvloop ends the process if a descriptor is closed that somebody waits on."""
    if not asking.done():
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
    ours: asyncio.CancelledError | None = None
    while not asking.done():
        try:
            await asyncio.wait({asking})
        except asyncio.CancelledError as error:
            ours = error  # However often we are told to end: first of all this has to.
    if not asking.cancelled():
        asking.exception()
    await conn.close()
    if ours is not None:
        raise ours


async def _try_again(pool: AsyncConnectionPool) -> None:
    """Whoever still waits when a pool gives up would wait on, though the server may be back."""
    if pool.get_stats().get("requests_waiting"):
        with suppress(PoolTimeout):
            async with pool.connection(timeout=0.01):
                pass


@asynccontextmanager
async def at_once(pool: AsyncConnectionPool) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection on which each statement is its own transaction: one exchange instead of three."""
    async with pool.connection() as conn:
        await conn.set_autocommit(True)
        try:
            yield conn
        finally:
            # In any other state, after a fault, the pool closes it.
            if conn.info.transaction_status == TransactionStatus.IDLE:
                await conn.set_autocommit(False)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, or TimeoutError. What was late is cancelled, but not waited for: over
    a connection that passes no bytes that takes ten seconds more."""
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return task.result()


def is_transient(error: BaseException) -> bool:
    """Whether trying again later may help: connection, restart, deadlock, timeout, no space."""
    if isinstance(error, PoolTimeout | ConnectionError | TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    # 08 connection, 40 rollback, 53 resources, 55 object state, 57 operator intervention, 58 system,
    # 25P03/25P04 a transaction that was held too long; 42501/42P01/3F000 in the source: views are
    # being made anew.
    return state[:2] in {"08", "40", "53", "55", "57", "58"} or state in {"25P03", "25P04"}
