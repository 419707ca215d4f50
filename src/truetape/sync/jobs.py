"""Shared work, as who leads sees it: slices put on the queue for workers anywhere, and waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool

from truetape import log
from truetape.errors import TruetapeError
from truetape.store import jobs
from truetape.store.jobs import Standing
from truetape.store.lease import LeaseLostError
from truetape.trade import Slice

if TYPE_CHECKING:
    from truetape.store.queue import Queue

logger = log.get(__name__)

LOOK_SECONDS = 0.25
"""How often to look for what other processes have done."""
GIVE_BACK_SECONDS = 2.0
BACKGROUND = -10
"""The priority of what nobody has asked for."""

Wanted = tuple[Slice, dict[str, Any]]
"""Where to look, and what else there is to say."""


class JobFailedError(TruetapeError):
    """A worker could not do its slice; the message is its reason."""


@dataclass
class Jobs:
    """The jobs of one run, or of the scrub (``run_id`` None), under one leader."""

    queue: "Queue"
    analytics: AsyncConnectionPool
    epoch: int
    run_id: int | None = None
    priority: int = 0
    _open: list[int] = field(default_factory=list)
    """Those that were put on the queue and not taken back."""
    _first: int = 2**62

    async def put(self, kind: str, wanted: Iterable[Wanted]) -> None:
        """Puts slices on the queue; they are begun at once."""
        told = {"kind": kind, "run_id": self.run_id, "epoch": self.epoch}
        if payloads := [told | {"part": asdict(part)} | more for part, more in wanted]:
            numbers = await self.queue.put(payloads, priority=self.priority)
            self._open += numbers
            self._first = min(self._first, numbers[0])

    async def standing(self) -> Standing:
        """How far they are, those of leaders before us included in what was brought."""
        async with self.analytics.connection() as conn:
            return await jobs.standing(conn, self.run_id, self._first)

    async def results(self) -> list[dict[str, Any]]:
        """What they found, from the oldest slice on."""
        async with self.analytics.connection() as conn:
            return await jobs.results(conn, self.run_id, self._first)

    async def wait(
        self, stop: asyncio.Event, tell: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Until all are done; after ``stop``, those that are under way. Raises JobFailedError, and
        LeaseLostError where another leads."""
        gave_back_at = time.monotonic()
        while self._open:
            self.queue.moved.clear()
            now = await self.standing()
            if now.epoch != self.epoch:
                raise LeaseLostError("Another process leads now, and asks for this work anew.")
            if now.failure is not None:
                await self._take_back()
                raise JobFailedError(now.failure)
            if now.done >= len(self._open):
                return
            if stop.is_set():
                await self._take_back()
            if time.monotonic() - gave_back_at > GIVE_BACK_SECONDS:
                gave_back_at = time.monotonic()
                if given := await self.queue.give_back():
                    logger.warning("slice.given_back", count=given)
            if tell is not None:
                await tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.queue.moved.wait()

    async def _take_back(self) -> None:
        self._open = await self.queue.take_back(self._open)
