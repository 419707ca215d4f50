"""Health as an event: told when it changes in a way that somebody would look up for."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from psycopg_pool import AsyncConnectionPool

from truetape.connect import at_once
from truetape.store import outbox
from truetape.sync.health import Health

LOOK_SECONDS = 3.0


@dataclass
class HealthWatch:
    """Looks at health while this process follows. ``committed`` wakes the publisher."""

    analytics: AsyncConnectionPool
    check: Callable[[], Awaitable[Health]]
    committed: asyncio.Event
    _last: dict[str, Any] | None = None

    async def watch(self) -> None:
        """Runs until cancelled."""
        while True:
            now = _telling(await self.check())
            if now != self._last:
                async with at_once(self.analytics) as conn:
                    await outbox.put(conn, "health", now)
                self._last = now
                self.committed.set()
            await asyncio.sleep(LOOK_SECONDS)


def _telling(health: Health) -> dict[str, Any]:
    """What is worth an event; lag and counts that move with each block are not."""
    return {
        "status": health.status,
        "isHealthy": health.is_healthy,
        "recommendation": health.recommendation,
        "isColdStart": health.is_cold_start,
        "failedTrades": health.failed_trades,
        "heldDeletions": health.held_deletions.get("count"),
        "following": health.following,
        "doorbells": health.doorbells,
        "error": health.error,
    }
