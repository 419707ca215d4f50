"""Shared work, as who leads sees it: slices put on the queue for workers anywhere, and waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool

from truetape import log
from truetape.connect import first_line, is_transient
from truetape.errors import TruetapeError
from truetape.store import jobs
from truetape.store.jobs import Standing
from truetape.store.lease import LeaseLostError
from truetape.store.migrate import latest_version
from truetape.trade import Slice

if TYPE_CHECKING:
    from truetape.store.queue import Queue

logger = log.get(__name__)

LOOK_SECONDS = 0.25
"""How often to look for what other processes have done."""
TEND_SECONDS = 2.0
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
        told = {
            "kind": kind, "run_id": self.run_id, "epoch": self.epoch, "version": latest_version(),
        }  # fmt: skip
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

    @property
    def last(self) -> int:
        """The job that was put last."""
        return max(self._open, default=0)

    async def wait(
        self, stop: asyncio.Event, tell: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Until all are done; after ``stop``, those that are under way. Raises JobFailedError, and
        LeaseLostError where another leads. A database that is away for a while is waited for."""
        tended_at = time.monotonic()
        while self._open:
            self.queue.moved.clear()
            try:
                if await self._are_done():
                    return
                if stop.is_set():
                    self._open = await self.queue.take_back(self._open)
                if time.monotonic() - tended_at > TEND_SECONDS:
                    tended_at = time.monotonic()
                    await self._tend()
                if tell is not None:
                    await tell()
            except Exception as error:
                if not is_transient(error):
                    raise
                logger.warning("jobs.unknown", error=first_line(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.queue.moved.wait()

    async def _are_done(self) -> bool:
        now = await self.standing()
        if now.epoch != self.epoch:
            raise LeaseLostError("Another process leads now, and asks for this work anew.")
        if now.failure is not None:
            await self.queue.take_back(self._open)
            raise JobFailedError(now.failure)
        return now.done >= len(self._open)

    async def _tend(self) -> None:
        """Has done what was in the hands of the dead; sees to it that none is lost."""
        if given := await self.queue.give_back():
            logger.warning("slice.given_back", count=given)
        held = await self.queue.held(self._open)
        async with self.analytics.connection() as conn:
            done = await jobs.done_of(conn, self._open)
        if lost := len(set(self._open) - held - done):
            raise JobFailedError(f"{lost} slices are gone from the queue; ask again.")
