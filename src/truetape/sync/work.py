"""Working off a run: which ranges it means, and what came of it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from truetape import log, metrics
from truetape.connect import first_line
from truetape.store import runs, state, tape
from truetape.store.apply import Applied
from truetape.store.compare import Unit, units
from truetape.store.lease import LeaseLostError
from truetape.store.runs import Run
from truetape.sync import verify
from truetape.sync.reconcile import Reconciler, Tally
from truetape.sync.retraction import judge, look_again
from truetape.trade import HOUR, IMPOSSIBLE, MINUTE, ChainPosition, Counts, Slice

logger = log.get(__name__)

PROGRESS_SECONDS = 0.5


@dataclass
class Task:
    """A run in progress."""

    run: Run
    reconciler: Reconciler
    tally: Tally = field(default_factory=Tally)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    told_at: float = 0.0

    async def on_applied(self, part: Slice, applied: Applied) -> None:
        self.tally.counts.add(applied.counts)
        self.tally.done += max(part.rows, 1)
        await self.tell()

    async def tell(self, *, now: bool = False) -> None:
        """Writes the progress, not too often; learns whether to stop."""
        if not now and time.monotonic() - self.told_at < PROGRESS_SECONDS:
            return
        self.told_at = time.monotonic()
        async with self.reconciler.analytics.connection() as conn:
            if await runs.progress(
                conn, self.run, self.tally.counts,
                share=self.tally.share, estimate_ms=self.tally.estimate_ms,
            ):  # fmt: skip
                self.stop.set()

    async def reconcile_all(self, slices: list[Slice]) -> None:
        async def known() -> AsyncGenerator[list[Slice], None]:
            yield slices

        if slices:
            await self.reconcile_found(known())

    async def reconcile_found(self, found: AsyncGenerator[list[Slice], None]) -> None:
        """Reconciles what is found while it is: the first trades are in before the last are counted."""

        async def told() -> AsyncGenerator[list[Slice], None]:
            async with aclosing(found):
                async for slices in found:
                    self.tally.expected += sum(max(s.rows, 1) for s in slices)
                    await self.tell()
                    yield slices

        await self.reconciler.reconcile_all(told(), self.on_applied, stop=self.stop)


async def work_off(reconciler: Reconciler, run: Run) -> None:
    """Does what a run asks for and writes how it ended. Only a lost lease leaves it open."""
    task = Task(run, reconciler)
    result: dict[str, Any] | None = None
    try:
        result = await _KINDS[run.kind](task)
        ended = "cancelled" if task.stop.is_set() else "succeeded"
        message = _message(run, task)
    except LeaseLostError:
        raise
    except Exception as error:
        ended, message = "failed", first_line(error)
        logger.error("run.failed", run_id=run.run_id, error=message)
    await task.tell(now=True)
    async with reconciler.analytics.connection() as conn:
        await runs.finish(conn, run, ended, message, result)
    metrics.RUNS.labels(run.kind, ended).inc()
    logger.info(
        "run.ended", run_id=run.run_id, kind=run.kind, state=ended,
        processed=task.tally.counts.processed,
    )  # fmt: skip


def _message(run: Run, task: Task) -> str:
    counts = task.tally.counts
    if run.kind == "verify":
        return "The comparison has ended."
    if task.stop.is_set():
        return f"Cancelled after {counts.processed} trades; what was done stays done."
    if counts.total == 0:
        return "Nothing was missing: the analytics are complete."
    text = f"Processed {counts.processed} of {counts.total} trades"
    return f"{text}; {counts.errors} could not be processed." if counts.errors else f"{text}."


async def _sync(task: Task) -> None:
    """Everything that is missing, changed or vanished.

    Standard: counts over all history, digests over what could still change. Comprehensive: digests
    over all history.
    """
    reconciler, params = task.reconciler, task.run.params
    accept = bool(params.get("accept_deletions"))
    async with reconciler.source.look() as look:
        began, positions = look.at, await look.positions()
    await sync_pools(reconciler)
    positions = (await judge(reconciler, accept=accept)).positions
    await retry_pending(task)
    if part := await reconciler.impossible_differs():
        await task.reconcile_all([part])
    extent = await reconciler.extent()
    if extent is not None:
        await _compare_and_apply(task, extent)
    await look_again(reconciler, task.on_applied, task.stop, accept=accept, wait=True)
    if not task.stop.is_set():
        await note_complete(reconciler, began, positions, besides=task.run)


async def _compare_and_apply(task: Task, extent: Slice) -> None:
    reconciler = task.reconciler
    async with reconciler.analytics.connection() as conn:
        window = (await state.read(conn)).window_from
        comprehensive = task.run.kind == "comprehensive" or window is None
        since = extent.start if comprehensive else window or 0
        hash_from = min(max(since // MINUTE * MINUTE, extent.start), extent.end)
        parts = [(extent.start, hash_from, False)]
        # Where we hold nothing there is nothing to compare with: counting is enough.
        if hash_from < extent.end:
            for held in await tape.held_stretches(conn, Slice(hash_from, extent.end)):
                parts += [(parts[-1][1], held.start, False), (held.start, held.end, True)]
    parts.append((parts[-1][1], extent.end, False))

    async def found() -> AsyncGenerator[list[Slice], None]:
        for start, end, hashed in parts:
            if start < end:
                async for slices, compared in reconciler.differing(
                    Slice(start, end), hashed=hashed
                ):
                    task.tally.counts.checked += compared
                    yield slices

    await task.reconcile_found(found())


async def retry_pending(task: Task) -> None:
    """Quarantined rows that somebody put back: looked at where they stood and where they stand."""
    reconciler = task.reconciler
    async with reconciler.analytics.connection() as conn:
        ids, slices, impossible = await tape.pending(conn)
    if ids:
        async with reconciler.source.look() as look:
            seconds, horizon = await look.find(ids), look.horizon
        known = {s.start for s in slices}
        slices += [
            Slice(s, s + 1, 1, 1)
            for s in sorted({s for s in seconds if s is not None})
            if max(reconciler.sealed_before, 1) <= s <= horizon and s not in known
        ]
    if impossible:
        slices.append(IMPOSSIBLE)
    if slices:
        logger.info("trade.retry", count=len(ids))
    await task.reconcile_all(slices)


async def sync_pools(reconciler: Reconciler) -> None:
    async with reconciler.source.look() as look:
        pools = await look.pools()
    async with reconciler.analytics.connection() as conn:
        if changed := await tape.put_pools(conn, pools):
            logger.info("pools.updated", count=changed)


async def note_complete(
    reconciler: Reconciler,
    at: datetime,
    positions: list[ChainPosition],
    *,
    besides: Run | None = None,
) -> bool:
    """Remembers that a snapshot is wholly applied, unless something is known to be open.

    ``positions``: where the chains stood in it.

    ``besides``: the run that asks, which is still open itself.
    """
    async with reconciler.analytics.connection() as conn:
        if await tape.has_open_ends(conn, besides=besides.run_id if besides else None):
            return False
        window = reconciler.retraction.window_from if reconciler.retraction else at
        await state.set_complete(conn, at, int(window.timestamp()), positions)
        return True


async def _force(task: Task) -> None:
    """Every trade from a time on: compared row by row, and all that they feed rebuilt.

    Some whole hours at a time: their rows first, in batches, then their rollups in one transaction,
    so that readers see an hour as it was or as it becomes. A force that was interrupted goes on
    behind the last hours that were done.
    """
    reconciler, params = task.reconciler, task.run.params
    since = int(params["from_timestamp"])
    await sync_pools(reconciler)
    await judge(reconciler)
    if part := await reconciler.impossible_differs():
        await task.reconcile_all([part])
    extent = await reconciler.extent()
    if extent is not None:
        start = max(since, extent.start, int(params.get("done_through", 0))) // HOUR * HOUR
        if start < extent.end:
            units = await units_of(reconciler, Slice(start, extent.end))
            task.tally.expected = sum(u.hours.rows for u in units)
            for unit in units:
                if task.stop.is_set():
                    return
                await _force_unit(task, unit, since)
    await look_again(reconciler, task.on_applied, task.stop, wait=True)


async def units_of(reconciler: Reconciler, part: Slice) -> list[Unit]:
    """The hours of a range in which either side holds trades, grouped for rebuilding."""
    found = [m async for minutes in reconciler.minutes(part) for m in minutes]
    return units(found, reconciler.settings.batch_size)


async def _force_unit(task: Task, unit: Unit, since: int) -> None:
    reconciler = task.reconciler
    done = Counts()
    for piece in unit.pieces:
        for bounded in await reconciler.bounded(replace(piece, ours=max(piece.ours, 1))):
            done.add((await reconciler.reconcile(bounded)).counts)
    await reconciler.rebuild(unit.hours)
    async with reconciler.analytics.connection() as conn:
        first = max(since, unit.hours.start)
        there = await tape.count(conn, first, unit.hours.end) if first < unit.hours.end else 0
        await runs.note(conn, task.run, done_through=unit.hours.end)
    done.reprocessed = max(there - done.inserted - done.changed, 0)
    task.tally.counts.add(done)
    task.tally.done += unit.hours.rows
    logger.info("slice.rebuilt", start=unit.hours.start, end=unit.hours.end, trades=there)
    await task.tell()


async def _verify(task: Task) -> dict[str, Any]:
    report = await verify.verify(
        task.reconciler,
        start=task.run.params.get("from"),
        end=task.run.params.get("to"),
        stop=task.stop,
        tell=lambda share: _tell_share(task, share),
    )
    if task.run.params.get("repair"):
        await verify.repair(task.reconciler, report, task.on_applied, task.stop)
        await look_again(task.reconciler, task.on_applied, task.stop, wait=True)
    task.tally.counts.checked = report.trades_checked
    return report.as_json()


async def _tell_share(task: Task, share: float) -> None:
    task.tally.expected, task.tally.done = 1000, int(share * 1000)
    await task.tell()


_KINDS: dict[str, Callable[[Task], Awaitable[Any]]] = {
    "standard": _sync,
    "comprehensive": _sync,
    "retry": _sync,
    "force": _force,
    "verify": _verify,
}
