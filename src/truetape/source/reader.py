"""Reading the source: one short read-only snapshot at a time."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import md5
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from truetape import metrics
from truetape.circuit import Circuit
from truetape.connect import first_line, open_pool
from truetape.errors import UnreadableError, UsageError
from truetape.source.blocks import copy_out
from truetape.source.discovery import Shape, discover
from truetape.source.mapping import Mapping
from truetape.source.query import Queries
from truetape.trade import (
    FUTURE_TOLERANCE_SECONDS,
    ChainPosition,
    FewRows,
    HashMethod,
    Slice,
    Standing,
)

STATEMENT_TIMEOUT_SECONDS = 60
LOCK_TIMEOUT_SECONDS = 2
WORK_MEM = "32MB"
"""How many minutes a survey has no plan can know: with less, it would rather sort all rows on disk than
group them in memory, where they take a megabyte."""
PAGE_BYTES = 8192
TURN_SECONDS = 10.0

_DATABASE = """
SELECT current_database(), (SELECT oid FROM pg_database WHERE datname = current_database()),
       has_function_privilege('pg_control_system()', 'EXECUTE')
"""
_STANDS = (
    "SELECT to_regclass({name})::oid::bigint, has_table_privilege(to_regclass({name}), 'SELECT')"
)
_RECENT = (
    "SET LOCAL random_page_cost = 1; SET LOCAL max_parallel_workers_per_gather = 0; "
    "SET LOCAL plan_cache_mode = force_generic_plan"
)
_BY_INDEX = "SET LOCAL enable_seqscan = off"
"""A plan for any slice takes it for a two-hundredth of the table; it is some seconds."""
_LIMITS = (
    f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'; "
    f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'; SET LOCAL jit = off"
)
_CLUSTER = "SELECT system_identifier FROM pg_control_system()"


def possible_until(at: datetime) -> int:
    """The last Unix second that is taken for possible at a moment."""
    return int(at.timestamp()) + FUTURE_TOLERANCE_SECONDS


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


@dataclass(frozen=True)
class Second:
    """The trades of a second: how many, and a sum by which their ids are told from others."""

    trades: int
    ids: int

    @classmethod
    def of(cls, trades: int | None, ids: int | None) -> "Second":
        return cls(int(trades or 0), int(ids or 0))


@dataclass(frozen=True)
class News:
    """Trades at or after a second: all of them, those of that second, the newest second, its trades."""

    rows: int
    first: Second
    newest: int | None
    last: Second

    @classmethod
    def of(cls, row: Sequence[Any]) -> "News":
        return cls(int(row[0]), Second.of(*row[1:3]), row[3], Second.of(*row[4:6]))


@dataclass(frozen=True)
class Tail:
    """What is new, as of a moment (our clock), and where the chains were.

    ``rows``: those of a slice that were asked for, too; None where they are not few.
    """

    at: datetime
    news: News
    positions: list[ChainPosition]
    rows: FewRows | None = None


class Look:
    """One snapshot of the source. All that is read through it is of one moment.

    ``at`` is the moment (our clock), ``horizon`` the last Unix second taken for possible.
    """

    def __init__(
        self,
        conn: psycopg.AsyncConnection,
        queries: Queries,
        limit: RateLimit,
        at: datetime,
    ) -> None:
        self.at = at
        self.horizon = possible_until(at)
        self._conn = conn
        self._queries = queries
        self._limit = limit

    def _copy(self, query: str) -> AsyncGenerator[Buffer, None]:
        return copy_out(self._conn, query)

    def all_rows(self, part: Slice) -> AsyncGenerator[Buffer, None]:
        """Binary COPY of every row: the trade's columns, the reason it is bad or null, its hash."""
        return self._copy(self._queries.all_rows(part, self.horizon))

    def good_rows(self, part: Slice) -> AsyncGenerator[Buffer, None]:
        """Binary COPY of the rows that can be processed: the trade's columns."""
        return self._copy(self._queries.good_rows(part, self.horizon))

    def bad_rows(self, part: Slice) -> AsyncGenerator[Buffer, None]:
        """Binary COPY of the rows that cannot be processed, columns as ``all_rows``."""
        return self._copy(self._queries.bad_rows(part, self.horizon))

    async def count(self, part: Slice) -> int:
        """How many rows a slice has, good and bad."""
        row = await (await self._conn.execute(self._queries.count(part, self.horizon))).fetchone()
        assert row is not None
        return int(row[0])

    def survey(self, part: Slice, *, hashed: bool) -> AsyncGenerator[Buffer, None]:
        """Binary COPY of (bucket, chain_id, trades, hash_sum, first_page, last_page)."""
        return self._copy(self._queries.survey(part, self.horizon, hashed=hashed))

    def counts(self, part: Slice) -> AsyncGenerator[Buffer, None]:
        """As ``survey``, all chains in one (as chain 0) and nothing hashed."""
        return self._copy(self._queries.counts(part, self.horizon))

    async def seconds(self, part: Slice) -> list[tuple[int, int]]:
        """(second, trades) within a slice, ascending."""
        rows = await self._conn.execute(self._queries.seconds(part, self.horizon))
        return [(int(s), int(n)) for s, n in await rows.fetchall()]

    async def extent(self, since: int = 1) -> tuple[int, int] | None:
        """First and last possible timestamp, from a second on; None when there is no trade."""
        query = self._queries.extent(self.horizon, since)
        row = await (await self._conn.execute(query)).fetchone()
        return None if row is None or row[0] is None else (int(row[0]), int(row[1]))

    async def tail(self, second: int) -> tuple[int, int | None]:
        """(trades at or after a second, newest second among them)."""
        row = await (await self._conn.execute(self._queries.tail(second, self.horizon))).fetchone()
        assert row is not None
        return int(row[0]), row[1]

    async def news(self, second: int) -> News:
        """What stands at or after a second, by its first and its last."""
        row = await (await self._conn.execute(self._queries.news(second, self.horizon))).fetchone()
        assert row is not None
        return News.of(row)

    async def find(self, trade_ids: list[str]) -> list[int | None]:
        """The seconds at which these ids stand now."""
        rows = await self._conn.execute(self._queries.find(), (trade_ids,))
        return [r[0] for r in await rows.fetchall()]

    async def pools(self) -> list[tuple[int | None, str, str | None, int | None, int | None]]:
        """(chain or None for any, pool, symbol, base decimals, quote decimals)."""
        p = self._queries.shape.pools
        if p is None:
            return []
        if not self._queries.shape.trades.has("chain_id"):
            chain = "0::bigint"
        else:
            chain = f"{p.col('chain_id', 'p')}::bigint" if p.has("chain_id") else "NULL::bigint"
        decimals = [
            f"{p.col(c, 'p')}::integer" if p.has(c) else "NULL::integer"
            for c in ("base_decimals", "quote_decimals")
        ]
        rows = await self._conn.execute(
            f"""SELECT {chain}, {p.col("order_book", "p")}::text, max({p.col("coin", "p")}::text),
                       max({decimals[0]}), max({decimals[1]})
                FROM {p.sql} p WHERE {p.col("order_book", "p")} IS NOT NULL GROUP BY 1, 2"""
        )
        return [(r[0], r[1], r[2], r[3], r[4]) for r in await rows.fetchall()]

    async def positions(self) -> list[ChainPosition]:
        """Where Ponder is on each chain; empty where it does not tell."""
        query = self._queries.positions()
        if query is None:
            return []
        return _positions(await (await self._conn.execute(query)).fetchall())

    async def standing(self) -> Standing:
        """Where Ponder is, what its trades stand in, whether it is ready. To be asked last in a snapshot.

        A name is looked up as it stands now, not as it stood in the snapshot; once read, a table or
        view cannot be replaced before we are done. So what is the same at the end was the same.
        """
        positions = await self.positions()
        m, name = self._queries.shape.meta, self._queries.shape.trades.sql
        app = (
            f"(SELECT {m.col('value', 'm')} FROM {m.sql} m WHERE {m.col('key', 'm')}::text = 'app')"
            if m is not None and m.columns["value"] in ("json", "jsonb")
            else "NULL"
        )
        row = await (
            await self._conn.execute(f"SELECT to_regclass(%s)::oid::bigint, {app}", (name,))
        ).fetchone()
        assert row is not None
        return Standing(positions, row[0], row[1] if isinstance(row[1], dict) else {})

    async def pages(self) -> int:
        """Heap pages of the trades, rounded up."""
        row = await (
            await self._conn.execute(
                "SELECT pg_relation_size(to_regclass(%s)) / %s + 1",
                (self._queries.shape.trades.sql, PAGE_BYTES),
            )
        ).fetchone()
        return int(row[0]) if row and row[0] is not None else 0  # gone for now


