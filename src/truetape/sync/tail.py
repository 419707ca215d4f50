"""The tail: what is new in the source, looked for at each ring, and on a timer where nothing rings."""

import time
from dataclasses import dataclass, field
from datetime import datetime

from truetape import log
from truetape.connect import first_line, is_transient
from truetape.settings import Settings
from truetape.source.bell import Bell
from truetape.source.look import News, Second
from truetape.source.newest import Tail
from truetape.store import tape
from truetape.store.apply import Applied
from truetape.sync.mend import mend_range, told
from truetape.sync.proof import Proof, ask_for_catch_up
from truetape.sync.reconcile import Reconciler
from truetape.sync.work import note_complete
from truetape.trade import HOUR, MINUTE, ChainPosition, Slice

logger = log.get(__name__)

TAIL_SECONDS = 0.42
"""With what the look itself takes, new trades are there within half a second, though nothing rings."""
LONGEST_TAIL_SECONDS = 100 * HOUR
LONGEST_TAIL_ROWS = 100_000
MISSED_ROWS = 2_000
"""As much as a start takes in here of what was missed; more is left to a run."""
QUIET_SECONDS = 10.0
"""So long after the last ring or trade the market is quiet."""
NOTE_SECONDS = 0.4
"""So soon after something has moved it is written that all is complete;"""
COMPLETE_SECONDS = 5.0
"""and so often while nothing moves."""


