"""When to look at the tail: rings say when, and what is found says how soon again.

A ring is worth one look. One that comes before its trades are committed is worth a burst of looks,
for as long as they may still come. Rings may be forged, doubled, or come in floods: looks that find
nothing make the next one wait longer, whatever rings, until something is found again.
"""

import asyncio
import time
from collections.abc import Callable

WAITS_SECONDS = (0.002, *[0.005] * 6, *[0.01] * 4, *[0.02] * 6, *[0.04] * 14, 0.19)
"""How long to wait after a look, by the number of looks in a row that found nothing. As long as
the trades of an early ring may come it is short: half of it is what they wait."""
AFTER_FIND_SECONDS = 0.015
"""So long after a look that has found something those who are told of it come first: what rings early was most
likely found just now, its other entries."""
PATIENCE_SECONDS = 0.03
"""How long the first look after an early ring may wait for its trades, all being ready for them."""
EARLY_SECONDS = 1.0
"""So long after an early ring its trades may still come."""
QUIET_SECONDS = 1.0
"""After so long without a ring the next one is answered at once."""
LIVELY_SECONDS = 10.0
LIVELY_QUIET_SECONDS = 0.2
"""The same where something was found that lately: what rings then is likely a block, whose entries come at
once, some of them when its trades are found already."""


class Bell:
    """Rung by doorbells, answered by looks at the tail, one at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rung = asyncio.Event()
        self._wanted = False
        self._sure = False
        self._early_until = 0.0
        self.rung_at = 0.0
        """When it was rung last (monotonic seconds)."""
        self._looked_at = 0.0
        self._fruitless = 0
        self._found_since = False
        self._found_at = 0.0
        self._begun = 0
        self._answered = 0
        self._answer = asyncio.Condition()

    def ring(self, *, early: bool = False) -> int:
        """``early``: its trades may not be committed yet. The number of the look that will answer."""
        now = self._clock()
        lively = now - self._found_at < LIVELY_SECONDS
        quiet = LIVELY_QUIET_SECONDS if lively else QUIET_SECONDS
        if self._found_since or now - self.rung_at > quiet:
            self._fruitless, self._found_since = 0, False
        self.rung_at = now
        self._wanted = True
        if early:
            self._early_until = now + EARLY_SECONDS
        else:
            self._sure = True
        self._rung.set()
        return self._begun + 1

    @property
    def due_at(self) -> float:
        """When the next look should begin (monotonic seconds); infinity while nothing rings."""
        if not self._wanted and self._clock() >= self._early_until:
            return float("inf")
        waits = WAITS_SECONDS[min(self._fruitless, len(WAITS_SECONDS) - 1)]
        if not self._sure and self._looked_at == self._found_at:
            waits = AFTER_FIND_SECONDS
        return self._looked_at + waits

    async def wait(self, until: float) -> None:
        """Returns at ``until`` (monotonic seconds), or when a ring wants a look before."""
        while (left := min(self.due_at, until) - self._clock()) > 0:
            self._rung.clear()
            try:
                async with asyncio.timeout(left):
                    await self._rung.wait()
            except TimeoutError:
                return

    @property
    def expects(self) -> bool:
        """Whether the trades of an early ring may still come."""
        return self._clock() < self._early_until

    @property
    def patience(self) -> float:
        """How long the look that begins now may wait for what was announced, in seconds."""
        return 0.0 if self._fruitless else PATIENCE_SECONDS

    def begin(self) -> bool:
        """A look begins: it answers all rings so far. Whether one of them came with its trades."""
        sure = self._sure
        self._wanted = self._sure = False
        self._begun += 1
        return sure

    async def end(self, *, found: bool) -> None:
        """The look that began last has come to its end, and all that it found is committed."""
        self._fruitless = 0 if found else self._fruitless + 1
        self._looked_at = self._clock()
        if found:
            self._found_since, self._found_at = True, self._looked_at
        self._answered = self._begun
        async with self._answer:
            self._answer.notify_all()

    async def answered(self, look: int) -> None:
        """Waits until a look of this number, or a later one, has ended well."""
        async with self._answer:
            await self._answer.wait_for(lambda: self._answered >= look)
