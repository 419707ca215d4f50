"""Reading the source: one short read-only snapshot at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from truetape import metrics
from truetape.circuit import Circuit
from truetape.connect import first_line, open_pool
from truetape.errors import UnreadableError, UsageError
from truetape.source.discovery import Shape, discover
from truetape.source.look import Look
from truetape.source.mapping import Mapping
from truetape.source.newest import Newest
from truetape.source.query import Queries
from truetape.source.snapshot import beginning, results
from truetape.trade import HashMethod

TURN_SECONDS = 10.0

_DATABASE = """
SELECT current_database(), (SELECT oid FROM pg_database WHERE datname = current_database()),
       has_function_privilege('pg_control_system()', 'EXECUTE')
"""
_CLUSTER = "SELECT system_identifier FROM pg_control_system()"


class RateLimit:
    """Spaces reads so that no more than ``per_second`` rows are asked for in the long run."""

    def __init__(self, per_second: int | None) -> None:
        self._per_second = per_second
        self._free_at = 0.0

    async def wait(self, rows: int) -> None:
        if self._per_second is None:
            return
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + rows / self._per_second
        await asyncio.sleep(start - now)


async def _identity(conn: psycopg.AsyncConnection) -> str:
    """What tells this database from every other: its cluster, where we may ask, name and oid."""
    row = await (await conn.execute(_DATABASE)).fetchone()
    assert row is not None
    name, oid, may_ask = row
    cluster = await (await conn.execute(_CLUSTER)).fetchone() if may_ask else None
    return "/".join(str(part) for part in (*(cluster or ()), name, oid))


class Source:
    """A Ponder database. Open it with ``async with Source.open(...)``."""

    def __init__(
        self,
        pool: AsyncConnectionPool,
        shape: Shape,
        identity: str,
        limit: RateLimit,
        names: Mapping | None = None,
    ) -> None:
        self.pool = pool
        self._others = asyncio.Semaphore(max(pool.max_size - 1, 1))
        """One connection is always left for what is urgent."""
        self.limit = limit
        self._names = names or Mapping()
        self.shape = shape
        self.identity = identity
        self.hash_method = HashMethod.RECORD
        self.newest = Newest(self)

    @property
    def queries(self) -> Queries:
        return Queries(self.shape, self.hash_method)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        schema: str | None = None,
        names: Mapping | None = None,
        connections: int = 3,
        max_rows_per_second: int | None = None,
        circuit: Circuit | None = None,
    ) -> AsyncIterator["Source"]:
        """Connects and discovers. Raises UnreachableError or UsageError with one sentence."""
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(
                open_pool(url, name="source", size=connections, read_only=True, circuit=circuit)
            )
            async with pool.connection() as conn, conn.transaction():
                shape = await discover(conn, schema, names or Mapping())
                identity = await _identity(conn)
            yield cls(pool, shape, identity, RateLimit(max_rows_per_second), names)

    @asynccontextmanager
    async def look(self, rows: int = 0, *, urgent: bool = False) -> AsyncIterator[Look]:
        """A snapshot, held only as long as the block. ``rows`` is what will be read (rate limit);
        ``urgent``: of the newest rows, and with no waiting for others to give a connection back."""
        await self.limit.wait(rows)
        async with self._turn(urgent), self.pool.connection() as conn:
            at = datetime.now(UTC)
            try:
                ((oid, may_read),) = (await results(conn, self.begin(recent=urgent)))[0]
                if oid != self.shape.trades.oid and may_read:
                    await self._look_over(conn)
                with metrics.SOURCE_READ_SECONDS.time():
                    yield Look(conn, self.queries, at)
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable) as error:
                if conn.info.transaction_status != TransactionStatus.INERROR:
                    raise  # not ours: the other side's, in the same block
                raise UnreadableError(self._unreadable(conn, error)) from error
            await conn.execute("COMMIT")  # Where it does not come to this, the pool rolls back.

    def begin(self, *, recent: bool) -> str:
        """SQL that begins a snapshot."""
        trades, by_index = self.shape.trades.sql, self.shape.timestamp_indexed
        return beginning(trades, recent=recent, by_index=by_index)

    async def _look_over(self, conn: psycopg.AsyncConnection) -> None:
        """What has taken the place of the trades (a view made anew) may be read another way."""
        try:
            found = await discover(conn, self.shape.schema, self._names)
        except UsageError as error:
            raise UnreadableError(f"{error} It is tried again until then.") from error
        if found.trader_columns != self.shape.trader_columns:
            raise UnreadableError(
                f"{found.trades.schema}.{found.trades.name} of the source names its traders in other columns than "
                "before; start truetape anew."
            )
        self.shape = found

    @asynccontextmanager
    async def _turn(self, urgent: bool) -> AsyncIterator[None]:
        if urgent:
            yield
            return
        async with asyncio.timeout(TURN_SECONDS):
            await self._others.acquire()
        try:
            yield
        finally:
            self._others.release()

    def _unreadable(self, conn: psycopg.AsyncConnection, error: psycopg.Error) -> str:
        """Ponder makes its views anew at each start: grants go with the old ones."""
        what = first_line(error).partition(" LINE ")[0]
        if isinstance(error, psycopg.errors.UndefinedTable):
            return f"The source's tables are not there for now ({what}); they are waited for."
        schema = sql.Identifier(self.shape.schema).as_string()
        role = sql.Identifier(conn.info.user).as_string()
        return (
            f"The source may not be read ({what}); run there, as Ponder's role: "
            f"GRANT USAGE ON SCHEMA {schema} TO {role}; "
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}; "
            f"and, for the views that Ponder will make, ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} "
            f"GRANT SELECT ON TABLES TO {role}; It is tried again until then."
        )

    async def sample_hashes(self, method: HashMethod) -> list[int]:
        """Hashes of a fixed set of rows, to compare with those of another server."""
        async with self.pool.connection() as conn:
            return await sample_hashes(conn, method)


SAMPLE = """
SELECT * FROM (VALUES
    ('0x01-1', to_timestamp(1754400000), 1::bigint, '0xab', 'buy', 2000000000, 100000000000000000, '0x01', 'a', 'b'),
    ('Ünïcode/ß', to_timestamp(1), 0, '', NULL, -0.000000000000000000000000001, 0, NULL, NULL, NULL),
    ('a', to_timestamp(4102444800), 9007199254740993, 'p', 'Sell', 1.50, repeat('9', 78)::numeric, 't', NULL, 'x')
) v (trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id, buyer, seller)
"""


async def sample_hashes(conn: psycopg.AsyncConnection, method: HashMethod) -> list[int]:
    expression = method.expression(with_traders=True)
    rows = await conn.execute(
        f'SELECT {expression} FROM ({SAMPLE}) r ORDER BY trade_id COLLATE "C"'
    )
    return [int(r[0]) for r in await rows.fetchall()]
