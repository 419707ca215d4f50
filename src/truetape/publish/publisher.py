"""The one who publishes: numbers what is committed, and tells it, once it is durable."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg_pool import AsyncConnectionPool

from truetape.connect import at_once
from truetape.publish.feed import Feed
from truetape.store import outbox
from truetape.store.lease import Lease
from truetape.store.outbox import Event

if TYPE_CHECKING:
    from truetape.publish.redis_out import RedisStream

LOOK_SECONDS = 5.0
"""How often to look whatever is told: what others have committed comes with the lease's renewal."""


@dataclass
class Publisher:
    """Works while this process leads. ``committed`` is set after each transaction of ours, but for
    those that have a ``turn`` at the numbers themselves."""

    analytics: AsyncConnectionPool
    feed: Feed
    committed: asyncio.Event
    redis: "RedisStream | None" = None
    _forget_at: int = 0
    _looked_at: float = 0.0
    _numbering: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def publish(self, lease: Lease) -> None:
        """Runs until cancelled."""
        while True:
            self.committed.clear()
            while await self._publish_some(lease) == outbox.AT_ONCE:
                pass
            await self._rest()

    async def _rest(self) -> None:
        """Until something is committed, or nobody has looked for a while."""
        while (left := self._looked_at + LOOK_SECONDS - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.committed.wait()
                return

    async def _publish_some(self, lease: Lease) -> int:
        async with at_once(self.analytics) as conn:
            async with self._numbering:
                events = await outbox.number(conn, lease, self._in_redis)
                await self._tell(events)
            if events and events[-1].sequence >= self._forget_at:
                await outbox.forget(conn)
                self._forget_at = events[-1].sequence + outbox.FORGET_EVERY
        return len(events)

    @property
    def _in_redis(self) -> int:
        return self.redis.sent if self.redis is not None else 0

    async def _tell(self, events: list[Event]) -> None:
        await self.feed.tell(events)
        self._looked_at = time.monotonic()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[int | None]:
        """For a transaction that numbers behind its own COMMIT, and tells here what it has numbered:
        one exchange less. Yields what ``outbox.ask_numbers`` wants to know; None while somebody else
        is at it, who then sees to the rest, too."""
        if self._numbering.locked():
            try:
                yield None
            finally:
                self.committed.set()
        else:
            async with self._numbering:
                yield self._in_redis

    async def tell(self, events: list[Event]) -> None:
        """Tells what was numbered in a turn. What is left to do is done as always."""
        await self._tell(events)
        if len(events) == outbox.AT_ONCE or (events and events[-1].sequence >= self._forget_at):
            self.committed.set()
