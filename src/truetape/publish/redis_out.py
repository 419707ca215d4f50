"""The stream in Redis: every event once, under its own number, in a stream that is bounded."""

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from truetape import log
from truetape.circuit import Circuit
from truetape.connect import at_once, first_line
from truetape.publish.feed import Feed, Unseen
from truetape.store import outbox
from truetape.store.outbox import Event

logger = log.get(__name__)

STREAM = "truetape:updates"
KEPT_ENTRIES = 10_000
TIMEOUT_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
LIFE_MAX = 2**53
"""Beyond what JSON's numbers hold: no number of ours."""


class RedisStream:
    """Follows the feed and adds each event to ``truetape:updates``, by whoever leads.

    An entry's id is the event's number, and Redis takes no id twice: after a crash it is simply tried
    again. Redis may come and go; what it misses is made up for as far as it is kept.
    """

    def __init__(self, url: str, feed: Feed, circuit: Circuit) -> None:
        self._url = url
        self._feed = feed
        self._circuit = circuit
        self._told = False
        self.sent = 0
        """The last number that is known to be there."""

    async def publish(self) -> None:
        """Runs until cancelled."""
        async with at_once(self._feed.analytics) as conn:
            self.sent = (await outbox.position(conn))[1]
        pause = FIRST_PAUSE_SECONDS
        while not self._feed.closed:
            try:
                async with Redis.from_url(
                    self._url,
                    socket_timeout=TIMEOUT_SECONDS,
                    socket_connect_timeout=TIMEOUT_SECONDS,
                    decode_responses=True,
                    encoding_errors="surrogateescape",  # Others may put in what is no text.
                    protocol=2,
                ) as redis:
                    await self._greet(redis)
                    self._circuit.succeeded()
                    while not self._feed.closed:
                        await self._send_some(redis)
                        self._told, pause = False, FIRST_PAUSE_SECONDS
            except (RedisError, OSError, TimeoutError) as error:
                self._circuit.failed(first_line(error))
                if not self._told:
                    logger.warning("redis.out_failed", stream=STREAM, error=first_line(error))
                    self._told = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _greet(self, redis: Redis) -> None:
        """Finds what is there: ours from before, or numbers of another life of the analytics."""
        if not await redis.exists(STREAM):
            return
        about = await redis.xinfo_stream(STREAM)
        last = int(str(about["last-generated-id"]).partition("-")[0])
        newest = await self._feed.position()
        if last > LIFE_MAX:
            logger.warning("redis.stream_dropped", stream=STREAM, last_id=last)
            await redis.delete(STREAM)
        elif last > newest:
            async with at_once(self._feed.analytics) as conn:
                await outbox.raise_position(conn, last)
            self.sent = last
        else:
            self.sent = max(self.sent, last)

    async def _send_some(self, redis: Redis) -> None:
        await self._feed.news(self.sent)
        found = await self._feed.after(self.sent)
        if isinstance(found, Unseen):
            self.sent = found.resumes_at - 1
            return
        if found:
            await self._add(redis, found)
            self.sent = found[-1].sequence

    async def _add(self, redis: Redis, events: list[Event]) -> None:
        pipeline = redis.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(
                STREAM, {"event": event.kind, "data": event.text}, id=f"{event.sequence}-0",
                maxlen=KEPT_ENTRIES, approximate=True,
            )  # fmt: skip
        # An id that is taken, or below one that somebody else has put there, ends this connection:
        # the next begins by finding out which.
        await pipeline.execute()
