"""Redis Streams as a doorbell: an entry says that trades have happened, or are about to be committed.

Nothing in an entry is read. It is acknowledged once a look that began after it was read has ended
well, so what a process died over is rung again by the next. Streams may be missing, appear later, be
trimmed, flushed or flooded, and be no streams at all.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from truetape import log, metrics
from truetape.connect import first_line
from truetape.source.bell import Bell
from truetape.source.doorbells import persist
from truetape.tasks import together

logger = log.get(__name__)

_Found = list[tuple[str, list[tuple[str, object]]]]

GROUP = "truetape"
CONSUMER = "leader"
"""One reads at a time; the next goes on under the same name."""
AT_ONCE = 200
"""Entries a read: a flood comes in pieces that leave room for other work."""
GATHER_SECONDS = 0.05
"""Entries of a block come one by one; to read them takes time that the look which the first has rung for needs."""
UNANSWERED_MAX = 10_000
"""With so many entries waiting for a look no more are read; they keep in their streams."""
BLOCK_MS = 2_000
TIMEOUT_SECONDS = 5.0
SEARCH_SECONDS = 2.0
SEARCH_REST_FACTOR = 50
"""A search through all keys of a large Redis rests so many times as long as it took."""
STALE_MS = 10_000
DELIVERIES_MAX = 5
"""Taken up so often without an answer, an entry is let go: it is a hint, and the timer looks, too."""
STREAMS_MAX = 1_000
PAUSE_SECONDS = 0.2


@dataclass
class TradeStreams:
    """Rings ``bell`` at entries of the streams whose keys match ``pattern``.

    ``chains``: those known so far. Where the pattern is plain but for one ``*``, their streams are
    made, so that the first entry rings, too.
    """

    url: str
    pattern: str
    bell: Bell
    chains: Callable[[], Awaitable[Iterable[int]]]
    name: str = "redis"
    alive: bool = False
    _ready: set[str] = field(default_factory=set)
    _refused: set[str] = field(default_factory=set)
    _search_at: float = 0.0
    _waiting: deque[tuple[int, str, list[str]]] = field(default_factory=deque)
    """(the look that will answer, stream, entries)"""
    _unanswered: int = 0
    _read_some: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        await persist(self.name, self._listen)

    async def _listen(self) -> None:
        self._ready.clear()
        self._waiting.clear()
        self._search_at, self._unanswered = 0.0, 0
        async with Redis.from_url(
            self.url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS,
            decode_responses=True, encoding_errors="surrogateescape", protocol=2,
        ) as redis:  # fmt: skip
            await together([self._acknowledge(redis), self._read_on(redis)])

    async def _read_on(self, redis: Redis) -> None:
        try:
            while True:
                await self._search(redis)
                self.alive = True
                await self._read(redis)
        finally:
            self.alive = False

    # -- finding streams ---------------------------------------------------------------------

    async def _search(self, redis: Redis) -> None:
        """Now and then: finds streams, makes them ready, takes up what others left."""
        began = time.monotonic()
        if began < self._search_at:
            return
        keys = set(await self._named())
        async for key in redis.scan_iter(match=self.pattern, count=1000, _type="stream"):
            keys.add(key)
        for key in sorted(keys)[:STREAMS_MAX]:
            await self._make_ready(redis, key)
        took = time.monotonic() - began
        self._search_at = time.monotonic() + max(SEARCH_SECONDS, took * SEARCH_REST_FACTOR)

    async def _named(self) -> list[str]:
        """The streams that can be named without a search."""
        head, star, tail = self.pattern.partition("*")
        if set(head + tail) & set("*?[]\\"):
            return []
        return [f"{head}{chain}{tail}" for chain in await self.chains()] if star else [self.pattern]

    async def _make_ready(self, redis: Redis, key: str) -> None:
        try:
            if key not in self._ready:
                await self._make_group(redis, key)
                await self._take_up(redis, key, own=True)
                self._ready.add(key)
            await self._take_up(redis, key, own=False)
            self._refused.discard(key)
        except ResponseError as error:
            self._ready.discard(key)
            if key not in self._refused:
                logger.warning(
                    "doorbell.refused", stream=_told(key), error=_told(first_line(error))
                )
                self._refused.add(key)

    async def _make_group(self, redis: Redis, key: str) -> None:
        try:
            await redis.xgroup_create(key, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _take_up(self, redis: Redis, key: str, *, own: bool) -> None:
        """Entries that were delivered and never answered: our own of before, or stale ones of others.
        What was trimmed since is gone from here, too."""
        start, idle = "-", 0 if own else STALE_MS
        while True:
            pending: Any = await redis.xpending_range(
                key, GROUP, min=start, max="+", count=AT_ONCE, idle=idle
            )
            if not pending:
                return
            start = f"({pending[-1]['message_id']}"
            mine = [p for p in pending if (p["consumer"] == CONSUMER) == own]
            tired = [p["message_id"] for p in mine if p["times_delivered"] >= DELIVERIES_MAX]
            if tired:
                await redis.xack(key, GROUP, *tired)
            ids = [p["message_id"] for p in mine if p["times_delivered"] < DELIVERIES_MAX]
            if ids:
                await redis.xclaim(key, GROUP, CONSUMER, min_idle_time=idle, message_ids=ids)
                self._ring(key, ids)

    # -- reading -----------------------------------------------------------------------------

    async def _read(self, redis: Redis) -> None:
        if not self._ready:
            await asyncio.sleep(SEARCH_SECONDS)
            return
        if self._unanswered >= UNANSWERED_MAX:
            await asyncio.sleep(PAUSE_SECONDS)
            return
        new: Any = dict.fromkeys(sorted(self._ready), ">")
        try:
            found = cast(
                _Found, await redis.xreadgroup(GROUP, CONSUMER, new, AT_ONCE, block=BLOCK_MS)
            )
        except ResponseError:
            # One of them was flushed, deleted, or is another thing now; which, the search finds out.
            self._ready.clear()
            self._search_at = 0.0
            self.bell.ring(early=True)
            await asyncio.sleep(PAUSE_SECONDS)
            return
        for key, entries in found:
            self._ring(key, [entry for entry, _ in entries])
        if found and all(len(entries) < AT_ONCE for _, entries in found):
            await asyncio.sleep(GATHER_SECONDS)

    def _ring(self, key: str, ids: list[str]) -> None:
        self._waiting.append((self.bell.ring(early=True), key, ids))
        self._unanswered += len(ids)
        metrics.RINGS.labels(self.name).inc()
        self._read_some.set()

    async def _acknowledge(self, redis: Redis) -> None:
        """In the order of reading, each when a look that began after it has ended well."""
        while True:
            self._read_some.clear()
            while self._waiting:
                look = self._waiting[0][0]
                await self.bell.answered(look)
                answered: dict[str, list[str]] = {}
                while self._waiting and self._waiting[0][0] <= look:
                    _, key, ids = self._waiting.popleft()
                    answered.setdefault(key, []).extend(ids)
                for key, ids in answered.items():
                    await self._answer(redis, key, ids)
            await self._read_some.wait()

    async def _answer(self, redis: Redis, key: str, ids: list[str]) -> None:
        self._unanswered -= len(ids)
        try:
            await redis.xack(key, GROUP, *ids)
        except ResponseError as error:
            logger.warning("doorbell.refused", stream=_told(key), error=_told(first_line(error)))


def _told(name: str) -> str:
    """A name as a log can hold it: it need not be text."""
    return name.encode(errors="backslashreplace").decode()
