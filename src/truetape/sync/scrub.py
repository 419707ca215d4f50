"""Scrub: a piece of all history, rows of both sides and rollups against the tape, mended at once."""

from collections.abc import Iterable

from truetape import log
from truetape.store.apply import Applied
from truetape.sync.reconcile import Reconciler
from truetape.sync.verify import Report, check_rollups, repair
from truetape.trade import HOUR, Slice

logger = log.get(__name__)


async def scrub(reconciler: Reconciler, part: Slice, *, leave_empty: bool) -> None:
    """``leave_empty``: what we hold nothing of is left to a catch-up that is on its way."""
    hours: set[int] = set()
    async for slices, _ in reconciler.differing(part, hashed=True, rehash=True):
        found = [s for s in slices if s.ours or not leave_empty]
        await mend(reconciler, found)
        for piece in found:
            hours.update(range(piece.start // HOUR * HOUR, piece.end, HOUR))
    await scrub_rollups(reconciler, part, hours)


async def scrub_rollups(reconciler: Reconciler, part: Slice, also: Iterable[int] = ()) -> None:
    """Rollups and digests against the tape; ``also``: hours that hold rows of which none of them tells."""
    report = Report()
    await check_rollups(reconciler, part, report, also=also)
    if report.wrong_buckets:
        logger.warning("scrub.repaired", buckets=len(report.wrong_buckets))
        await repair(reconciler, report, told)


async def mend(reconciler: Reconciler, slices: list[Slice]) -> None:
    """Reconciles slices one after the other, as following does."""
    for piece in slices:
        for bounded in await reconciler.bounded(piece):
            await told(bounded, await reconciler.reconcile(bounded))


async def told(part: Slice, applied: Applied) -> None:
    """Logs what a batch brought, if it did."""
    if applied.counts.total:
        logger.info(
            "batch.committed", start=part.start, end=part.end,
            processed=applied.counts.processed, errors=applied.counts.errors,
        )  # fmt: skip
