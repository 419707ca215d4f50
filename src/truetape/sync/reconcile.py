"""The one primitive: make a range of our tape equal to the source's, and what it feeds with it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import psycopg
import stamina
from psycopg_pool import AsyncConnectionPool

from truetape import log, metrics
from truetape.connect import first_line, is_transient
from truetape.source.look import Second
from truetape.source.newest import Tail
from truetape.store import apply as store_apply
from truetape.store import fresh, jobs
from truetape.store.apply import Applied, NotEmptyError, SealedError, Writer
from truetape.store.careful import apply_carefully
from truetape.store.jobs import Ticket
from truetape.store.lease import Lease, LeaseLostError
from truetape.store.outbox import Teller
from truetape.sync.compare import Comparer, Retraction
from truetape.trade import (
    MINUTE,
    ChainPosition,
    Counts,
    FewRows,
    Slice,
)

logger = log.get(__name__)

GLANCE_SECONDS = 0.002
"""How long to wait between looks for what was announced."""
LOOK_TARGET_SECONDS = 0.25
FIRST_ROWS = 10_000
LEAST_ROWS = 1_000
"""Reading a batch should not take longer: Ponder's reorgs wait for whoever reads. Nor is less than
``LEAST_ROWS`` worth a snapshot."""

OnApplied = Callable[[Slice, Applied], Awaitable[None]]


@dataclass
class Pace:
    """At which batches are read, as of late."""

    rows_per_second: float | None = None

    def note(self, rows: int, seconds: float) -> None:
        if rows >= LEAST_ROWS and seconds > 0:
            pace, before = rows / seconds, self.rows_per_second
            self.rows_per_second = pace if before is None else (2 * before + pace) / 3


@dataclass(kw_only=True)
class Reconciler(Comparer):
    """Moves ranges of the tape, besides comparing them. Knows nothing of when or why."""

    writers: AsyncConnectionPool
    """Connections for what moves the tape."""
    live: AsyncConnectionPool | None = None
    """A connection for what ``take_fresh`` takes in; without one all goes the long way."""
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set after each transaction of ours that may have something to tell."""
    writer: Writer | None = None
    """Set while this process leads."""
    teller: Teller | None = None
    """Who publishes what ``take_fresh`` takes in; set while this process leads, too."""
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
        again and again for what was announced, all being ready to take it in; once, where it cannot be.
        """
        part, tail = Slice(since + 1, since + 1 + MINUTE), None

        async def read() -> FewRows | None:
            nonlocal tail
            until = time.monotonic() + patience
            while True:
                tail = None  # A fault of this look is not hidden by the one before.
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
