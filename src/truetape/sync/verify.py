"""Verify: the rows of both sides against each other, and the rollups against the tape."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from truetape.store import audit, quarantine, state, tape
from truetape.store.apply import LAST_SECOND
from truetape.store.audit import Difference, WrongBucket
from truetape.store.compare import cut
from truetape.store.rollups import WITHIN_DAYS, WITHIN_HOURS
from truetape.sync.reconcile import OnApplied, Reconciler
from truetape.sync.standing import standing
from truetape.tasks import together
from truetape.trade import DAY, HOUR, IMPOSSIBLE, MINUTE, Slice

BATCHES = 2
"""So many batches' worth of trades are verified as one piece of work."""


@dataclass
class Report:
    """What a verification found. Times are Unix seconds, ``duration_ms`` milliseconds."""

    trades_checked: int = 0
    buckets_checked: int = 0
    failed: int = 0
    mismatches: list[Difference] = field(default_factory=list)
    wrong_buckets: list[WrongBucket] = field(default_factory=list)
    duration_ms: int = 0
    repaired: int = 0
    cancelled: bool = False

    @property
    def complete(self) -> bool:
        """True to the tape, trades that are set aside excepted; never claimed of half a look."""
        return not (self.mismatches or self.wrong_buckets or self.cancelled)

    def as_json(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "tradesChecked": self.trades_checked,
            "bucketsChecked": self.buckets_checked,
            "failed": self.failed,
            "mismatches": [
                {
                    "from": d.first,
                    "to": d.last,
                    "sourceTrades": d.source_trades,
                    "analyticsTrades": d.analytics_trades,
                    "kind": d.kind,
                    "trades": d.trades,
                }
                for d in self.mismatches
            ],
            "rollupMismatches": [
                {"rollup": w.rollup, "bucket": w.bucket, "chainId": w.chain_id, "poolId": w.pool_id}
                for w in self.wrong_buckets
            ],
            "repaired": self.repaired,
            "durationMs": self.duration_ms,
        }

    def add(self, found: dict[str, Any]) -> None:
        """What was found of another stretch, as JSON."""
        self.trades_checked += found["tradesChecked"]
        self.buckets_checked += found["bucketsChecked"]
        self.mismatches += [
            Difference(
                m["kind"], m["from"], m["to"], m["trades"], m["sourceTrades"], m["analyticsTrades"]
            )
            for m in found["mismatches"]
        ]
        self.wrong_buckets += [
            WrongBucket(w["rollup"], w["bucket"], w["chainId"], w["poolId"])
            for w in found["rollupMismatches"]
        ]


Stretch = tuple[Slice, tuple[int, int]]
"""A range of the tape, and that of the rollups to hold against it: Unix seconds."""


async def stretches(reconciler: Reconciler, start: int | None, end: int | None) -> list[Stretch]:
    """What to verify, [start, end) or all there is, in parts of whole days that can be checked side by
    side. With all there is go the rollups of times at which there is no trade: somebody's hand."""
    part = _clip(await reconciler.extent(), start, end)
    if part is None:
        return []
    async with reconciler.analytics.connection() as conn:
        days = await tape.days(conn, part)
    ends, trades = [part.start], 0
    for day, count in days:
        if trades and trades + count > BATCHES * reconciler.settings.batch_size:
            ends.append(day)
            trades = 0
        trades += count
    ends.append(part.end)
    everything = start is None and end is None
    if not reconciler.source.shape.timestamp_indexed:
        ends = [part.start, part.end]  # It has to be read whole, so once.
    found: list[Stretch] = []
    for first, last in pairwise(ends):
        from_first = 0 if everything and first == part.start else first
        to_last = LAST_SECOND if everything and last == part.end else last
        rows = sum(n for day, n in days if first <= day < last)
        found.append((Slice(first, last, rows), (from_first, to_last)))
    return found


async def check_stretch(reconciler: Reconciler, part: Slice, rollups: Slice) -> Report:
    """Reads both sides of a stretch. Changes nothing of the analytics."""
    report = Report()
    doubtful: list[Slice] = []
    async for minutes in reconciler.minutes(part, hashed=True, rehash=True, note=False):
        report.trades_checked += sum(m.theirs for m in minutes)
        doubtful += cut(minutes, reconciler.settings.batch_size)
    for doubt in await standing(reconciler, doubtful):
        report.mismatches += doubt.found
    await check_rollups(reconciler, rollups, report)
    return report


