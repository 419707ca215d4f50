"""Scrub: all history piece by piece, rows of both sides and rollups against the tape, mended at once."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from truetape import log
from truetape.store import state
from truetape.store.apply import LAST_SECOND
from truetape.store.jobs import forget_scrubs
from truetape.sync.chores import QUIET_FACTOR
from truetape.sync.jobs import BACKGROUND, JobFailedError, Jobs
from truetape.sync.mend import mend, told
from truetape.sync.proof import Proof
from truetape.sync.reconcile import Reconciler
from truetape.sync.verify import Report, check_rollups, repair
from truetape.trade import DAY, HOUR, Slice

if TYPE_CHECKING:
    from truetape.store.queue import Queue

logger = log.get(__name__)

TARGET_SECONDS = 1.0
"""How long a piece of it should take."""
LONGEST_SECONDS = 16 * DAY
PASS_SECONDS = 20.0
"""When it has been through all history it begins anew after so long at the soonest; in a quiet market
``QUIET_FACTOR`` times as long."""


@dataclass
class Scrubbing:
    """Goes through all history, again and again, a piece at a time."""

    reconciler: Reconciler
    queue: "Queue"
    """Where workers take the pieces."""
    proof: Proof
    is_quiet: Callable[[], bool]
    _span: int = HOUR
    _rests_until: float = 0.0
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    async def go_on(self, settled: int) -> None:
        """The next piece. ``settled``: the Unix second from which on rows are left to others."""
        if time.monotonic() < self._rests_until:
            return
        extent = await self.reconciler.extent()
        if extent is None:
            return
        start = await self._start(extent)
        held = await self.reconciler.extent(start)
        if held is not None and held.start > start + self._span:
            # Neither side holds a trade for long: there may be rollups, by somebody's hand.
            await scrub_rollups(self.reconciler, Slice(start, held.start))
            start = held.start // HOUR * HOUR
        end = min(start + self._span, extent.end)
        took: float | None = 0.0
        if start < min(end, settled):
            took = await self._piece(Slice(start, min(end, settled)))
        if took is None:
            return
        if took < TARGET_SECONDS / 2:
            self._span = min(self._span * 2, LONGEST_SECONDS)
        elif took > TARGET_SECONDS:
            self._span = max(self._span // 2 // HOUR * HOUR, HOUR)
        async with self.reconciler.analytics.connection() as conn:
            if end >= extent.end:
                await state.set_values(conn, scrub_from=None, scrub_ended_at=datetime.now(UTC))
                rest = PASS_SECONDS * (QUIET_FACTOR if self.is_quiet() else 1)
                self._rests_until = time.monotonic() + rest
            else:
                await state.set_values(conn, scrub_from=end)

    async def _start(self, extent: Slice) -> int:
        """Where to go on: where it was, or at the beginning, where a new pass begins."""
        async with self.reconciler.analytics.connection() as conn:
            known = await state.read(conn)
            start = max(known.scrub_from or 0, extent.start) // HOUR * HOUR
            if known.scrub_from is not None and start < extent.end:
                return start
            await state.set_values(conn, scrub_started_at=datetime.now(UTC))
        start = extent.start // HOUR * HOUR
        # What stands where there are no trades at all can only be somebody's hand.
        for first, last in ((0, start), (extent.end, LAST_SECOND)):
            if first < last:
                await scrub_rollups(self.reconciler, Slice(first, last))
        return start

    async def _piece(self, part: Slice) -> float | None:
        """Has a worker do it, when there is nothing that somebody waits for; the seconds it took, or None
        where it could not be done just now."""
        epoch = self.reconciler.fenced_writer().lease.epoch
        jobs = Jobs(self.queue, self.reconciler.analytics, epoch, priority=BACKGROUND)
        await jobs.put("scrub", [(part, {"leave_empty": not self.proof.given})])
        try:
            await jobs.wait(self._never)
        except JobFailedError as error:
            logger.warning("scrub.failed", start=part.start, end=part.end, error=str(error))
            return None
        results = await jobs.results()
        async with self.reconciler.analytics.connection() as conn:
            await forget_scrubs(conn, jobs.last)
        return float(results[0]["seconds"])


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
