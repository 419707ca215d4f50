"""The short way onto the tape, for trades that are new and nothing else: what follows the tail live.

One statement adds them and all that they feed, their rows among its parameters: no temporary table,
and few exchanges. What is more than new trades is left to ``apply``, which knows the rest of it.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache

from truetape.store import digests, outbox
from truetape.store.apply import SQL as APPLY_SQL
from truetape.store.apply import (
    Applied,
    Connection,
    Writer,
    bounds,
    fenced,
)
from truetape.store.rollups import (
    HOURS,
    MINUTES,
    ROLLUPS,
    WITHIN_DAYS,
    WITHIN_HOURS,
    Rollup,
    seconds,
)
from truetape.store.sqlfile import load
from truetape.trade import Counts, FewRows, Slice

SQL = load("truetape.store", "fresh.sql")

MAX_ROWS = 2_000
"""The plan is made once, for few rows; with many it would be a bad one."""


ReadFewRows = Callable[[], Awaitable[FewRows | None]]


async def add(
    conn: Connection,
    writer: Writer,
    read: ReadFewRows,
    part: Slice,
    teller: outbox.Teller,
) -> Applied | None:
    """Adds the new trades of a slice; None, and no trade written, where there is anything else.

    ``read`` reads the rows of the slice, once nobody else may change its hours; ``teller`` tells what
    has come.
    """
    async with AsyncExitStack() as transaction:
        await transaction.enter_async_context(fenced(conn, writer, part, shared=True))
        rows = await read()
        if rows is None:
            # Nothing was written: no need to wait for the disk. At a ROLLBACK psycopg would forget what it
            # has prepared.
            await conn.execute(APPLY_SQL["not_durable"])
            return None
        async with teller.turn() as in_redis:
            # The rest goes out together: COMMIT, too, and behind it what gives numbers to the committed.
            async with conn.pipeline():
                values = bounds(part) | {"rows": rows.json}
                added = await conn.execute(_add(writer.row_hash), values, prepare=True)
                told = bounds(part) | {"buckets": outbox.BUCKETS_MAX}
                await conn.execute(outbox.updates(outbox.SQL["added_now"]), told, prepare=True)
                # Last, as in every batch: whoever waits for these rows waits for no lock of ours.
                for position in sorted(rows.positions, key=lambda p: p.chain_id):
                    await conn.execute(APPLY_SQL["see_chain"], vars(position))
                await transaction.aclose()
                if in_redis is not None:
                    numbers = await outbox.ask_numbers(conn, writer.lease, in_redis)
            if in_redis is not None:
                await teller.tell(await outbox.numbered(numbers))
    row = await added.fetchone()
    assert row is not None
    all_new, fresh, seen = row
    return Applied(Counts(inserted=fresh, checked=seen), rows.at) if all_new else None


@cache
def _add(row_hash: str) -> str:
    """The statement. Each member of its WITH that writes waits for the one before."""
    of_fresh = seconds("SELECT * FROM fresh", digests.of_second(row_hash))
    second = f"""second AS MATERIALIZED ({of_fresh}), added_digests AS (
        INSERT INTO analytics.digests AS d (bucket, chain_id, trades, hash_sum, unpaired)
        SELECT * FROM ({digests.SQL["of_seconds"]}) n ORDER BY bucket, chain_id {digests.SQL["add"]}
        RETURNING 1)"""
    members = [f"{r.delta} AS MATERIALIZED ({_delta(r)})" for r in ROLLUPS]
    before = "added_digests"
    for rollup in WITHIN_HOURS:
        members.append(_added(rollup, before))
        before = f"added_{rollup.table}"
    hours = f"SELECT bucket FROM {HOURS.delta} WHERE {_after(before)}"
    members.append(f"locked_days AS MATERIALIZED ({SQL['lock_days'].format(hours=hours)})")
    before = "locked_days"
    for rollup in WITHIN_DAYS:
        members.append(_added(rollup, before))
        before = f"added_{rollup.table}"
    return SQL["add"].format(second=second, rollups=", ".join(members))


def _delta(rollup: Rollup) -> str:
    if rollup is MINUTES:
        return rollup.of_seconds("second", tape="fresh")
    return rollup.compute_few(f"SELECT * FROM {rollup.below.delta if rollup.below else 'fresh'}")


def _added(rollup: Rollup, before: str) -> str:
    delta = f"SELECT * FROM {rollup.delta} WHERE {_after(before)}"
    return f"added_{rollup.table} AS ({rollup.add(delta)} RETURNING 1)"


def _after(member: str) -> str:
    return f"(SELECT count(*) FROM {member}) >= 0"