@dataclass
class LiveTail:
    """Takes in what is new, from the last second seen on, that second included: its trades share it."""

    reconciler: Reconciler
    settings: Settings
    bell: Bell
    proof: Proof
    reached: dict[int, ChainPosition] = field(default_factory=dict)
    """Through where each chain's trades have been looked for."""
    replaced_at: float | None = None
    """When it was seen that chains have been reorganised (monotonic seconds); None once the newest minutes
    have been looked at since. Until then nothing is called complete."""
    window_hint: bool = False
    """Whether a chain was seen to go back: all that is not final is to be looked at."""
    _from: int | None = None
    _known: Second | None = None
    """Source trades of that second, as of the last look: when others stand there, chains have been
    reorganised."""
    _moves: bool = True
    """Whether the last look found something: more may come to the same second."""
    _moved_at: float = 0.0
    _looked_at: float = 0.0
    """When it was looked at last, more than glanced at (monotonic seconds)."""
    _whole: tuple[Tail, datetime] | None = None
    """The last look of which all is taken in, and from when on rows could change then."""
    _noted_at: float = 0.0
    """When it was noted last that all is complete (monotonic seconds)."""

    async def begin(self, positions: list[ChainPosition]) -> None:
        """Finds where to follow from. ``positions``: where the chains are."""
        self.reached = {p.chain_id: p for p in positions}
        self._from, self._known, self._whole = await self._first(), None, None

    async def _first(self) -> int:
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
        # What was missed in an outage is a run's, which tells of it; a restart in mid-flow misses a little.
        return ours if behind <= MISSED_ROWS or newest is None else newest

    @property
    def _rows_max(self) -> int:
        """How much is taken in here, in one snapshot."""
        return min(self.settings.batch_size, LONGEST_TAIL_ROWS)

    @property
    def since(self) -> int:
        """The Unix second from which on it is followed."""
        assert self._from is not None, "before it has begun"
        return self._from

    @property
    def settled(self) -> int:
        """The Unix second before which nothing is left to be taken in here: others do not race with it."""
        return self.since if self._moves else self.since + 1

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has rung or moved for long."""
        moved_at = max(self._moved_at, self.replaced_at or 0.0, self.bell.rung_at)
        return time.monotonic() - moved_at > QUIET_SECONDS

    async def follow(self) -> bool:
        """One look, and all that it shows; False where it was no more than a glance."""
        since = self.since
        tail, added = await self._look()
        if tail is None:
            await self.bell.end(found=False)
            return False
        self._looked_at = time.monotonic()
        self._moves = await self._taken(tail.news, added) or await self._take(tail)
        await self._take_late(tail.positions, since)
        await self.bell.end(found=self._moves)
        before, self.reached = self.reached, {p.chain_id: p for p in tail.positions}
        if self._moves or self.reached != before:
            self._moved_at = time.monotonic()
        if (retraction := self.reconciler.retraction) is not None:
            self._whole = tail, retraction.window_from
        return True

    async def note_complete(self) -> None:
        """Writes that all is complete as of the last look. By itself, so that it does not hold up those who
        are told what the look has brought."""
        whole, began = self._whole, time.monotonic()
        rests = self._moved_at < self._noted_at and began - self._noted_at < COMPLETE_SECONDS
        if whole is None or rests or not self.proof.given or self.replaced_at is not None:
            return
        tail, window_from = whole
        try:
            noted = await note_complete(self.reconciler, tail.at, tail.positions, window_from)
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning("complete.failed", error=first_line(error))  # Another time.
            return
        if noted:
            self._noted_at = began

    # -- looking -----------------------------------------------------------------------------

    async def _look(self) -> tuple[Tail | None, Applied | None]:
        """What is new, and what of it is taken in already. No tail where a glance has shown that nothing is."""
        sure, patience = self.bell.begin(), self.bell.patience
        if sure:
            return await self.reconciler.take_news(self.since, self._known)
        if self.bell.expects and self._may_glance:
            if patience > 0:
                return await self.reconciler.take_news(self.since, self._known, patience)
            if time.monotonic() < self._looked_at + TAIL_SECONDS:
                news = await self.reconciler.source.newest.glance(self.since)
                if news is not None and not news.differs_from(self._known):
                    return None, None
                return await self.reconciler.take_news(self.since, self._known)
        return await self.reconciler.source.newest.tail(self.since), None

    @property
    def _may_glance(self) -> bool:
        """Whether a glance would see what comes, at little cost: not where a chain is behind the others."""
        indexed = self.reconciler.source.shape.timestamp_indexed
        return indexed and all(p.time >= self.since for p in self.reached.values())

    # -- taking in ---------------------------------------------------------------------------

    async def _taken(self, news: News, added: Applied | None) -> bool:
        """Whether the look itself has taken in all that it has shown."""
        if added is None or news.newest is None:
            return False
        await told(Slice(self.since + 1, news.newest + 1), added)
        self._from, self._known = news.newest, news.last
        return True

    async def _take(self, tail: Tail) -> bool:
        """Takes in what a look has shown to be new; whether there was anything."""
        news, known = tail.news, self._known
        if not news.differs_from(known):
            return False
        later = news.rows > news.first.trades
        if news.newest is None or (known and not later and known.trades == news.first.trades):
            if known and known.trades:
                # They are gone, or others stand in their place: likely in more than this second.
                self.replaced_at = time.monotonic()
            self._known = news.first
            return False
        start, rows, ours = self.since, news.rows, 1
        if news.first == known:  # Nothing new in that second, and it is ours.
            start, rows, ours = start + 1, rows - news.first.trades, 0
        if rows > self._rows_max or news.newest - start > LONGEST_TAIL_SECONDS:
            await ask_for_catch_up(self.reconciler, "far behind")
            start = news.newest
        part = Slice(start, news.newest + 1, rows, ours)
        await told(part, await self.reconciler.take_fresh(part, tail.positions))
        self._from, self._known = news.newest, news.last
        return True

    async def _take_late(self, positions: list[ChainPosition], since: int) -> None:
        """What a chain that is behind the others has written below a second from which on all is
        taken in."""
        for p in positions:
            last = self.reached.get(p.chain_id)
            if last is None:
                await ask_for_catch_up(self.reconciler, "a new chain")
            elif p.block < last.block or p.time < last.time:
                # A reorg, or Ponder is filling its tables anew.
                self.window_hint, self.replaced_at = True, time.monotonic()
            elif p != last and last.time < since:
                end = min(p.time, since) // MINUTE * MINUTE + MINUTE
                part = Slice(last.time // MINUTE * MINUTE, end)
                if part.end - part.start > LONGEST_TAIL_SECONDS:
                    await ask_for_catch_up(self.reconciler, "far behind")
                else:
                    await mend_range(self.reconciler, part, hashed=False)
