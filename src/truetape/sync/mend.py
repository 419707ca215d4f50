"""Mending a range: what differs in it is reconciled, slice by slice, and told."""

from truetape import log
from truetape.store.apply import Applied
from truetape.sync.reconcile import Reconciler
from truetape.trade import Slice

logger = log.get(__name__)


async def mend_range(
    reconciler: Reconciler,
    part: Slice,
    *,
    hashed: bool = True,
    rehash: bool = False,
    leave_empty: bool = False,
) -> bool:
    """Whether there was anything to mend. ``hashed`` and ``rehash``: as ``Reconciler.minutes`` has them;
    ``leave_empty``: what we hold nothing of is left to a catch-up that is on its way."""
    differed = False
    async for found, _ in reconciler.differing(part, hashed=hashed, rehash=rehash):
        slices = [s for s in found if s.ours or not leave_empty]
        await mend(reconciler, slices)
        differed = differed or bool(slices)
    return differed


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
