"""Questions about our side that the sync asks: extents, pools, the quarantine, what vanished."""

from dataclasses import dataclass
from datetime import datetime

from truetape.store.apply import Connection
from truetape.store.state import utc
from truetape.trade import DAY, MINUTE, Slice

HOLD_ROWS = 100
HOLD_SHARE = 0.01
"""More vanished rows than this, and than this share of the tape, wait for somebody's word."""

_PUT_POOLS = """
INSERT INTO analytics.pools AS p (chain_id, pool_id, symbol, base_decimals, quote_decimals)
SELECT coalesce(n.chain_id, c.chain_id, 0), n.pool_id, n.symbol, n.base_decimals, n.quote_decimals
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::integer[], %s::integer[])
     AS n (chain_id, pool_id, symbol, base_decimals, quote_decimals)
LEFT JOIN (SELECT DISTINCT chain_id, pool_id FROM analytics.days) c
       ON n.chain_id IS NULL AND c.pool_id = n.pool_id
ORDER BY 1, 2
ON CONFLICT (chain_id, pool_id) DO UPDATE
SET symbol = excluded.symbol, base_decimals = excluded.base_decimals,
    quote_decimals = excluded.quote_decimals
WHERE (p.symbol, p.base_decimals, p.quote_decimals)
      IS DISTINCT FROM (excluded.symbol, excluded.base_decimals, excluded.quote_decimals)
"""

_SEALED = """
(bucket > '-infinity' AND bucket < (SELECT to_timestamp(sealed_before) FROM analytics.state))
"""
"""Of a bucket: whether its raw rows are dropped, so that no difference there can be mended."""

_VANISHED = f"""
WITH noted AS (
    SELECT date_bin('1 minute', time, 'epoch') AS bucket, count(*) AS rows, min(first_missed_at) AS since
    FROM analytics.vanishing GROUP BY 1
), seen AS (
    SELECT bucket, sum(extra) AS rows, min(seen_at) AS since
    FROM analytics.suspects WHERE extra > 0 AND NOT {_SEALED} GROUP BY 1
), vanished AS (
    SELECT coalesce(sum(greatest(noted.rows, seen.rows)), 0)::bigint AS rows,
           least(min(noted.since), min(seen.since)) AS since
    FROM noted FULL JOIN seen USING (bucket)
)
SELECT rows, since, rows > %(hold_rows)s AND rows > %(hold_share)s
       * (SELECT coalesce(sum(trades), 0) FROM analytics.days) AS held
FROM vanished
"""


_REFUSE_SEALED = """
UPDATE analytics.quarantine
SET status = 'error', failed_at = clock_timestamp(), attempts = attempts + 1,
    reason = CASE WHEN starts_with(reason, 'sealed') THEN reason
                  ELSE 'sealed: trades of this time are dropped (TAPE_RETENTION_DAYS); ' || reason END
WHERE status = 'pending' AND resolved_at IS NULL
  AND time < (SELECT to_timestamp(sealed_before) FROM analytics.state)
"""

# Digests and tape can be apart only by somebody's hand, and then both are to be looked at.
_EXTENT = """
SELECT extract(epoch FROM min(first))::bigint, extract(epoch FROM max(last))::bigint FROM (
    SELECT min(bucket) AS first, max(bucket) + interval '59 s' AS last FROM analytics.digests
    WHERE trades <> 0 AND bucket >= %(since)s
    UNION ALL
    SELECT min(bucket), max(bucket) FROM analytics.suspects WHERE bucket >= %(since)s
    UNION ALL
    SELECT min(time), max(time) FROM analytics.tape WHERE time >= %(since)s
) held
"""


@dataclass(frozen=True)
class Vanished:
    """Tape rows that the source no longer shows: known one by one, or as yet by the count of their
    minute. ``held``: too many to go without a word."""

    rows: int
    since: datetime | None
    held: bool


async def newest(conn: Connection) -> int | None:
    """The Unix second of the newest trade on the tape."""
    row = await (
        await conn.execute("SELECT extract(epoch FROM max(time))::bigint FROM analytics.tape")
    ).fetchone()
    return row[0] if row else None


async def oldest(conn: Connection) -> int | None:
    """The Unix second of the oldest trade that we hold, or have held: by the minute where it is sealed."""
    row = await (
        await conn.execute(
            "SELECT extract(epoch FROM least("
            "  (SELECT min(time) FROM analytics.tape),"
            f"  (SELECT min(bucket) FROM analytics.digests WHERE trades <> 0 AND {_SEALED})))::bigint"
        )
    ).fetchone()
    return row[0] if row else None


async def extent(conn: Connection, since: int) -> tuple[int, int] | None:
    """The first and the last Unix second, from one on, at which we hold something or lack it."""
    row = await (await conn.execute(_EXTENT, {"since": utc(since)})).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]))


async def chains(conn: Connection) -> list[int]:
    """The chains that the source names."""
    rows = await (
        await conn.execute(
            "SELECT chain_id FROM analytics.chains "
            "UNION SELECT chain_id FROM analytics.pools WHERE chain_id <> 0"
        )
    ).fetchall()
    return [int(r[0]) for r in rows]


