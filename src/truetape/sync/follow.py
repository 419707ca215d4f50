"""Following the source: the tail often, the window in which rows can change, and all the rest in turn."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from truetape import log
from truetape.connect import at_once
from truetape.settings import Settings
from truetape.source.bell import Bell
from truetape.source.doorbells import Doorbell
from truetape.source.reader import News, Second, Tail
from truetape.store import runs, state, tape
from truetape.store.apply import LAST_SECOND, Applied
from truetape.store.jobs import forget_scrubs
from truetape.store.runs import Run
from truetape.sync.jobs import BACKGROUND, JobFailedError, Jobs
from truetape.sync.reconcile import Reconciler
from truetape.sync.retention import tidy
from truetape.sync.retraction import judge, look_again
from truetape.sync.scrub import mend, scrub_rollups, told
from truetape.sync.work import note_complete, sync_pools
from truetape.tasks import together
from truetape.trade import DAY, HOUR, IMPOSSIBLE, MINUTE, ChainPosition, Slice

if TYPE_CHECKING:
    from truetape.store.queue import Queue

logger = log.get(__name__)

TAIL_SECONDS = 0.42
"""With what the look itself takes, new trades are there within half a second, though nothing rings."""
GLANCE_SECONDS = 0.002
NEWEST_SECONDS = 2.0
NEWEST_MINUTES = 3
VANISHED_SECONDS = 0.5
WINDOW_SECONDS = 10.0
POOLS_SECONDS = 5.0
PENDING_SECONDS = 2.0
SCRUB_SECONDS = 5.0
SCRUB_TARGET_SECONDS = 1.0
TIDY_SECONDS = 10.0
LONGEST_SCRUB_SECONDS = 16 * DAY
LONGEST_TAIL_SECONDS = 100 * HOUR
LONGEST_TAIL_ROWS = 100_000
REST_FACTOR = 20
"""A look rests this many times as long as it took: no more than a twentieth of a core."""
NEWEST_REST_FACTOR = 5
"""What is new is where chains are reorganised: a sixth of a core, if there is as much to look at."""
LONGEST_REST = 10
"""But never so many times its own interval."""
QUIET_SECONDS = 10.0
"""So long after the last ring or trade the market is quiet."""
QUIET_FACTOR = 3
PASS_SECONDS = 20.0
"""A scrub that has been through all history begins anew after so long at the soonest; in a quiet market
``QUIET_FACTOR`` times as long."""
COMPLETE_SECONDS = 5.0
"""How often to write that all is complete, while nothing moves."""


@dataclass
class Chore:
    """Something that is done again and again, rested in between by what it costs."""

    name: str
    every: float
    work: Callable[[], Awaitable[None]]
    bell: Bell | None = None
    """What calls for it before its time."""
    rest_factor: int = REST_FACTOR
    can_wait: Callable[[], bool] = lambda: False
    """Whether it may rest ``QUIET_FACTOR`` times as long just now."""
    next_at: float = 0.0
    took: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def due_at(self) -> float:
        return self.rests_until if self.bell is None else min(self.rests_until, self.bell.due_at)

    @property
    def rests_until(self) -> float:
        """Longer while it can wait; asked anew each time, so that it is there once it cannot."""
        return self.next_at + (self.every * (QUIET_FACTOR - 1) if self.can_wait() else 0.0)

    async def rest(self, until: float) -> None:
        if self.bell is not None:
            await self.bell.wait(until)
        else:
            await asyncio.sleep(max(until - time.monotonic(), 0.001))

    async def run_if_due(self) -> bool:
        began = time.monotonic()
        if began < self.due_at:
            return False
        await self.work()
        # The least of some: one look held up by something else says nothing about its cost. Where
        # all is slow, it is waiting more than work: no rest grows without end.
        self.took.append(time.monotonic() - began)
        rest = min(min(self.took) * self.rest_factor, self.every * LONGEST_REST)
        self.next_at = time.monotonic() + max(self.every, rest)
        return True


@dataclass
class Follower:
    """Keeps the analytics with the source while this process leads."""

    reconciler: Reconciler
    settings: Settings
    queue: "Queue"
    """Where workers take what can be done in the background."""
    has_vanished: Callable[[], bool]
    """Whether a row waits for a second look."""
    bell: Bell = field(default_factory=Bell)
    doorbells: Sequence[Doorbell] = ()
    """What rings it; the timer is always there."""
    _tail_from: int | None = None
    _in_tail_from: Second | None = None
    """Source trades of that second, as of the last look: when others stand there, chains have been
    reorganised."""
    _moves: bool = True
    """Whether the last look at the tail found something: more may come to the same second."""
    _moved_at: float = 0.0
    _replaced_at: float | None = None
    """When it was seen that chains have been reorganised (monotonic seconds); None once the newest minutes
    have been looked at since. Until then nothing is called complete."""
    _looked_at: float = 0.0
    """When the tail was looked at last, more than glanced at (monotonic seconds)."""
    _reached: dict[int, ChainPosition] = field(default_factory=dict)
    """Through where each chain's trades have been looked for."""
    _window_hint: bool = False
    _mended: bool = False
    """Whether there was anything to mend among the newest: rows may have vanished."""
    _told_complete_at: float = 0.0
    _proof: Run | None = None
    _proven: bool = False
    _scrub_span: int = HOUR
    _scrub_rests_until: float = 0.0
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self) -> None:
        """Runs until cancelled."""
        await self.begin()
        await together(
            [*(d.listen() for d in self.doorbells), *(self._do(chores) for chores in self.chores())]
        )

    async def begin(self) -> None:
        """Finds where to follow from. What was missed while nobody did is a run of its own."""
        await sync_pools(self.reconciler)
        retraction = await judge(self.reconciler)
        self._reached = {p.chain_id: p for p in retraction.positions}
        self._tail_from, self._in_tail_from = await self._first_tail(), None
        self._proof = await self._catch_up("start")

    def chores(self) -> list[list[Chore]]:
        """All that following is made of. Those of one list are done in turn, the lists side by side;
        nothing depends on an order."""
        return [
            [Chore("tail", TAIL_SECONDS, self._tail, self.bell)],
            [
                Chore("proof", TAIL_SECONDS, self._prove),
                Chore(
                    "newest",
                    NEWEST_SECONDS,
                    self._newest,
                    rest_factor=NEWEST_REST_FACTOR,
                    can_wait=self._is_quiet,
                ),
                Chore("vanished", VANISHED_SECONDS, self._vanished, rest_factor=NEWEST_REST_FACTOR),
                Chore("pending", PENDING_SECONDS, self._pending),
                Chore("pools", POOLS_SECONDS, self._pools),
                Chore("window", WINDOW_SECONDS, self._window),
            ],
            [Chore("scrub", SCRUB_SECONDS, self._scrub)],
            [Chore("tidy", TIDY_SECONDS, self._tidy)],
        ]

    async def _catch_up(self, reason: str) -> Run:
        async with self.reconciler.analytics.connection() as conn:
            return await runs.ask(conn, "standard", {"reason": reason})

    async def _prove(self) -> None:
        """Nothing counts as complete before one sync since our start has found all of it."""
        if self._proven:
            return
        async with self.reconciler.analytics.connection() as conn:
            run = await runs.get(conn, self._proof.run_id) if self._proof else None
        if run is not None and run.state == "succeeded":
            self._proven = True
        elif run is None or run.ended:
            self._proof = await self._catch_up("start, again")

    async def _do(self, chores: list[Chore]) -> None:
        while True:
            for chore in chores:
                await chore.run_if_due()
            first = min(chores, key=lambda c: c.due_at)
            await first.rest(first.rests_until)

    # -- the tail ----------------------------------------------------------------------------

    async def _first_tail(self) -> int:
        """From where on to follow: our newest trade, or theirs when a long way lies between."""
        async with self.reconciler.analytics.connection() as conn:
            ours = await tape.newest(conn)
        async with self.reconciler.source.look() as look:
            extent = await look.extent()
            if extent is None:
                return int(look.at.timestamp())
            if ours is None:
                return extent[1]
            behind, newest = await look.tail(ours)
        return ours if behind <= self._tail_rows or newest is None else newest

    @property
    def _tail_rows(self) -> int:
        """How much the tail takes in by itself, in one snapshot."""
        return min(self.settings.batch_size, LONGEST_TAIL_ROWS)

    async def _tail(self) -> None:
        """What is new since the last second seen, that second included: its trades share it."""
        assert self._tail_from is not None
        since, added = self._tail_from, None
        sure = self.bell.begin()
        expects = not sure and self.bell.expects and self._may_glance
        tail: Tail | None
        if expects and self.bell.patience > 0:
            tail, added = await self.reconciler.take_news(since, self._in_tail_from, self._comes)
        elif sure or (expects and await self._comes()):
            tail, added = await self.reconciler.take_news(since, self._in_tail_from)
        else:
            tail = None if expects else await self.reconciler.source.tail(since)
        if tail is None:
            await self.bell.end(found=False)
            return
        self._looked_at = time.monotonic()
        at, positions = tail.at, tail.positions
        self._moves = await self._taken(tail.news, added) or await self._take(tail.news, positions)
        await self._take_late(positions, since)
        await self.bell.end(found=self._moves)
        before, self._reached = self._reached, {p.chain_id: p for p in positions}
        moved = self._reached != before
        if moved or self._moves:
            self._moved_at = time.monotonic()
        due = moved or time.monotonic() - self._told_complete_at > COMPLETE_SECONDS
        whole = self._proven and self._replaced_at is None
        if whole and due and await note_complete(self.reconciler, at, positions):
            self._told_complete_at = time.monotonic()

    async def _comes(self) -> bool:
        """Glances at the tail until something new is there, or patience has an end."""
        assert self._tail_from is not None
        until = time.monotonic() + self.bell.patience
        while True:
            news = await self.reconciler.source.glance(self._tail_from)
            if news is None or self._is_new(news):
                return True
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(GLANCE_SECONDS)

    @property
    def _may_glance(self) -> bool:
        """Whether a glance would see what comes, at little cost: not where a chain is behind the others;
        nor for long."""
        assert self._tail_from is not None
        if not self.reconciler.source.shape.timestamp_indexed:
            return False
        together = all(p.time >= self._tail_from for p in self._reached.values())
        return together and time.monotonic() < self._looked_at + TAIL_SECONDS

    def _is_quiet(self) -> bool:
        moved_at = max(self._moved_at, self._replaced_at or 0.0, self.bell.rung_at)
        return time.monotonic() - moved_at > QUIET_SECONDS

    async def _taken(self, news: News, added: Applied | None) -> bool:
        """Whether the look itself has taken in all that it has shown."""
        if added is None or self._tail_from is None or news.newest is None:
            return False
        await told(Slice(self._tail_from + 1, news.newest + 1), added)
        self._tail_from, self._in_tail_from = news.newest, news.last
        return True

    def _is_new(self, news: News) -> bool:
        return news.rows > news.first.trades or news.first != self._in_tail_from

    async def _take(self, news: News, positions: list[ChainPosition]) -> bool:
        """Takes in what a look has shown to be new; whether there was anything."""
        assert self._tail_from is not None
        if not self._is_new(news):
            return False
        later = news.rows > news.first.trades
        known = self._in_tail_from
        if news.newest is None or (known and not later and known.trades == news.first.trades):
            if known and known.trades:
                # They are gone, or others stand in their place: likely in more than this second.
                self._replaced_at = time.monotonic()
            self._in_tail_from = news.first
            return False
        start, rows, ours = self._tail_from, news.rows, 1
        if news.first == known:  # Nothing new in that second, and it is ours.
            start, rows, ours = start + 1, rows - news.first.trades, 0
        if rows > self._tail_rows or news.newest - start > LONGEST_TAIL_SECONDS:
            await self._catch_up("far behind")
            start = news.newest
        part = Slice(start, news.newest + 1, rows, ours)
        await told(part, await self.reconciler.take_fresh(part, positions))
        self._tail_from, self._in_tail_from = news.newest, news.last
        return True

    @property
    def _settled(self) -> int:
        """The Unix second before which nothing is left to the tail: others do not race with it."""
        assert self._tail_from is not None
        return self._tail_from if self._moves else self._tail_from + 1

    async def _take_late(self, positions: list[ChainPosition], since: int) -> None:
        """What a chain that is behind the others has written below a second from which on all is
        taken in."""
        for p in positions:
            last = self._reached.get(p.chain_id)
            if last is None:
                await self._catch_up("a new chain")
            elif p.block < last.block or p.time < last.time:
                # A reorg, or Ponder is filling its tables anew.
                self._window_hint, self._replaced_at = True, time.monotonic()
            elif p != last and last.time < since:
                end = min(p.time, since) // MINUTE * MINUTE + MINUTE
                part = Slice(last.time // MINUTE * MINUTE, end)
                if part.end - part.start > LONGEST_TAIL_SECONDS:
                    await self._catch_up("far behind")
                else:
                    await self._mend(part, hashed=False)

    # -- what could still change -------------------------------------------------------------

    async def _mend(
        self, part: Slice, *, hashed: bool = True, rehash: bool = False, ours: bool = False
    ) -> bool:
        """Whether there was anything to mend. ``ours``: only what is left to us."""
        differed = False
        async for found, _ in self.reconciler.differing(part, hashed=hashed, rehash=rehash):
            slices = self._left_to_us(found) if ours else found
            await mend(self.reconciler, slices)
            differed = differed or bool(slices)
        return differed

    async def _mend_held(self, start: int, end: int) -> None:
        """Where either side holds trades: a chain that has finalized nothing yet starts at zero."""
        extent = await self.reconciler.extent()
        if extent is not None and max(start, extent.start) < min(end, extent.end):
            part = Slice(max(start, extent.start), min(end, extent.end))
            async for slices, _ in self.reconciler.differing(part, hashed=True):
                await mend(self.reconciler, self._left_to_us(slices))

    def _left_to_us(self, slices: list[Slice]) -> list[Slice]:
        """Of what differs: as long as a catch-up is on its way, what we hold nothing of is left to it."""
        return slices if self._proven else [s for s in slices if s.ours]

    async def _newest(self) -> None:
        began = time.monotonic()
        if self._window_hint:
            self._window_hint = False
            await self._window()
        settled = self._settled
        tails = {settled - 1, *(p.time for p in self._reached.values())}
        for end in sorted({min(t, settled - 1) // MINUTE * MINUTE + MINUTE for t in tails}):
            whole = min(end, settled // MINUTE * MINUTE)
            parts = [(Slice(end - NEWEST_MINUTES * MINUTE, whole), False)]
            if whole < end:  # Part of a minute has no digest of its own: ours comes from the rows.
                parts.append((Slice(whole, settled), True))
            for part, rehash in parts:
                self._mended = await self._mend(part, rehash=rehash, ours=True) or self._mended
        if self._replaced_at is not None and self._replaced_at < began:
            self._replaced_at = None

    async def _vanished(self) -> None:
        """What a look did not find any more is looked for once more, soon: a look at all that is new may
        rest for long. The source is asked nothing where nothing has vanished."""
        if self._mended or self.has_vanished():
            self._mended = False
            await look_again(self.reconciler, told, self._never)

    async def _window(self) -> None:
        retraction = await judge(self.reconciler)
        start = int(retraction.window_from.timestamp()) // MINUTE * MINUTE
        await self._mend_held(start, self._settled // MINUTE * MINUTE)
        for p in retraction.positions:
            if p.finalized_time < start:
                # A chain that is far behind has a window of its own.
                end = p.time // MINUTE * MINUTE + MINUTE
                await self._mend_held(p.finalized_time // MINUTE * MINUTE, min(end, start))
        if await self.reconciler.impossible_differs():
            await told(IMPOSSIBLE, await self.reconciler.reconcile(IMPOSSIBLE))

    async def _pools(self) -> None:
        await sync_pools(self.reconciler)

    async def _pending(self) -> None:
        async with at_once(self.reconciler.analytics) as conn:
            ids, slices, impossible = await tape.pending(conn)
        if ids or slices or impossible:
            async with self.reconciler.analytics.connection() as conn:
                await runs.ask(conn, "retry", {"reason": "pending"})

    async def _tidy(self) -> None:
        await tidy(self.reconciler, told, self._never)

    # -- all history -------------------------------------------------------------------------

    async def _scrub(self) -> None:
        """The next piece of all history: rows of both sides, and the rollups against the tape."""
        if time.monotonic() < self._scrub_rests_until:
            return
        extent = await self.reconciler.extent()
        if extent is None:
            return
        async with self.reconciler.analytics.connection() as conn:
            known = await state.read(conn)
            start = max(known.scrub_from or 0, extent.start) // HOUR * HOUR
            begins = known.scrub_from is None or start >= extent.end
            if begins:
                start = extent.start // HOUR * HOUR
                await state.set_values(conn, scrub_started_at=datetime.now(UTC))
        if begins:
            # What stands where there are no trades at all can only be somebody's hand.
            for first, last in ((0, start), (extent.end, LAST_SECOND)):
                if first < last:
                    await scrub_rollups(self.reconciler, Slice(first, last))
        held = await self.reconciler.extent(start)
        if held is not None and held.start > start + self._scrub_span:
            # Neither side holds a trade for long: there may be rollups, by somebody's hand.
            await scrub_rollups(self.reconciler, Slice(start, held.start))
            start = held.start // HOUR * HOUR
        end = min(start + self._scrub_span, extent.end)
        took: float | None = 0.0
        if start < (settled := min(end, self._settled)):
            took = await self._scrub_piece(Slice(start, settled))
        if took is None:
            return
        if took < SCRUB_TARGET_SECONDS / 2:
            self._scrub_span = min(self._scrub_span * 2, LONGEST_SCRUB_SECONDS)
        elif took > SCRUB_TARGET_SECONDS:
            self._scrub_span = max(self._scrub_span // 2 // HOUR * HOUR, HOUR)
        async with self.reconciler.analytics.connection() as conn:
            if end >= extent.end:
                await state.set_values(conn, scrub_from=None, scrub_ended_at=datetime.now(UTC))
                rest = PASS_SECONDS * (QUIET_FACTOR if self._is_quiet() else 1)
                self._scrub_rests_until = time.monotonic() + rest
            else:
                await state.set_values(conn, scrub_from=end)

    async def _scrub_piece(self, part: Slice) -> float | None:
        """Has a worker do it, when there is nothing that somebody waits for; the seconds it took, or None
        where it could not be done just now."""
        epoch = self.reconciler.fenced_writer().lease.epoch
        jobs = Jobs(self.queue, self.reconciler.analytics, epoch, priority=BACKGROUND)
        await jobs.put("scrub", [(part, {"leave_empty": not self._proven})])
        try:
            await jobs.wait(self._never)
        except JobFailedError as error:
            logger.warning("scrub.failed", start=part.start, end=part.end, error=str(error))
            return None
        results = await jobs.results()
        async with self.reconciler.analytics.connection() as conn:
            await forget_scrubs(conn, jobs.last)
        return float(results[0]["seconds"])
