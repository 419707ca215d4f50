"""What differs between the two sides, row by row, and still does when looked at again.

Trades arrive while we look. A difference counts only if every look sees it: a verifier that races
is worse than none.
"""

import asyncio
from dataclasses import dataclass

from truetape.store import audit, compare, lease, state
from truetape.store.apply import SQL as APPLY_SQL
from truetape.store.apply import Connection, copy_in
from truetape.store.audit import Difference
from truetape.sync.compare import Comparer
from truetape.trade import MINUTE, Slice

WAITS_SECONDS: tuple[float, ...] = (0.5,)
WAITS_BESIDE_A_FOLLOWER_SECONDS: tuple[float, ...] = (0.5, 1.0, 2.0)
"""A follower may be just about to take in what is missing: it is given more time."""


@dataclass
class Doubt:
    """A slice that seemed to differ, and what of it still stands."""

    part: Slice
    found: list[Difference]


async def standing(comparer: Comparer, slices: list[Slice]) -> list[Doubt]:
    """Looks at slices again and again; those in which nothing stands are left out."""
    doubts = [Doubt(part, []) for part in slices]
    if not doubts:
        return []
    async with comparer.analytics.connection() as conn:
        await conn.set_autocommit(True)
        try:
            await audit.begin_doubting(conn)
            doubts = await _look(comparer, conn, doubts, first=True)
            following = await lease.is_following(conn)
            for wait in WAITS_BESIDE_A_FOLLOWER_SECONDS if following else WAITS_SECONDS:
                if not doubts:
                    break
                await asyncio.sleep(wait)
                doubts = await _look(comparer, conn, doubts, first=False)
        finally:
            await conn.set_autocommit(False)
    return doubts


async def _look(
    comparer: Comparer, conn: Connection, doubts: list[Doubt], *, first: bool
) -> list[Doubt]:
    left: list[Doubt] = []
    sealed_before = (await state.read(conn)).sealed_before  # It may just have been.
    for doubt in doubts:
        part = doubt.part
        if part.end <= sealed_before and not part.impossible:
            doubt.found = await _by_digest(comparer, part)
        elif part.ours == 0 and not part.impossible:
            if await compare.count_ours(conn, part) == 0:
                doubt.found = await _all_missing(comparer, part)
            else:
                # Somebody is filling it: from here on it is looked at like any other.
                doubt.part = Slice(part.start, part.end, part.rows, 1, part.blocks)
                doubt.found = await _rows(comparer, conn, doubt.part, first=True)
        else:
            doubt.found = await _rows(comparer, conn, part, first=first)
        if doubt.found:
            left.append(doubt)
    return left


async def _by_digest(comparer: Comparer, part: Slice) -> list[Difference]:
    """Where rows are dropped: the minutes whose digests differ, and by how many trades at least."""
    found = [
        m async for minutes in comparer.minutes(part, hashed=True, note=False) for m in minutes
    ]
    return [
        Difference(
            "missing" if m.theirs > m.ours else "extra" if m.theirs < m.ours else "changed",
            m.start, m.start + MINUTE - 1, max(abs(m.theirs - m.ours), 1), m.theirs, m.ours,
        )
        for m in found if m.differs
    ]  # fmt: skip


async def _rows(
    comparer: Comparer, conn: Connection, part: Slice, *, first: bool
) -> list[Difference]:
    async with conn.transaction():
        async with comparer.source.look(part.rows) as look:
            await copy_in(conn, APPLY_SQL["copy_to_batch"], look.all_rows(part))
        return await audit.differences(conn, part, comparer.row_hash, first=first)


async def _all_missing(comparer: Comparer, part: Slice) -> list[Difference]:
    """A slice of which we hold nothing needs no row by row."""
    async with comparer.source.look(part.rows) as look:
        seconds = await look.seconds(part)
    if not seconds:
        return []
    count = sum(n for _, n in seconds)
    return [Difference("missing", seconds[0][0], seconds[-1][0], count, count, 0)]