async def put_pools(
    conn: Connection, pools: list[tuple[int | None, str, str | None, int | None, int | None]]
) -> int:
    """Takes in new and renamed pools; how many. A pool that vanished stays: its trades need it."""
    if not pools:
        return 0
    columns = [list(column) for column in zip(*pools, strict=True)]
    async with conn.transaction():
        return (await conn.execute(_PUT_POOLS, columns)).rowcount


async def vanished(conn: Connection) -> Vanished:
    values = {"hold_rows": HOLD_ROWS, "hold_share": HOLD_SHARE}
    row = await (await conn.execute(_VANISHED, values)).fetchone()
    assert row is not None
    return Vanished(int(row[0]), row[1], bool(row[2]))


async def vanished_minutes(
    conn: Connection, window_from: datetime
) -> list[tuple[Slice, bool, datetime]]:
    """The minutes in which rows wait for a second look: whether all of them are in the window, and
    when the last of them was missed."""
    rows = await (
        await conn.execute(
            "SELECT extract(epoch FROM date_bin('1 minute', v.time, 'epoch'))::bigint, count(*), "
            "bool_and(v.time >= least(%s, to_timestamp(c.finalized_time))), max(first_missed_at) "
            "FROM analytics.vanishing v LEFT JOIN analytics.tape t USING (time, trade_id) "
            "LEFT JOIN analytics.chains c ON c.chain_id = t.chain_id GROUP BY 1 ORDER BY 1",
            (window_from,),
        )
    ).fetchall()
    return [
        (Slice(int(m), int(m) + MINUTE, int(n), int(n)), bool(within), at)
        for m, n, within, at in rows
    ]


async def pending(conn: Connection) -> tuple[list[str], list[Slice], bool]:
    """What waits for a retry: ids, the seconds at which they stood, whether any time is impossible.

    What stands where all is sealed cannot be taken in any more, and is told so.
    """
    await conn.execute(_REFUSE_SEALED)
    rows = await (
        await conn.execute(
            "SELECT trade_id, extract(epoch FROM time)::bigint FROM analytics.quarantine "
            "WHERE status = 'pending' AND resolved_at IS NULL ORDER BY time LIMIT 10000"
        )
    ).fetchall()
    seconds = sorted({int(s) for _, s in rows if s is not None})
    slices = [Slice(s, s + 1, 1, 1) for s in seconds]
    return [i for i, _ in rows if i is not None], slices, any(s is None for _, s in rows)


async def held_from(conn: Connection, minute: int) -> int:
    """Trades of ours, set-aside ones included, in minutes at or after a Unix second."""
    row = await (
        await conn.execute(
            "SELECT coalesce(sum(trades), 0)::bigint FROM analytics.digests "
            "WHERE bucket >= to_timestamp(%s)",
            (minute,),
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def suspects(conn: Connection, before: int | None) -> tuple[int, int]:
    """(trades missing, minutes) before a Unix second, as the last looks found them."""
    if before is None:
        return 0, 0
    row = await (
        await conn.execute(
            "SELECT coalesce(sum(missing), 0)::bigint, count(*) FROM analytics.suspects "
            f"WHERE bucket < to_timestamp(%s) AND NOT {_SEALED}",
            (before,),
        )
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


async def refused(conn: Connection) -> int:
    """Trades of the source, or of ours, by which the two sides differ where all is sealed."""
    row = await (
        await conn.execute(
            "SELECT coalesce(sum(greatest(missing + extra, 1)), 0)::bigint FROM analytics.suspects "
            f"WHERE {_SEALED}"
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def has_open_ends(conn: Connection, *, besides: int | None) -> bool:
    """Whether differences are known that are not mended, or work is under way (``besides`` a run)."""
    row = await (
        await conn.execute(
            f"SELECT EXISTS (SELECT FROM analytics.suspects WHERE NOT {_SEALED}) "
            "OR EXISTS (SELECT FROM analytics.vanishing) "
            "OR EXISTS (SELECT FROM analytics.runs WHERE state IN ('queued', 'running') "
            "           AND kind <> 'verify' AND run_id IS DISTINCT FROM %s::bigint)",
            (besides,),
        )
    ).fetchone()
    return bool(row is None or row[0])


async def days(conn: Connection, part: Slice) -> list[tuple[int, int]]:
    """The days (UTC) of a range on which we hold trades, ascending: the first Unix second of each that
    is in the range, and the trades of the day."""
    found = await conn.execute(
        "SELECT extract(epoch FROM bucket)::bigint, sum(trades)::bigint FROM analytics.days "
        "WHERE bucket > to_timestamp(%s) AND bucket < to_timestamp(%s) GROUP BY 1 ORDER BY 1",
        (part.start - DAY, part.end),
    )
    return [(max(int(day), part.start), int(trades)) for day, trades in await found.fetchall()]
