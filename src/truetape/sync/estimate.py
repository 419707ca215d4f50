"""What a force would do, before it does it."""

from dataclasses import dataclass

from truetape.store.apply import SealedError
from truetape.store.rollups import ROLLUPS
from truetape.sync.compare import Comparer
from truetape.trade import DAY, HOUR

FIRST_GUESS_TRADES_PER_SECOND = 40_000
"""Used until a force has been run here whose rate is known."""


@dataclass(frozen=True)
class Estimate:
    """Trades that would be processed, stored buckets that would be rebuilt, milliseconds."""

    trades: int
    buckets: int
    estimate_ms: int


async def refuse_sealed(comparer: Comparer, since: int) -> None:
    """Raises SealedError where raw trades are dropped: nothing there can be rebuilt."""
    sealed_before = (await comparer.read_state()).sealed_before
    if since < sealed_before:
        raise SealedError(sealed_before)


async def estimate_force(comparer: Comparer, since: int) -> Estimate:
    """Counts what stands at or after a Unix second; the time by the rate of the last force.

    Raises SealedError where raw trades of that time are dropped.
    """
    await refuse_sealed(comparer, since)
    async with comparer.source.look() as look:
        trades, _ = await look.tail(since)
    buckets = 0
    async with comparer.analytics.connection() as conn:
        for rollup in ROLLUPS:
            span = DAY if rollup.width == "1 day" else HOUR
            row = await (
                await conn.execute(
                    f"SELECT count(*) FROM analytics.{rollup.table} WHERE bucket >= to_timestamp(%s)",
                    (since // span * span,),
                )
            ).fetchone()
            buckets += int(row[0]) if row else 0
        row = await (
            await conn.execute(
                "SELECT processed / extract(epoch FROM ended_at - started_at) FROM analytics.runs "
                "WHERE kind = 'force' AND state = 'succeeded' AND processed > 1000 "
                "AND ended_at > started_at ORDER BY run_id DESC LIMIT 1"
            )
        ).fetchone()
    rate = float(row[0]) if row else FIRST_GUESS_TRADES_PER_SECOND
    return Estimate(trades, buckets, int(trades / rate * 1000))
