"""The stream as a process tells it: the newest events in memory, older ones from the database.

A listener is no more than the number of the last event it has; there is no queue for it to fill. One
that is slow reads on later, and one that fell behind what is kept is told so.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice

from psycopg_pool import AsyncConnectionPool

from truetape import log
from truetape.connect import at_once, first_line
from truetape.store import outbox
from truetape.store.outbox import Event

logger = log.get(__name__)

IN_MEMORY = 2_000
AT_ONCE = 200
POLL_SECONDS = 0.2
"""How often a process that does not publish itself looks for what another has published."""


@dataclass(frozen=True)
class Unseen:
    """Events after ``after`` and before ``resumes_at`` are not kept any more.

    What they told was about ``since`` (Unix seconds) and later; None: about any time.
    """

    after: int
    resumes_at: int
    since: int | None


@dataclass
class Feed:
    """Everything that is published, for those who listen in this process."""

    analytics: AsyncConnectionPool
    last: int = 0
    """The number of the newest event that was told here."""
    closed: bool = False
    _recent: deque[Event] = field(default_factory=lambda: deque(maxlen=IN_MEMORY))
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _listeners: int = 0
    _poll: asyncio.Task[None] | None = None

    async def tell(self, events: list[Event]) -> None:
        """Events in order, by whoever numbered or found them; what is known already is left out."""
        fresh = [e for e in events if e.sequence > self.last]
        if not fresh:
            return
        async with self._news:
            if fresh[0].sequence != self.last + 1:
                self._recent.clear()  # What was published in between is in the database.
            self._recent.extend(fresh)
            self.last = fresh[-1].sequence
            self._news.notify_all()
        # They are told now, not when whoever tells has done what else he has to.
        await asyncio.sleep(0)

    async def position(self) -> int:
        """The number of the newest event there is: where a new listener begins."""
        async with at_once(self.analytics) as conn:
            return (await outbox.position(conn))[0]

    def recent(self, sequence: int) -> list[Event] | None:
        """The next events after a number, some at a time, empty when there are none yet; None where they are
        not in memory."""
        if not self._recent or not self._recent[0].sequence <= sequence + 1 <= self.last + 1:
            return None
        skipped = sequence + 1 - self._recent[0].sequence
        return list(islice(self._recent, skipped, skipped + AT_ONCE))

    async def after(self, sequence: int) -> list[Event] | Unseen:
        """As ``recent``, from wherever they are."""
        found = self.recent(sequence)
        return await self.older(sequence) if found is None else found

    async def older(self, sequence: int) -> list[Event] | Unseen:
        """As ``recent``, from the database."""
        async with at_once(self.analytics) as conn:
            newest, _ = await outbox.position(conn)
            events = await outbox.read_after(conn, sequence, AT_ONCE)
            resumes_at = events[0].sequence if events else min(newest, sequence) + 1
            if resumes_at == sequence + 1:
                return events
            return Unseen(sequence, resumes_at, await outbox.first_unseen(conn, sequence))

    async def news(self, sequence: int) -> None:
        """Waits until there is an event after a number, or the process stops."""
        async with self._news:
            await self._news.wait_for(lambda: self.last > sequence or self.closed)

    async def close(self) -> None:
        """Ends all listening."""
        self.closed = True
        async with self._news:
            self._news.notify_all()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """While anybody listens, what another process publishes is looked for."""
        self._listeners += 1
        if self._poll is None:
            self._poll = asyncio.create_task(self._look_for_news())
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners and self._poll is not None:
                self._poll.cancel()
                self._poll = None

    async def _look_for_news(self) -> None:
        newest = await self.position()
        if newest - self.last > AT_ONCE:  # From when nobody listened here.
            self._recent.clear()
            self.last = newest
        while True:
            before = self.last
            await asyncio.sleep(POLL_SECONDS)
            if self.last != before:
                continue  # The publisher is in this process.
            try:
                async with at_once(self.analytics) as conn:
                    await self.tell(await outbox.read_after(conn, self.last, IN_MEMORY))
            except Exception as error:
                logger.warning("feed.failed", error=first_line(error))
