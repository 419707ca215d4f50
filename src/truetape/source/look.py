"""What can be read in one snapshot of the source."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer

from truetape.source.blocks import copy_out
from truetape.source.query import Queries
from truetape.source.snapshot import possible_until
from truetape.trade import ChainPosition, Slice, Standing

PAGE_BYTES = 8192


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

    def differs_from(self, known: Second | None) -> bool:
        """Whether there is anything but the trades of the first second that are known."""
        return self.rows > self.first.trades or self.first != known


class Look:
    """One snapshot of the source. All that is read through it is of one moment.

    ``at`` is the moment (our clock), ``horizon`` the last Unix second taken for possible.
    """

    def __init__(
        self,
        conn: psycopg.AsyncConnection,
        queries: Queries,
        at: datetime,
    ) -> None:
        self.at = at
        self.horizon = possible_until(at)
        self._conn = conn
        self._queries = queries

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
        return positions_of(await (await self._conn.execute(query)).fetchall())

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


def positions_of(rows: Iterable[Sequence[Any]]) -> list[ChainPosition]:
    return [ChainPosition(*map(int, row)) for row in rows]
