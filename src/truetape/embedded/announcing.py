"""What a trading service beside the indexer says in Redis: an entry a match, before it is committed."""

import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from truetape.embedded.orders import Match

KEPT_ENTRIES = 1_000
TIMEOUT_SECONDS = 0.5
PAUSE_SECONDS = 5.0
"""After a fault Redis is left alone for so long: the exchange trades without it."""


class Announcer:
    """Puts entries on ``chain:<id>:trades``, trimmed to about a thousand as deployed ones are."""

    def __init__(self, url: str | None) -> None:
        self._redis = (
            Redis.from_url(
                url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
            )
            if url
            else None
        )
        self._not_before = 0.0

    def announce(self, chain_id: int, matches: Sequence[Match]) -> None:
        """A match's ``tradeId`` is its transaction, as in deployed systems: several share one."""
        if self._redis is None or not matches or time.monotonic() < self._not_before:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for m in matches:
            entry: dict[Any, Any] = {
                "tradeId": m.transaction_id, "poolId": m.pool_id, "price": str(m.price),
                "quantity": str(m.quantity), "side": m.side, "timestamp": str(m.timestamp),
            }  # fmt: skip
            pipeline.xadd(f"chain:{chain_id}:trades", entry, maxlen=KEPT_ENTRIES, approximate=True)
        try:
            pipeline.execute()
        except (RedisError, OSError):
            self._not_before = time.monotonic() + PAUSE_SECONDS
