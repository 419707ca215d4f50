"""Gaps: where the two sides differ right now, with times and counts."""

from dataclasses import dataclass

from truetape.store import tape
from truetape.sync.reconcile import Reconciler
from truetape.sync.verify import details
from truetape.trade import MINUTE, Slice


@dataclass
class Gap:
    """Trades missing here, or here in excess, from the first to the last of them (Unix seconds)."""

    first: int
    last: int
    missing: int
    extra: int
    kind: str = "middle"


async def gaps(reconciler: Reconciler) -> list[Gap]:
    """Compares all history by digest and the differing minutes row by row."""
    extent = await reconciler.extent()
    if extent is None:
        return []
    found: list[Gap] = []
    last_equal = -1
    async for minutes in reconciler.minutes(extent, hashed=True):
        for minute in minutes:
            if not minute.differs:
                last_equal = minute.start
                continue
            part = Slice(
                minute.start, minute.start + MINUTE, minute.theirs, minute.ours, minute.pages
            )
            gap = (
                await _whole(reconciler, part)
                if minute.ours == 0
                else await _within(reconciler, part)
            )
            if gap is None:
                continue
            if found and last_equal < found[-1].first // MINUTE * MINUTE:
                previous = found[-1]
                previous.last = gap.last
                previous.missing += gap.missing
                previous.extra += gap.extra
            else:
                found.append(gap)
    await _name(reconciler, found)
    return found


async def _whole(reconciler: Reconciler, part: Slice) -> Gap | None:
    """A minute of which we hold nothing."""
    async with reconciler.source.look() as look:
        seconds = await look.seconds(part)
    if not seconds:
        return None
    return Gap(seconds[0][0], seconds[-1][0], sum(n for _, n in seconds), 0)


async def _within(reconciler: Reconciler, part: Slice) -> Gap | None:
    found = await details(reconciler, part)
    if not found:
        return None
    changed = sum(d.trades for d in found if d.kind == "changed")
    return Gap(
        min(d.first for d in found),
        max(d.last for d in found),
        changed + sum(d.trades for d in found if d.kind == "missing"),
        changed + sum(d.trades for d in found if d.kind == "extra"),
    )


async def _name(reconciler: Reconciler, found: list[Gap]) -> None:
    """Head: before all that we hold; tail: after it; else middle."""
    async with reconciler.writers.connection() as conn:
        oldest, newest = await tape.oldest(conn), await tape.newest(conn)
    for gap in found:
        if newest is None or gap.first > newest:
            gap.kind = "tail"
        elif oldest is not None and gap.last < oldest:
            gap.kind = "head"
