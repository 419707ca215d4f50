"""What is done again and again while a process leads, and how long it rests in between."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from truetape.source.bell import Bell

REST_FACTOR = 20
"""A chore rests this many times as long as it took: no more than a twentieth of a core."""
LONGEST_REST = 10
"""But never so many times its own interval."""
QUIET_FACTOR = 3
"""How many times as long it may rest in a quiet market."""


@dataclass
class Chore:
    """Something that is done again and again, rested in between by what it costs."""

    name: str
    every: float
    work: Callable[[], Awaitable[object]]
    """What it is; False, where it has not been done: it is due when it was before."""
    bell: Bell | None = None
    """What calls for it before its time."""
    rest_factor: int = REST_FACTOR
    can_wait: Callable[[], bool] = lambda: False
    """Whether it may rest ``QUIET_FACTOR`` times as long just now."""
    next_at: float = 0.0
    took: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def due_at(self) -> float:
        return self.rests_until if self.bell is None else min(self.rests_until, self.bell.due_at)

    @property
    def rests_until(self) -> float:
        """Longer while it can wait; asked anew each time, so that it is there once it cannot."""
        return self.next_at + (self.every * (QUIET_FACTOR - 1) if self.can_wait() else 0.0)

    async def rest(self, until: float) -> None:
        if self.bell is not None:
            await self.bell.wait(until)
        else:
            await asyncio.sleep(max(until - time.monotonic(), 0.001))

    async def run_if_due(self) -> None:
        began = time.monotonic()
        if began < self.due_at or await self.work() is False:
            return
        # The least of some: one look held up by something else says nothing about its cost. Where
        # all is slow, it is waiting more than work: no rest grows without end.
        self.took.append(time.monotonic() - began)
        rest = min(min(self.took) * self.rest_factor, self.every * LONGEST_REST)
        self.next_at = time.monotonic() + max(self.every, rest)


async def do_in_turn(chores: list[Chore]) -> None:
    """Each when it is due, one at a time, until cancelled."""
    while True:
        for chore in chores:
            await chore.run_if_due()
        first = min(chores, key=lambda c: c.due_at)
        await first.rest(first.rests_until)
