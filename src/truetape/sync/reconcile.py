"""The one primitive: make a range of our tape equal to the source's, and what it feeds with it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import psycopg
import stamina
from psycopg_pool import AsyncConnectionPool

from truetape import log, metrics
from truetape.connect import at_once, first_line, is_transient
from truetape.settings import Settings
from truetape.source import Source
from truetape.source.look import Second
from truetape.source.newest import Tail
from truetape.store import apply as store_apply
from truetape.store import compare, fresh, jobs, state, tape
from truetape.store.apply import Applied, NotEmptyError, SealedError, Writer
from truetape.store.careful import apply_carefully
from truetape.store.compare import Minute
from truetape.store.jobs import Ticket
from truetape.store.lease import Lease, LeaseLostError
from truetape.store.outbox import Teller
from truetape.tasks import cancel
from truetape.trade import (
    DAY,
    IMPOSSIBLE,
    MINUTE,
    ChainPosition,
    Counts,
    FewRows,
    HashMethod,
    Slice,
)

logger = log.get(__name__)

SURVEY_TARGET_SECONDS = 0.25
"""A survey of the source is cut so that one snapshot lasts about this long."""
COUNTED_FACTOR = 4
"""By what a survey by chains takes longer than one that only counts, by an index."""
LOOK_TARGET_SECONDS = 0.25
GLANCE_SECONDS = 0.002
"""How long to wait between looks for what was announced."""
FIRST_ROWS = 10_000
LEAST_ROWS = 1_000
"""Reading a batch should not take longer: Ponder's reorgs wait for whoever reads. Nor is less than
``LEAST_ROWS`` worth a snapshot."""
FIRST_SURVEY_SECONDS = 600
LONGEST_SURVEY_SECONDS = 64 * DAY
FIRST_SURVEY_PAGES = 2_000

OnApplied = Callable[[Slice, Applied], Awaitable[None]]


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


@dataclass
class Pace:
    """At which batches are read, as of late."""

    rows_per_second: float | None = None

    def note(self, rows: int, seconds: float) -> None:
        if rows >= LEAST_ROWS and seconds > 0:
            pace, before = rows / seconds, self.rows_per_second
            self.rows_per_second = pace if before is None else (2 * before + pace) / 3


@dataclass
class Reconciler:
    """Moves ranges of the tape. Knows nothing of when or why."""

    source: Source
    analytics: AsyncConnectionPool
    """Connections for comparing, and for all that is asked and noted beside."""
    writers: AsyncConnectionPool
    """Connections for what moves the tape."""
    settings: Settings
    hash_method: HashMethod
    live: AsyncConnectionPool | None = None
    """A connection for what ``take_fresh`` takes in; without one all goes the long way."""
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set after each transaction of ours that may have something to tell."""
    writer: Writer | None = None
    """Set while this process leads."""
    teller: Teller | None = None
    """Who publishes what ``take_fresh`` takes in; set while this process leads, too."""
    retraction: Retraction | None = None
    """As it was judged last."""
    sealed_before: int = 0
    """Unix second before which raw trades are dropped, as it was read last."""
    pace: Pace = field(default_factory=Pace)

    def fenced_writer(self, *, durable: bool = True, ends: bool = True) -> Writer:
        """What a transaction needs to write while this process leads, or the leader it works for does,
        and only then. ``ends``: whether it is the last of its job, if it has one."""
        if self.writer is None:
            raise LeaseLostError("This process does not lead the sync.")
        writer = replace(self.writer, durable=durable)
        return writer if ends else writer.going_on()

    def working_for(self, epoch: int, ticket: Ticket | None) -> "Reconciler":
        """The same, writing for the leader of an epoch, on the account of a job."""
        return replace(self, writer=Writer(Lease("", epoch), self.row_hash, ticket=ticket))

    @property
    def repairs_unpaired(self) -> bool:
        return self.source.shape.pairs_fills

    # -- one slice ---------------------------------------------------------------------------

    async def reconcile(
        self,
        part: Slice,
        *,
        durable: bool = True,
        retraction: Retraction | None = None,
        pieces: Sequence[Slice] = (),
        ends: bool = True,
    ) -> Applied:
        """Applies one slice. Faults that may pass are tried again; a refused row is set aside.

        What has vanished is only noted, unless there is a ``retraction`` that allows more. ``pieces``:
        what the slice is cut into for reading, where it is more than can be read at once. ``ends``:
        whether the job that this is done for, if it is for one, is done with it.
        """
        async for attempt in stamina.retry_context(
            on=is_transient,
            attempts=self.settings.max_attempts,
            timeout=None,
            wait_initial=1.0,
            wait_max=30.0,
            wait_jitter=1.0,
        ):
            with attempt:
                if attempt.num > 1:
                    logger.warning(
                        "trade.retry", attempt=attempt.num, start=part.start, end=part.end
                    )
                with metrics.BATCH_SECONDS.time():
                    writer = self.fenced_writer(durable=durable, ends=ends)
                    applied = await self._apply(part, writer, retraction, pieces or (part,))
                self.committed.set()
        _count(applied.counts)
        self.pace.note(applied.counts.checked, applied.look_seconds)
        if applied.strays:
            await self._follow_strays(applied)
            if ends and self.writer is not None and self.writer.ticket is not None:
                async with self.analytics.connection() as conn:
                    await jobs.note(conn, self.writer.ticket, Counts())
        return applied

    @property
    def _rows_at_once(self) -> int:
        """How many rows to read in one snapshot: a batch, or what can be read in good time. Where reading
        is capped, no more than a second's: the cap is waited for inside the transaction."""
        cap = self.settings.max_rows_per_second
        if cap is not None:
            return min(self.settings.batch_size, cap, LEAST_ROWS)
        if self.pace.rows_per_second is None:
            return min(self.settings.batch_size, FIRST_ROWS)
        in_time = max(int(self.pace.rows_per_second * LOOK_TARGET_SECONDS), LEAST_ROWS)
        return min(self.settings.batch_size, in_time)

    async def take_fresh(self, part: Slice, positions: list[ChainPosition]) -> Applied:
        """As ``reconcile``, and quicker where a slice brings some new trades and nothing else.

        ``positions``: where the chains were when the slice was seen.
        """
        if part.rows <= fresh.MAX_ROWS:
            added = await self._add(part, partial(self.source.newest.few_rows, part, positions))
            if added is not None:
                return added
        return await self.reconcile(part)

    async def take_news(
        self, since: int, known: Second | None, patience: float = 0.0
    ) -> tuple[Tail, Applied | None]:
        """Looks at the tail from a second on, and takes in what it shows in the same snapshot, where that
        is some new trades behind that second and nothing else; None where it is not taken in.

        ``known``: the trades of that second that we know of. ``patience``: for so many seconds it looks
        again and again for what was announced, all being ready to take it in.
        """
        part, tail = Slice(since + 1, since + 1 + MINUTE), None

        async def read() -> FewRows | None:
            nonlocal tail
            until = time.monotonic() + patience
            while True:
                tail = await self.source.newest.tail(since, part, fresh.MAX_ROWS)
                news = tail.news
                if news.differs_from(known) or time.monotonic() >= until:
                    break
                await asyncio.sleep(GLANCE_SECONDS)
            is_all = news.first == known and since < (news.newest or 0) < part.end
            return tail.rows if is_all else None

        is_limited = self.settings.max_rows_per_second is not None
        added = None if is_limited else await self._add(part, read)
        return tail or await self.source.newest.tail(since), added

    async def _add(self, part: Slice, read: fresh.ReadFewRows) -> Applied | None:
        """None where that cannot be done the short way."""
        if self.live is None or self.teller is None:
            return None
        writer, began = self.fenced_writer(), time.monotonic()
        try:
            async with self.live.connection() as conn:
                added = await fresh.add(conn, writer, read, part, self.teller)
        except (psycopg.Error, SealedError) as error:  # What to do, the long way knows.
            logger.warning("batch.failed", start=part.start, end=part.end, error=first_line(error))
            return None
        if added is not None:
            metrics.BATCH_SECONDS.observe(time.monotonic() - began)
            _count(added.counts)
        return added

    async def _apply(
        self, part: Slice, writer: Writer, retraction: Retraction | None, pieces: Sequence[Slice]
    ) -> Applied:
        if part.ours == 0 and not part.impossible:
            filled = await self._fill(part, writer, pieces)
            if filled is not None:
                return filled
        if len(pieces) == 1:
            return await self._apply_rows(part, writer, retraction)
        total = Applied(Counts(), datetime.now(UTC))
        for piece in pieces:
            last = piece is pieces[-1] and not total.strays
            by = writer if last else writer.going_on()
            total.add(await self._apply(piece, by, retraction, (piece,)))
        return total

    async def _fill(self, part: Slice, writer: Writer, pieces: Sequence[Slice]) -> Applied | None:
        """None, and nothing written, where it is not that simple: somebody was there before us, an id
        stands there twice, the database refuses a row."""
        try:
            async with self.writers.connection() as conn:
                return await store_apply.fill(conn, writer, self.source.look, part, pieces)
        except NotEmptyError:
            return None
        except psycopg.Error as error:
            if is_transient(error) or not is_refusal(error):
                raise
            return None

    async def _apply_rows(
        self, part: Slice, writer: Writer, retraction: Retraction | None
    ) -> Applied:
        """Row by row against ours; where the database refuses one, it is set aside alone."""
        retract_from = retraction.retract_from if retraction else None
        async with self.writers.connection() as conn:
            try:
                return await store_apply.apply(
                    conn, writer, self.source.look, part, retract_from=retract_from
                )
            except psycopg.Error as error:
                if is_transient(error) or not is_refusal(error):
                    raise
                logger.warning(
                    "batch.failed", start=part.start, end=part.end, error=first_line(error)
                )
            applied = await apply_carefully(conn, writer, self.source.look, part)
        if applied.counts.errors:
            logger.error("trade.failed", start=part.start, count=applied.counts.errors)
        return applied

    async def _follow_strays(self, applied: Applied) -> None:
        """Rows that left the quarantine without being seen may stand elsewhere by now."""
        async with self.source.look() as look:
            seconds = await look.find(applied.strays)
            horizon = look.horizon
        first = max((await self.read_state()).sealed_before, 1)
        for second in sorted({s for s in seconds if s is not None and first <= s <= horizon}):
            part = Slice(second, second + 1, 1, 1)
            applied.counts.add((await self.reconcile(part, ends=False)).counts)

    # -- slices of any size ------------------------------------------------------------------

    async def reconcile_whole(self, part: Slice) -> None:
        """Applies a slice however large, as part of a backlog; what it brings is on the writer's ticket."""
        pieces = await self.bounded(part)
        # Where reading is capped, a transaction would be open as long as that takes.
        at_once = part.ours == 0 and self.settings.max_rows_per_second is None
        works = [(part, pieces)] if at_once else [(p, [p]) for p in pieces]
        for whole, parts in works:
            applied = await self.reconcile(
                whole, durable=False, pieces=parts, ends=whole is works[-1][0]
            )
            logger.info(
                "batch.committed", start=whole.start, end=whole.end,
                processed=applied.counts.processed, errors=applied.counts.errors,
            )  # fmt: skip

    async def bounded(self, part: Slice) -> list[Slice]:
        """What is more than can be read at once is cut at its seconds."""
        limit = self._rows_at_once
        if part.rows <= limit or part.impossible or part.end - part.start <= 1:
            return [part]
        async with self.source.look() as look:
            seconds = await look.seconds(part)
        pieces: list[Slice] = []
        start, rows = part.start, 0
        for second, count in seconds:
            if rows and rows + count > limit:
                pieces.append(Slice(start, second, rows, part.ours, part.blocks))
                start, rows = second, 0
            rows += count
        pieces.append(Slice(start, part.end, rows, part.ours, part.blocks, part.start))
        return pieces

    # -- comparing ---------------------------------------------------------------------------

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

    @property
    def row_hash(self) -> str:
        """SQL of a tape row's hash."""
        return self.hash_method.expression(with_traders=bool(self.source.shape.trader_columns))

    async def impossible_differs(self) -> Slice | None:
        """The rows with impossible timestamps, if the two sides differ there."""
        async with self.analytics.connection() as conn, conn.transaction():
            async with self.source.look() as look:
                await compare.take_in(conn, look.survey(IMPOSSIBLE, hashed=True))
            return await compare.impossible(conn)

    # -- rollups -----------------------------------------------------------------------------

    async def rebuild(self, hours: Slice, *, since: int = 0) -> None:
        """Computes all that some whole hours feed again from the tape, in one transaction. ``since``: from
        which Unix second on their trades count as processed."""
        async for attempt in stamina.retry_context(
            on=is_transient, attempts=self.settings.max_attempts, timeout=None, wait_initial=1.0
        ):
            with attempt:
                async with self.writers.connection() as conn:
                    writer = self.fenced_writer(durable=False)
                    await store_apply.rebuild(conn, writer, hours, since=since)
                self.committed.set()


def _count(counts: Counts) -> None:
    for reason, trades in (
        ("new", counts.inserted), ("changed", counts.changed), ("vanished", counts.retracted),
    ):  # fmt: skip
        metrics.PROCESSED.labels(reason).inc(max(trades, 0))
    metrics.FAILED.inc(max(counts.errors, 0))


def is_refusal(error: psycopg.Error) -> bool:
    """Whether the database refuses what a row says, rather than how we ask."""
    return (error.sqlstate or "")[:2] in {"22", "23", "54", "P0"}


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
