"""The one who publishes: numbers what is committed, and tells it, once it is durable."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg_pool import AsyncConnectionPool

from truetape.connect import at_once
from truetape.publish.feed import Feed
from truetape.store import outbox
from truetape.store.lease import Lease

if TYPE_CHECKING:
    from truetape.publish.redis_out import RedisStream

AT_ONCE = 500
LOOK_SECONDS = 1.0
"""How often to look for what others, or a leader before us, have committed."""


@dataclass
class Publisher:
    """Works while this process leads. ``committed`` is set after each transaction of ours."""

    analytics: AsyncConnectionPool
    feed: Feed
    committed: asyncio.Event
    redis: "RedisStream | None" = None
    _forget_at: int = 0

    async def publish(self, lease: Lease) -> None:
        """Runs until cancelled."""
        while True:
            self.committed.clear()
            while await self._publish_some(lease) == AT_ONCE:
                pass
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.committed.wait()

    async def _publish_some(self, lease: Lease) -> int:
        in_redis = self.redis.sent if self.redis is not None else 0
        async with at_once(self.analytics) as conn:
            events = await outbox.number(conn, lease, in_redis=in_redis, limit=AT_ONCE)
            await self.feed.tell(events)
            if events and events[-1].sequence >= self._forget_at:
                await outbox.forget(conn)
                self._forget_at = events[-1].sequence + outbox.FORGET_EVERY
        return len(events)