async def conclude(
    reconciler: Reconciler, report: Report, *, everything: bool, through: int | None, at: datetime
) -> None:
    """What is left when all stretches are checked: rows without a possible time, and what is set aside;
    if all is well, that it is proven as of ``at``, ``through`` our newest second then."""
    if everything and await reconciler.impossible_differs():
        for doubt in await standing(reconciler, [IMPOSSIBLE]):
            report.mismatches += doubt.found
    async with reconciler.analytics.connection() as conn:
        report.failed = await quarantine.failed(conn)
        if report.complete and everything:
            await state.set_values(conn, verified_through=through, verified_at=at)


def _clip(whole: Slice | None, start: int | None, end: int | None) -> Slice | None:
    if whole is None:
        return None
    first = max(whole.start, (start or 0) // MINUTE * MINUTE)
    last = min(whole.end, -(-end // MINUTE) * MINUTE) if end is not None else whole.end
    return Slice(first, last) if first < last else None


async def check_rollups(
    reconciler: Reconciler,
    part: Slice,
    report: Report,
    *,
    also: Iterable[int] = (),
) -> None:
    """Hours against the tape, days against their hours; only what holds anything is looked at.

    ``also``: hours that hold rows of which no digest or rollup may tell. Hours whose rows are dropped
    have nothing left to be held against.
    """
    sealed_before = (await reconciler.read_state()).sealed_before
    if part.end <= sealed_before:
        return
    part = Slice(max(part.start, sealed_before), part.end)
    days = Slice(part.start // DAY * DAY, -(-part.end // DAY) * DAY)
    async with reconciler.analytics.connection() as conn:
        hours = sorted({*await audit.hours_held(conn, days), *also})
    inside = [h for h in hours if part.start < h + HOUR and h < part.end]
    left = iter(inside)

    async def check_some() -> None:
        for hour in left:
            await _check_hour(reconciler, Slice(hour, hour + HOUR), report)

    await together(check_some() for _ in range(reconciler.settings.concurrency))
    report.wrong_buckets.sort(key=lambda wrong: wrong.bucket)
    for day in sorted({h // DAY * DAY for h in hours}):
        async with reconciler.analytics.connection() as conn:
            for rollup in WITHIN_DAYS:
                count, wrong = await audit.check(conn, rollup, Slice(day, day + DAY))
                report.buckets_checked += count
                report.wrong_buckets += wrong


async def _check_hour(reconciler: Reconciler, hour: Slice, report: Report) -> None:
    async with reconciler.analytics.connection() as conn:
        wrong = await audit.wrong_digests(conn, hour, reconciler.row_hash)
        for rollup in WITHIN_HOURS:
            count, further = await audit.check(conn, rollup, hour)
            report.buckets_checked += count
            wrong += further
    # It may just have been sealed, and its rows be gone.
    if wrong and hour.start >= (await reconciler.read_state()).sealed_before:
        report.wrong_buckets += wrong


async def repair(
    reconciler: Reconciler,
    report: Report,
    on_applied: OnApplied,
    stop: asyncio.Event | None = None,
) -> None:
    """Reconciles what differed row by row and rebuilds the hours it touched from the tape."""
    stop = stop or asyncio.Event()
    sealed_before = (await reconciler.read_state()).sealed_before
    hours = {max(w.bucket // HOUR * HOUR, sealed_before) for w in report.wrong_buckets}
    for difference in report.mismatches:
        if difference.last <= 0:
            await on_applied(IMPOSSIBLE, await reconciler.reconcile(IMPOSSIBLE))
            continue
        if difference.last < sealed_before:
            continue  # Refused for good; the report says so.
        start = difference.first // MINUTE * MINUTE
        end = difference.last // MINUTE * MINUTE + MINUTE
        part = Slice(start, end, difference.source_trades, max(difference.analytics_trades, 1))
        hours.add(start // HOUR * HOUR)
        await on_applied(part, await reconciler.reconcile(part))
        if stop.is_set():
            return
    for hour in sorted(hours):
        await reconciler.rebuild(Slice(hour, hour + HOUR))
        report.repaired += 1
        if stop.is_set():
            return
