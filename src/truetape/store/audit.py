"""Proof on our side: do the rollups say what the tape says, and how do rows differ?"""

from dataclasses import dataclass

from truetape.store import digests
from truetape.store.apply import Connection, bounds
from truetape.store.rollups import Rollup
from truetape.store.sqlfile import load
from truetape.trade import Slice

SQL = load("truetape.store", "verify.sql")


@dataclass(frozen=True)
class Difference:
    """Rows of one kind (missing, extra, changed) in a slice; seconds of the first and the last."""

    kind: str
    first: int
    last: int
    trades: int
    source_trades: int
    analytics_trades: int


@dataclass(frozen=True)
class WrongBucket:
    """A stored bucket that is not what the level below it says. ``bucket`` in Unix seconds."""

    rollup: str
    bucket: int
    chain_id: int | None
    pool_id: str | None


async def begin_doubting(conn: Connection) -> None:
    """Makes room for what a first look finds to differ; lasts as long as the connection."""
    await conn.execute(SQL["setup"])


async def differences(
    conn: Connection, part: Slice, row_hash: str, *, first: bool
) -> list[Difference]:
    """How our rows of a slice differ from the source's, which the caller put into `batch`.

    ``first``: as this look finds it; otherwise what all looks since the first have found.
    """
    scope = SQL["scope_of_impossible" if part.impossible else "scope_of_range"]
    differing = SQL["differing"].format(hash=row_hash, scope=scope)
    look = SQL["doubt" if first else "confirm"]
    await conn.execute(look.format(differing=differing, doubted_scope=scope), bounds(part))
    rows = await conn.execute(SQL["doubts"].format(doubted_scope=scope), bounds(part))
    return [Difference(*row) for row in await rows.fetchall()]


async def hours_held(conn: Connection, part: Slice) -> list[int]:
    """The hours (Unix seconds) of a range in which we hold rows of any kind."""
    rows = await (await conn.execute(SQL["hours_held"], bounds(part))).fetchall()
    return [int(r[0]) for r in rows]


async def wrong_digests(conn: Connection, part: Slice, row_hash: str) -> list[WrongBucket]:
    """Stored digests that are not those of our rows: tape or digest was altered by hand."""
    actual = digests.of_range(row_hash)
    rows = await conn.execute(SQL["wrong_digests"].format(actual=actual), bounds(part))
    return [WrongBucket("digests", int(r[0]), None, None) for r in await rows.fetchall()]


async def check(conn: Connection, rollup: Rollup, part: Slice) -> tuple[int, list[WrongBucket]]:
    """(stored buckets in the range, those that are wrong, either way)."""
    values = bounds(part)
    count = f"SELECT count(*) FROM ({rollup.stored_range}) s"
    row = await (await conn.execute(count, values)).fetchone()
    wrong = await (await conn.execute(rollup.check_range, values)).fetchall()
    return int(row[0]) if row else 0, [
        WrongBucket(rollup.shown_as, int(b), int(c), p) for b, c, p in wrong
    ]
