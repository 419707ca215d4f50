"""A circuit breaker for each server that we need: who asks while one is away is answered at once.

Told by the attempts to connect. Our own work goes on trying at its own pace, and so is the probe that
closes the circuit; where nothing of ours tries, one caller is let through now and then.
"""

import time

from truetape import log, metrics

logger = log.get(__name__)

FAULTS = 3
"""Attempts that fail in a row before the circuit opens."""
PROBE_SECONDS = 3.0
"""So long after the last attempt a caller may make the next."""


class Circuit:
    """Whether calls to a server pass (closed) or fail at once (open)."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.why = ""
        """The last fault, in one line."""
        self._faults = 0
        self._probe_at = 0.0
        metrics.CIRCUIT_OPEN.labels(server).set(0)

    @property
    def is_open(self) -> bool:
        return self._faults >= FAULTS

    @property
    def state(self) -> str:
        return "open" if self.is_open else "closed"

    def lets_through(self) -> bool:
        """Whether a call may try: any while closed; while open one, if nobody has tried of late."""
        now = time.monotonic()
        if self.is_open and now < self._probe_at:
            return False
        self._probe_at = now + PROBE_SECONDS
        return True

    def failed(self, why: str) -> None:
        """The server could not be reached."""
        self.why = why
        self._faults += 1
        self._probe_at = time.monotonic() + PROBE_SECONDS
        if self._faults == FAULTS:
            metrics.CIRCUIT_OPEN.labels(self.server).set(1)
            logger.warning("circuit.opened", server=self.server, error=why)

    def succeeded(self) -> None:
        """The server answers."""
        if self.is_open:
            metrics.CIRCUIT_OPEN.labels(self.server).set(0)
            logger.info("circuit.closed", server=self.server)
        self._faults = 0
