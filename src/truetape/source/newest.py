"""The newest rows: read again and again while following live, each time in one exchange."""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import md5
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import psycopg

from truetape import metrics
from truetape.source.look import News, positions_of
from truetape.source.snapshot import LIMITS, RECENT, possible_until, results
from truetape.trade import ChainPosition, FewRows, Slice

if TYPE_CHECKING:
    from truetape.source.reader import Source


@dataclass(frozen=True)
class Tail:
    """What is new, as of a moment (our clock), and where the chains were.

    ``rows``: those of a slice that were asked for, too; None where they are not few.
    """

    at: datetime
    news: News
    positions: list[ChainPosition]
    rows: FewRows | None = None


class Newest:
    """What is new in a source. Where something has changed there, the long way tells what (``look``)."""

    def __init__(self, source: "Source") -> None:
        self._source = source
        self._prepared: WeakKeyDictionary[psycopg.AsyncConnection, str] = WeakKeyDictionary()
        """What was prepared on a connection last."""
        self._may_prepare = True
        """False once a pooler in between has shown that it gives us another session each time."""

    async def tail(self, second: int, part: Slice | None = None, limit: int = 0) -> Tail:
        """What is new at or after a second, and where the chains are: one snapshot in one exchange.

        ``part``: a slice whose rows are read, too, if there are no more than ``limit``.
        """
        at = datetime.now(UTC)
        horizon = possible_until(at)
        shape = self._source.shape
        asked = [self._source.begin(recent=True), self._source.queries.news(second, horizon)]
        positions = self._source.queries.positions()
        async with self._source.pool.connection() as conn:
            try:
                rows = await self._few_rows(conn, part, horizon, limit) if part else None
                with metrics.SOURCE_READ_SECONDS.time():
                    found = await results(
                        conn, "; ".join(filter(None, (*asked, positions, rows, "COMMIT")))
                    )
            except psycopg.errors.ProgrammingError as error:
                found = []  # Something has changed there: what, the long way tells.
                await conn.rollback()
                if isinstance(error, psycopg.errors.InvalidSqlStatementName):
                    self._may_prepare = False
        if found and found[0][0][0] == shape.trades.oid:
            chains = positions_of(found[2] if positions else ())
            json = found[-1][0][0] if rows else None
            few = FewRows(at, json, chains) if isinstance(json, str) else None
            return Tail(at, News.of(found[1][0]), chains, few)
        async with self._source.look(urgent=True) as look:
            return Tail(look.at, await look.news(second), await look.positions())

    async def _few_rows(
        self, conn: psycopg.AsyncConnection, part: Slice, horizon: int, limit: int
    ) -> str:
        """SQL that reads the rows of a slice if they are few. To plan it takes as long as to run it, so it is
        planned once a connection, for any slice."""
        if not self._may_prepare:
            return self._source.queries.few_rows(part, horizon, limit)
        statement = self._source.queries.prepared_few_rows
        name = f"truetape_{md5(statement.encode(), usedforsecurity=False).hexdigest()}"
        if self._prepared.get(conn) != name:
            prepare = f"PREPARE {name} (bigint, bigint, bigint, bigint) AS {statement}"
            try:
                await conn.execute(f"BEGIN READ ONLY; {LIMITS}; {prepare}; COMMIT")
            except psycopg.errors.DuplicatePreparedStatement:  # Of this name it is the same.
                await conn.rollback()
            self._prepared[conn] = name
        end = min(part.end, horizon + 1)
        return f"EXECUTE {name} ({max(part.start, 1)}, {end}, {horizon}, {limit})"

    async def glance(self, second: int) -> News | None:
        """What is new at or after a second, and nothing besides: for who looks every few milliseconds.
        None where it cannot be told that cheaply: ``tail`` tells."""
        if not self._source.shape.timestamp_indexed:
            return None
        news = self._source.queries.news(second, possible_until(datetime.now(UTC)))
        async with self._source.pool.connection() as conn:
            try:
                found = await results(conn, f"BEGIN READ ONLY; {RECENT}; {LIMITS}; {news}; COMMIT")
            except psycopg.errors.ProgrammingError:
                await conn.rollback()
                return None
        return News.of(found[0][0])

    async def few_rows(self, part: Slice, positions: list[ChainPosition]) -> FewRows | None:
        """Every row of a small slice that was just written, with its reason and its hash: one snapshot
        in one exchange. None where something has changed there: what, ``look`` tells.

        ``positions``: where the chains were when the slice was seen.
        """
        await self._source.limit.wait(part.rows)
        at, shape = datetime.now(UTC), self._source.shape
        rows = self._source.queries.all_rows_at_once(part, possible_until(at))
        asked = f"{self._source.begin(recent=True)}; {rows}; COMMIT"
        async with self._source.pool.connection() as conn:
            with metrics.SOURCE_READ_SECONDS.time():
                found = await results(conn, asked)
        json = found[1][0][0] or "[]"
        if found[0][0][0] != shape.trades.oid or not isinstance(json, str):
            return None  # bytes: of a database that does not know its encoding
        return FewRows(at, json, positions)
