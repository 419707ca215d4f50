"""Gaps: where the two sides differ right now, with times and counts."""

from bisect import bisect_left
from dataclasses import dataclass

from truetape.store import tape
from truetape.store.audit import Difference
from truetape.store.compare import Minute, cut
from truetape.sync.compare import Comparer
from truetape.sync.standing import standing
from truetape.trade import Slice


@dataclass
class Gap:
    """Trades missing here, or here in excess, from the first to the last of them (Unix seconds)."""

    first: int
    last: int
    missing: int
    extra: int
    kind: str = "middle"


async def gaps(comparer: Comparer) -> list[Gap]:
    """Compares all history by digest and what differs row by row, twice."""
    extent = await comparer.extent()
    if extent is None:
        return []
    doubtful: list[Slice] = []
    equal: list[int] = []
    async for minutes in comparer.minutes(extent, hashed=True):
        doubtful += cut(minutes, comparer.settings.batch_size)
        equal += _last_equal_ones(minutes)
    found: list[Gap] = []
    end = 0
    for doubt in await standing(comparer, doubtful):
        gap = _gap(doubt.found)
        between = bisect_left(equal, end) < bisect_left(equal, doubt.part.start)
        if found and not between:
            previous = found[-1]
            previous.last = gap.last
            previous.missing += gap.missing
            previous.extra += gap.extra
        else:
            found.append(gap)
        end = doubt.part.end
    await _name(comparer, found)
    return found


def _last_equal_ones(minutes: list[Minute]) -> list[int]:
    """Of each stretch of minutes that are the same on both sides, the last: it parts two gaps."""
    following = [*minutes[1:], None]
    return [
        minute.start
        for minute, after in zip(minutes, following, strict=True)
        if not minute.differs and (after is None or after.differs)
    ]


def _gap(found: list[Difference]) -> Gap:
    changed = sum(d.trades for d in found if d.kind == "changed")
    return Gap(
        min(d.first for d in found),
        max(d.last for d in found),
        changed + sum(d.trades for d in found if d.kind == "missing"),
        changed + sum(d.trades for d in found if d.kind == "extra"),
    )


async def _name(comparer: Comparer, found: list[Gap]) -> None:
    """Head: before all that we hold; tail: after it; else middle."""
    async with comparer.analytics.connection() as conn:
        oldest, newest = await tape.oldest(conn), await tape.newest(conn)
    for gap in found:
        if newest is None or gap.first > newest:
            gap.kind = "tail"
        elif oldest is not None and gap.last < oldest:
            gap.kind = "head"
