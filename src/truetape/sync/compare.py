"""Comparing: what the two sides hold of a range, minute by minute, and where they differ."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
import stamina
from psycopg_pool import AsyncConnectionPool

from truetape.connect import at_once
from truetape.settings import Settings
from truetape.source import Source
from truetape.store import compare, state, tape
from truetape.store.compare import Minute
from truetape.tasks import cancel
from truetape.trade import DAY, IMPOSSIBLE, MINUTE, ChainPosition, HashMethod, Slice

SURVEY_TARGET_SECONDS = 0.25
"""A survey of the source is cut so that one snapshot lasts about this long."""
COUNTED_FACTOR = 4
"""By what a survey by chains takes longer than one that only counts, by an index."""
FIRST_SURVEY_SECONDS = 600
LONGEST_SURVEY_SECONDS = 64 * DAY
FIRST_SURVEY_PAGES = 2_000


@dataclass
class Retraction:
    """Whether what vanished may be retracted now, and from when on after only a second."""

    allowed: bool
    window_from: datetime
    positions: list[ChainPosition] = field(default_factory=list)
    """Where the chains stood when this was judged."""

    @property
    def retract_from(self) -> datetime | None:
        return self.window_from if self.allowed else None


@dataclass(kw_only=True)
class Comparer:
    """Compares ranges of both sides, in short snapshots."""

    source: Source
    analytics: AsyncConnectionPool
    """Connections for comparing, and for all that is asked and noted beside."""
    settings: Settings
    hash_method: HashMethod
    retraction: Retraction | None = None
    """As it was judged last."""
    sealed_before: int = 0
    """Unix second before which raw trades are dropped, as it was read last."""

    @property
    def repairs_unpaired(self) -> bool:
        return self.source.shape.pairs_fills

    @property
    def row_hash(self) -> str:
        """SQL of a tape row's hash."""
        return self.hash_method.expression(with_traders=bool(self.source.shape.trader_columns))

    async def extent(self, since: int = 0) -> Slice | None:
        """From the first to the last trade that either side holds or was thought to lack; whole
        minutes, from that of ``since`` on."""
        since = since // MINUTE * MINUTE
        async with self.source.look() as look:
            theirs = await look.extent(max(since, 1))
        async with at_once(self.analytics) as conn:
            ours = await tape.extent(conn, since)
        ends = [e for e in (theirs, ours) if e is not None]
        if not ends:
            return None
        first, last = min(e[0] for e in ends), max(e[1] for e in ends)
        return Slice(first // MINUTE * MINUTE, last // MINUTE * MINUTE + MINUTE)

    async def differing(
        self, part: Slice, *, hashed: bool, rehash: bool = False
    ) -> AsyncIterator[tuple[list[Slice], int]]:
        """What has to be looked at in a range, survey by survey: (slices, trades compared). What is
        sealed is compared, too, and what differs there noted; there is nothing to be done about it."""
        async for found in self.minutes(part, hashed=hashed, rehash=rehash):
            open_ones = [m for m in found if m.start >= self.sealed_before]
            yield compare.cut(open_ones, self.settings.batch_size), sum(m.theirs for m in found)

    async def minutes(
        self, part: Slice, *, hashed: bool = False, rehash: bool = False, note: bool = True
    ) -> AsyncIterator[list[Minute]]:
        """Minute by minute what the two sides hold, in short snapshots, ascending.

        ``hashed``: digests, not only counts; ``rehash``: ours computed from the rows, not the
        stored ones; ``note``: what differs is remembered for health. Where the rows are dropped the
        stored digests are all there is.
        """
        known = await self.read_state()
        for piece in _cut_at(part, known.counted_before, known.sealed_before):
            how = {
                "hashed": hashed and piece.start >= known.counted_before,
                "rehash": rehash and piece.start >= known.sealed_before,
                "note": note,
            }
            async for found in self._minutes(piece, how):
                yield found

    async def _minutes(self, part: Slice, how: dict[str, bool]) -> AsyncIterator[list[Minute]]:
        if not self.source.shape.timestamp_indexed and self.source.shape.has_pages:
            yield await self._by_pages(part, how)
            return
        async for found in self._by_spans(part, how):
            yield found

    async def _by_spans(self, part: Slice, how: dict[str, bool]) -> AsyncIterator[list[Minute]]:
        """Span by span; while our side reckons with one, the source is asked for the next."""
        start, span = part.start, FIRST_SURVEY_SECONDS
        comparing: list[asyncio.Task[list[Minute]]] = []
        try:
            while start < part.end:
                piece, surveyed = Slice(start, min(start + span, part.end)), asyncio.Event()
                held = await self._holds_any(piece)
                began = time.monotonic()
                comparing.append(
                    asyncio.create_task(self._compare(piece, [piece], surveyed, held, **how))
                )
                await _either(surveyed, comparing[-1])
                # The next may be one that we hold some of.
                took = (time.monotonic() - began) * (1 if held else COUNTED_FACTOR)
                start = piece.end
                if took < SURVEY_TARGET_SECONDS / 2:
                    span = min(span * 2, LONGEST_SURVEY_SECONDS)
                elif took > SURVEY_TARGET_SECONDS * 2:
                    span = max(span // 2 // MINUTE * MINUTE, MINUTE)
                if len(comparing) > 1 or start >= part.end:
                    yield await comparing.pop(0)
            for last in comparing:
                yield await last
        finally:
            await cancel(comparing)

    async def read_state(self) -> state.State:
        """What the analytics know of themselves; where they are sealed is remembered."""
        async with at_once(self.analytics) as conn:
            known = await state.read(conn)
        self.sealed_before = known.sealed_before
        return known

    async def _by_pages(self, part: Slice, how: dict[str, bool]) -> list[Minute]:
        """Without an index on the timestamp: once through the table, page range by page range."""
        async with self.source.look() as look:
            pages = await look.pages()
        step = FIRST_SURVEY_PAGES
        pieces = [
            Slice(part.start, part.end, blocks=(first, min(first + step, pages) - 1))
            for first in range(0, pages, step)
        ]
        held = await self._holds_any(part)
        return await self._compare(part, pieces, asyncio.Event(), held, **how)

    async def _holds_any(self, part: Slice) -> bool:
        async with at_once(self.analytics) as conn:
            return await compare.holds_any(conn, part)

    @stamina.retry(on=psycopg.errors.DeadlockDetected, attempts=5, wait_initial=0.01)
    async def _compare(
        self, part: Slice, pieces: list[Slice], surveyed: asyncio.Event, held: bool,
        *, hashed: bool, rehash: bool, note: bool,
    ) -> list[Minute]:  # fmt: skip
        """Two at once over one range may note the same minutes in another order. ``surveyed`` is set as
        soon as the source has told all. Where we have not ``held`` anything there is nothing to compare with:
        counting is enough."""
        async with self.analytics.connection() as conn, conn.transaction():
            while True:
                for piece in pieces:
                    async with self.source.look() as look:
                        found = look.survey(piece, hashed=hashed) if held else look.counts(piece)
                        await compare.take_in(conn, found)
                surveyed.set()
                minutes = await compare.compare(
                    conn, part, hashed=hashed and held, by_chain=held,
                    paged=pieces[0].blocks is not None,
                    repair_unpaired=self.repairs_unpaired and self._in_window(part),
                    rehash=self.row_hash if rehash else None, note=note,
                )  # fmt: skip
                if held or not any(m.ours for m in minutes):
                    return minutes
                held = True  # Others have taken some in meanwhile.
                await compare.forget_survey(conn)

    def _in_window(self, part: Slice) -> bool:
        return self.retraction is not None and state.utc(part.end) >= self.retraction.window_from

    async def impossible_differs(self) -> Slice | None:
        """The rows with impossible timestamps, if the two sides differ there."""
        async with self.analytics.connection() as conn, conn.transaction():
            async with self.source.look() as look:
                await compare.take_in(conn, look.survey(IMPOSSIBLE, hashed=True))
            return await compare.impossible(conn)


async def _either(event: asyncio.Event, task: asyncio.Task[Any]) -> None:
    """Waits for what comes first."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _cut_at(part: Slice, *seconds: int) -> list[Slice]:
    """The pieces of a range between some of its seconds."""
    ends = sorted({part.start, part.end, *(s for s in seconds if part.start < s < part.end)})
    return [replace(part, start=a, end=b) for a, b in pairwise(ends)]
