"""How far a piece of work was, second by second."""

import time
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

STEP_SECONDS = 0.25
"""Our runs say half as often how far they are."""


@dataclass
class Course:
    """Seconds since its making, and what was done by then."""

    began: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=lambda: [0.0])
    done: list[int] = field(default_factory=lambda: [0])

    def note(self, done: int) -> None:
        """Costs nothing where it is called for every block of some rows."""
        now = time.monotonic() - self.began
        if done != self.done[-1] and now - self.seconds[-1] >= STEP_SECONDS:
            self._put(now, done)

    def end(self, done: int) -> float:
        """Seconds that it took."""
        now = time.monotonic() - self.began
        self._put(now, done)
        return now

    def _put(self, at: float, done: int) -> None:
        self.seconds.append(round(at, 2))
        self.done.append(done)

    def figures(self, total: int | None = None) -> dict[str, Any]:
        """``total``: trades that all of it is, where bytes were counted."""
        scale = 1.0 if total is None else total / self.done[-1]
        return {"seconds": self.seconds, "trades": [round(d * scale) for d in self.done]}


def rates(seconds: list[float], done: list[int], width: float) -> tuple[list[float], list[float]]:
    """Windows of about ``width`` seconds: their edges, and what was done a second in each. Whole
    batches are committed at once, so between two notes it is taken as even."""
    count = max(round(seconds[-1] / width), 1)
    edges = [seconds[-1] * n / count for n in range(count + 1)]
    at = [_between(seconds, done, edge) for edge in edges]
    each = seconds[-1] / count
    return edges, [(b - a) / each for a, b in pairwise(at)]


def _between(seconds: list[float], done: list[int], at: float) -> float:
    after = min(max(bisect_right(seconds, at), 1), len(seconds) - 1)
    start, end = seconds[after - 1], seconds[after]
    share = (at - start) / (end - start) if end > start else 1.0
    return done[after - 1] + min(share, 1.0) * (done[after] - done[after - 1])
