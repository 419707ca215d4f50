"""What the analytics know of their source and of how far they are."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from truetape.errors import UsageError
from truetape.store.apply import LAST_SECOND, Connection, rebuild_digests
from truetape.trade import ChainPosition, Slice

# Never for an older moment, but where one was noted by a clock that was far ahead.
_COMPLETE = """
UPDATE analytics.state SET complete_at = %(at)s, window_from = %(window_from)s
WHERE (complete_at IS NULL OR complete_at < %(at)s OR complete_at > clock_timestamp() + interval '1 minute')
  AND EXISTS (SELECT FROM analytics.lease WHERE name = 'leader' AND epoch = %(epoch)s)
"""
# What was final stays final, whatever a Ponder that starts anew says for some seconds.
_COMPLETE_CHAIN = """
INSERT INTO analytics.chains AS c
SELECT %(chain_id)s, %(block)s, %(time)s, %(finalized_block)s, %(finalized_time)s, %(block)s
FROM analytics.state WHERE complete_at = %(at)s
ON CONFLICT (chain_id) DO UPDATE
SET complete_block = excluded.complete_block, complete_time = excluded.complete_time,
    finalized_block = greatest(c.finalized_block, excluded.finalized_block),
    finalized_time = greatest(c.finalized_time, excluded.finalized_time),
    highest_block = greatest(c.highest_block, excluded.highest_block)
"""


@dataclass(frozen=True)
class State:
    """The row of ``analytics.state``; what is no datetime is in Unix seconds."""

    complete_at: datetime | None
    window_from: int | None
    scrub_from: int | None
    scrub_started_at: datetime | None
    scrub_ended_at: datetime | None
    verified_through: int | None
    verified_at: datetime | None
    sealed_before: int
    counted_before: int
    tidied_at: datetime | None


async def read(conn: Connection) -> State:
    row = await (
        await conn.execute(
            "SELECT complete_at, window_from, scrub_from, scrub_started_at, scrub_ended_at, "
            "verified_through, verified_at, sealed_before, counted_before, tidied_at "
            "FROM analytics.state"
        )
    ).fetchone()
    assert row is not None
    return State(*row)


async def remember_source(
    conn: Connection, identity: str, text: str, row_hash: str, *, accept_new: bool
) -> None:
    """Binds the analytics to their source. Another source is refused unless accepted.

    ``row_hash``: the SQL of a tape row's hash. Another one than before (a server of another version,
    trader columns that came or went) makes every stored digest void: they are computed again, but for
    those whose rows are dropped, of which only the counts are compared from then on.
    """
    async with conn.transaction():
        row = await (
            await conn.execute(
                "SELECT source_identity, source_text, row_hash, sealed_before "
                "FROM analytics.state FOR UPDATE"
            )
        ).fetchone()
        assert row is not None
        if row[0] is not None and row[0] != identity and not accept_new:
            raise UsageError(
                f"These analytics were made from another source ({row[1]}), not from {text}; "
                "to go on with the new one say --accept-new-source."
            )
        if row[2] is not None and row[2] != row_hash:
            await rebuild_digests(conn, row_hash, Slice(row[3], LAST_SECOND))
            await conn.execute("UPDATE analytics.state SET counted_before = sealed_before")
        if row[:3] != (identity, text, row_hash):
            await conn.execute(
                "UPDATE analytics.state SET source_identity = %s, source_text = %s, row_hash = %s",
                (identity, text, row_hash),
            )


async def set_complete(
    conn: Connection, epoch: int, at: datetime, window_from: int, positions: list[ChainPosition]
) -> None:
    """All of a source snapshot taken ``at`` is applied: all of each chain up to its position. Nothing is
    written where that is known of a later one (but for what a clock that was ahead has written), or where
    another than the leader of ``epoch`` leads."""
    async with conn.pipeline(), conn.transaction():
        await conn.execute(_COMPLETE, {"epoch": epoch, "at": at, "window_from": window_from})
        for position in sorted(positions, key=lambda p: p.chain_id):
            await conn.execute(_COMPLETE_CHAIN, vars(position) | {"at": at})


async def set_values(conn: Connection, **values: Any) -> None:
    """Sets columns of the state row by name."""
    columns = ", ".join(f"{name} = %({name})s" for name in values)
    async with conn.transaction():
        await conn.execute(f"UPDATE analytics.state SET {columns}", values)


def utc(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


async def totals(conn: Connection) -> dict[str, Any]:
    """Trades, pools and traders on the tape, and the trades of the last minute and hour."""
    row = await (
        await conn.execute(
            """SELECT (SELECT coalesce(sum(trades), 0)::bigint FROM analytics.days),
                      (SELECT count(DISTINCT (chain_id, pool_id)) FROM analytics.days),
                      (SELECT coalesce(sum(trades), 0)::bigint FROM analytics.candles_1m
                       WHERE bucket >= date_bin('1 minute', now(), 'epoch') - interval '1 minute'
                         AND bucket < date_bin('1 minute', now(), 'epoch')),
                      (SELECT coalesce(sum(trades), 0)::bigint FROM analytics.hourly_aggregations
                       WHERE bucket >= date_bin('1 hour', now(), 'epoch') - interval '1 hour'
                         AND bucket < date_bin('1 hour', now(), 'epoch'))"""
        )
    ).fetchone()
    assert row is not None
    names = ("trades", "pools", "tradesLastMinute", "tradesLastHour")
    return dict(zip(names, row, strict=True))
