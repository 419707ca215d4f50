"""Working off a run: which ranges it means, and what came of it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from truetape import log, metrics
from truetape.connect import first_line
from truetape.store import jobs, runs, state, tape
from truetape.store.apply import LAST_SECOND, Applied
from truetape.store.compare import Unit, units
from truetape.store.lease import LeaseLostError
from truetape.store.runs import Run
from truetape.sync import verify
from truetape.sync.jobs import Jobs, Wanted
from truetape.sync.reconcile import Reconciler
from truetape.sync.retraction import judge, look_again
from truetape.trade import HOUR, IMPOSSIBLE, MINUTE, ChainPosition, Counts, Slice

if TYPE_CHECKING:
    from truetape.store.queue import Queue

logger = log.get(__name__)

PROGRESS_SECONDS = 0.5


@dataclass
class Task:
    """A run in progress. Slices are jobs, for any worker; what is about one moment is done here."""

    run: Run
    reconciler: Reconciler
    jobs: Jobs
    direct: Counts = field(default_factory=Counts)
    """What was done here."""
    counts: Counts = field(default_factory=Counts)
    """All that was done, as of the last look."""
    expected: int = 0
    """How many trades the jobs are thought to be about."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    told_at: float = 0.0

    async def on_applied(self, part: Slice, applied: Applied) -> None:
        self.direct.add(applied.counts)
        await self.tell()

    async def tell(self, *, now: bool = False) -> None:
        """Writes the progress, not too often; learns whether to stop."""
        if not now and time.monotonic() - self.told_at < PROGRESS_SECONDS:
            return
        self.told_at = time.monotonic()
        standing = await self.jobs.standing()
        self.counts = replace(self.direct)
        self.counts.add(standing.counts)
        share = min(standing.rows / self.expected, 1.0) if self.expected else 0.0
        async with self.reconciler.analytics.connection() as conn:
            if await runs.progress(
                conn, self.run, self.counts, share=share, estimate_ms=self._estimate_ms(share)
            ):
                self.stop.set()

    def _estimate_ms(self, share: float) -> int | None:
        """Milliseconds left, by the rate so far."""
        if not 0 < share < 1:
            return None
        return int((time.monotonic() - self.began) * 1000 * (1 / share - 1))

    async def put(self, kind: str, wanted: list[Wanted]) -> None:
        """Has slices done, by whoever is free."""
        self.expected += sum(max(part.rows, 1) for part, _ in wanted)
        await self.jobs.put(kind, wanted)

    async def wait(self) -> None:
        """Until all that was put is done, or, told to stop, what is under way."""
        await self.jobs.wait(self.stop, self.tell)

    async def reconcile_all(self, slices: list[Slice]) -> None:
        await self.put("slice", [(part, {}) for part in slices])
        await self.wait()

    async def reconcile_found(self, found: AsyncGenerator[list[Slice], None]) -> None:
        """Reconciles what is found while it is: the first trades are in before the last are counted."""
        async with aclosing(found):
            async for slices in found:
                await self.put("slice", [(part, {}) for part in slices])
                await self.tell()
                if self.stop.is_set():
                    break
        await self.wait()


async def work_off(reconciler: Reconciler, queue: "Queue", run: Run) -> None:
    """Does what a run asks for and writes how it ended. Only a lost lease leaves it open."""
    assert run.epoch is not None
    task = Task(run, reconciler, Jobs(queue, reconciler.analytics, run.epoch, run.run_id))
    result: dict[str, Any] | None = None
    # What was put for it before is put anew, as far as it is not done.
    await queue.clear(run.epoch, run.run_id)
    try:
        result = await _KINDS[run.kind](task)
        await task.tell(now=True)
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
        "run.ended", run_id=run.run_id, kind=run.kind, state=ended, processed=task.counts.processed
    )


def _message(run: Run, task: Task) -> str:
    counts = task.counts
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
    retraction = await judge(reconciler, accept=accept)
    positions = retraction.positions
    await retry_pending(task)
    if part := await reconciler.impossible_differs():
        await task.reconcile_all([part])
    extent = await reconciler.extent()
    if extent is not None:
        await _compare_and_apply(task, extent)
    await look_again(reconciler, task.on_applied, task.stop, accept=accept, wait=True)
    if not task.stop.is_set():
        await note_complete(reconciler, began, positions, retraction.window_from, besides=task.run)


