"""Ageing: settled detail is dropped, and raw trades, if wanted, once their range is proven and sealed."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from truetape import log
from truetape.store import growth, state, tape
from truetape.sync.reconcile import OnApplied, Reconciler
from truetape.sync.verify import Report, check_rollups
from truetape.trade import DAY, Slice

logger = log.get(__name__)

AT_ONCE_SECONDS = 1.0


async def tidy(reconciler: Reconciler, on_applied: OnApplied, stop: asyncio.Event) -> None:
    """Drops what has become too old; raw trades part by part, each only if all is well with it."""
    settings = reconciler.settings
    now = datetime.now(UTC)
    async with reconciler.analytics.connection() as conn:
        dropped = await growth.drop_log(conn, now - timedelta(days=settings.log_retention_days))
    if dropped:
        logger.info("log.dropped", entries=dropped)
    if settings.tape_retention_days is not None:
        before = int((now - timedelta(days=settings.tape_retention_days)).timestamp())
        began = time.monotonic()
        while await _seal_first(reconciler, before, on_applied, stop):
            if stop.is_set() or time.monotonic() - began > AT_ONCE_SECONDS:
                break  # Reading all of it again at once would be unkind to the source.
    async with reconciler.analytics.connection() as conn:
        await state.set_values(conn, tidied_at=now)


async def _seal_first(
    reconciler: Reconciler, before: int, on_applied: OnApplied, stop: asyncio.Event
) -> bool:
    """Seals the first part that is old enough, if it is settled and true to the source; whether it
    was. What is not is mended, and sealed another time."""
    async with reconciler.analytics.connection() as conn:
        known = await state.read(conn)
        # What can still change stays, however old it is: a source may have stood still for long.
        last = min(before, known.window_from or 0)
        part = await growth.first_part(conn, known.sealed_before, last)
        if part is None or await tape.has_open_ends(conn, besides=None):
            return False
    # Nothing of the source's before it is left behind either.
    extent = await reconciler.extent(known.sealed_before)
    first = part.start if extent is None else min(extent.start, part.start)
    whole = Slice(max(first, known.sealed_before), part.end)
    differs = False
    async for slices, _ in reconciler.differing(whole, hashed=True, rehash=True):
        for piece in slices:
            differs = True
            for bounded in await reconciler.bounded(piece):
                await on_applied(bounded, await reconciler.reconcile(bounded))
    report = Report()
    await check_rollups(reconciler, whole, report)
    if differs or report.wrong_buckets or stop.is_set():
        return False
    async with reconciler.writers.connection() as conn:
        await growth.seal(conn, reconciler.fenced_writer(), part)
    reconciler.sealed_before = part.end
    logger.info("tape.sealed", before=part.end, days=(part.end - part.start) / DAY)
    return True