def _positions(rows: Iterable[Sequence[Any]]) -> list[ChainPosition]:
    return [ChainPosition(*map(int, row)) for row in rows]


def _begin(trades: str, *, recent: bool, by_index: bool) -> str:
    """Begins a transaction that reads one moment, with all its settings, and asks what stands at the
    name of the trades: several statements, and one exchange.

    ``recent``: what is read was just written, so it is in memory, and an index, where there is one on the
    timestamp (``by_index``), is the way to it.
    """
    costs = f"{_RECENT}; " if recent else ""
    if recent and by_index:
        costs += f"{_BY_INDEX}; "
    return (
        f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {costs}{_LIMITS}; "
        f"SET LOCAL work_mem = '{WORK_MEM}'; SET LOCAL idle_in_transaction_session_timeout = '30s'; "
        + _STANDS.format(name=sql.Literal(trades).as_string())
    )


async def _results(conn: psycopg.AsyncConnection, statements: str) -> list[list[Any]]:
    """What statements that are sent together answer, of those that do."""
    cursor = await conn.execute(statements)
    found = []
    while True:
        if cursor.description is not None:
            found.append(await cursor.fetchall())
        if not cursor.nextset():
            return found


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
        self._limit = limit
        self._names = names or Mapping()
        self.shape = shape
        self.identity = identity
        self.hash_method = HashMethod.RECORD
        self._prepared: WeakKeyDictionary[psycopg.AsyncConnection, str] = WeakKeyDictionary()
        """What was prepared on a connection last."""
        self._may_prepare = True
        """False once a pooler in between has shown that it gives us another session each time."""

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
        await self._limit.wait(rows)
        async with self._turn(urgent), self.pool.connection() as conn:
            at = datetime.now(UTC)
            try:
                ((oid, may_read),) = (await _results(conn, self._begin(recent=urgent)))[0]
                if oid != self.shape.trades.oid and may_read:
                    await self._look_over(conn)
                with metrics.SOURCE_READ_SECONDS.time():
                    yield Look(conn, self.queries, self._limit, at)
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable) as error:
                if conn.info.transaction_status != TransactionStatus.INERROR:
                    raise  # not ours: the other side's, in the same block
                raise UnreadableError(self._unreadable(conn, error)) from error
            await conn.execute("COMMIT")  # Where it does not come to this, the pool rolls back.

    async def tail(self, second: int, part: Slice | None = None, limit: int = 0) -> Tail:
        """What is new at or after a second, and where the chains are: one snapshot in one exchange.

        ``part``: a slice whose rows are read, too, if there are no more than ``limit``.
        """
        at = datetime.now(UTC)
        horizon = possible_until(at)
        shape = self.shape
        asked = [self._begin(recent=True), self.queries.news(second, horizon)]
        positions = self.queries.positions()
        async with self.pool.connection() as conn:
            try:
                rows = await self._few_rows(conn, part, horizon, limit) if part else None
                with metrics.SOURCE_READ_SECONDS.time():
                    found = await _results(
                        conn, "; ".join(filter(None, (*asked, positions, rows, "COMMIT")))
                    )
            except psycopg.errors.ProgrammingError as error:
                found = []  # Something has changed there: what, the long way tells.
                await conn.rollback()
                if isinstance(error, psycopg.errors.InvalidSqlStatementName):
                    self._may_prepare = False
        if found and found[0][0][0] == shape.trades.oid:
            chains = _positions(found[2] if positions else ())
            json = found[-1][0][0] if rows else None
            few = FewRows(at, json, chains) if isinstance(json, str) else None
            return Tail(at, News.of(found[1][0]), chains, few)
        async with self.look(urgent=True) as look:
            return Tail(look.at, await look.news(second), await look.positions())

    async def _few_rows(
        self, conn: psycopg.AsyncConnection, part: Slice, horizon: int, limit: int
    ) -> str:
        """SQL that reads the rows of a slice if they are few. To plan it takes as long as to run it, so it is
        planned once a connection, for any slice."""
        if not self._may_prepare:
            return self.queries.few_rows(part, horizon, limit)
        statement = self.queries.prepared_few_rows
        name = f"truetape_{md5(statement.encode(), usedforsecurity=False).hexdigest()}"
        if self._prepared.get(conn) != name:
            prepare = f"PREPARE {name} (bigint, bigint, bigint, bigint) AS {statement}"
            try:
                await conn.execute(f"BEGIN READ ONLY; {_LIMITS}; {prepare}; COMMIT")
            except psycopg.errors.DuplicatePreparedStatement:  # Of this name it is the same.
                await conn.rollback()
            self._prepared[conn] = name
        end = min(part.end, horizon + 1)
        return f"EXECUTE {name} ({max(part.start, 1)}, {end}, {horizon}, {limit})"

    async def glance(self, second: int) -> News | None:
        """What is new at or after a second, and nothing besides: for who looks every few milliseconds.
        None where it cannot be told that cheaply: ``tail`` tells."""
        if not self.shape.timestamp_indexed:
            return None
        news = self.queries.news(second, possible_until(datetime.now(UTC)))
        async with self.pool.connection() as conn:
            try:
                found = await _results(
                    conn, f"BEGIN READ ONLY; {_RECENT}; {_LIMITS}; {news}; COMMIT"
                )
            except psycopg.errors.ProgrammingError:
                await conn.rollback()
                return None
        return News.of(found[0][0])

    async def few_rows(self, part: Slice, positions: list[ChainPosition]) -> FewRows | None:
        """Every row of a small slice that was just written, with its reason and its hash: one snapshot
        in one exchange. None where something has changed there: what, ``look`` tells.

        ``positions``: where the chains were when the slice was seen.
        """
        await self._limit.wait(part.rows)
        at, shape = datetime.now(UTC), self.shape
        rows = self.queries.all_rows_at_once(part, possible_until(at))
        asked = f"{self._begin(recent=True)}; {rows}; COMMIT"
        async with self.pool.connection() as conn:
            with metrics.SOURCE_READ_SECONDS.time():
                found = await _results(conn, asked)
        json = found[1][0][0] or "[]"
        if found[0][0][0] != shape.trades.oid or not isinstance(json, str):
            return None  # bytes: of a database that does not know its encoding
        return FewRows(at, json, positions)

    def _begin(self, *, recent: bool) -> str:
        trades, by_index = self.shape.trades.sql, self.shape.timestamp_indexed
        return _begin(trades, recent=recent, by_index=by_index)

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