async def _compare_and_apply(task: Task, extent: Slice) -> None:
    reconciler = task.reconciler
    async with reconciler.analytics.connection() as conn:
        window = (await state.read(conn)).window_from
        comprehensive = task.run.kind == "comprehensive" or window is None
        since = extent.start if comprehensive else window or 0
        hash_from = min(max(since // MINUTE * MINUTE, extent.start), extent.end)

    async def found() -> AsyncGenerator[list[Slice], None]:
        for start, end, hashed in (
            (extent.start, hash_from, False),
            (hash_from, extent.end, True),
        ):
            if start < end:
                async for slices, compared in reconciler.differing(
                    Slice(start, end), hashed=hashed
                ):
                    task.direct.checked += compared
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
    window_from: datetime,
    *,
    besides: Run | None = None,
) -> bool:
    """Remembers that a snapshot is wholly applied, unless something is known to be open.

    ``positions``: where the chains stood in it; ``window_from``: from when on rows could change then;
    ``besides``: the run that asks, which is still open itself.
    """
    epoch = reconciler.fenced_writer().lease.epoch
    async with reconciler.analytics.connection() as conn:
        if await tape.has_open_ends(conn, besides=besides.run_id if besides else None):
            return False
        await state.set_complete(conn, epoch, at, int(window_from.timestamp()), positions)
        return True


async def _force(task: Task) -> None:
    """Every trade from a time on: compared row by row, and all that they feed rebuilt.

    Some whole hours at a time, each a job. A force that was interrupted goes on with what was not done.
    """
    reconciler, since = task.reconciler, int(task.run.params["from_timestamp"])
    await sync_pools(reconciler)
    await judge(reconciler)
    if part := await reconciler.impossible_differs():
        await task.reconcile_all([part])
    extent = await reconciler.extent()
    if extent is not None:
        start = max(since, extent.start) // HOUR * HOUR
        async with reconciler.analytics.connection() as conn:
            done = await jobs.stretches_done(conn, task.run.run_id, "hours")
        for left in without(start, extent.end, done):
            for unit in await units_of(reconciler, left):
                more = {"pieces": [asdict(piece) for piece in unit.pieces], "since": since}
                await task.put("hours", [(unit.hours, more)])
            await task.tell()
        await task.wait()
    await look_again(reconciler, task.on_applied, task.stop, wait=True)


def without(start: int, end: int, done: list[tuple[int, int]]) -> list[Slice]:
    """What of [start, end) lies in none of some ranges, which are ascending and disjoint."""
    ends = [start, *(second for pair in done for second in pair), end]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return [Slice(max(a, start), min(b, end)) for a, b in pairs if max(a, start) < min(b, end)]


async def units_of(reconciler: Reconciler, part: Slice) -> list[Unit]:
    """The hours of a range in which either side holds trades, grouped for rebuilding."""
    found = [m async for minutes in reconciler.minutes(part) for m in minutes]
    return units(found, reconciler.settings.batch_size)


async def _verify(task: Task) -> dict[str, Any]:
    """Stretch by stretch, each a job; repairs what was found, if that is wanted."""
    reconciler, params = task.reconciler, task.run.params
    start, end = params.get("from"), params.get("to")
    report, everything = verify.Report(), start is None and end is None
    at = datetime.now(UTC)
    async with reconciler.analytics.connection() as conn:
        through = await tape.newest(conn)
    stretches = await verify.stretches(reconciler, start, end)
    await task.put("verify", [(part, {"rollups": rollups}) for part, rollups in stretches])
    await task.wait()
    for found in await task.jobs.results():
        report.add(found)
    if everything and not stretches:
        await verify.check_rollups(reconciler, Slice(0, LAST_SECOND), report)
    report.cancelled = task.stop.is_set()
    await verify.conclude(reconciler, report, everything=everything, through=through, at=at)
    report.duration_ms = int((time.monotonic() - task.began) * 1000)
    if params.get("repair"):
        await verify.repair(reconciler, report, task.on_applied, task.stop)
        await look_again(reconciler, task.on_applied, task.stop, wait=True)
    task.direct.checked = report.trades_checked
    return report.as_json()


_KINDS: dict[str, Callable[[Task], Awaitable[Any]]] = {
    "standard": _sync,
    "comprehensive": _sync,
    "retry": _sync,
    "force": _force,
    "verify": _verify,
}
