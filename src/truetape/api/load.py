"""What keeps us from being overloaded: so many calls a second, whole requests in good time, and no
waiting for a server that is away."""

import asyncio
import math
import time
from collections import OrderedDict
from ipaddress import ip_network

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from truetape.api.faults import answer
from truetape.circuit import Circuit

CALLS_PER_SECOND = 300
"""From one address in the long run; a page of ours needs about five."""
CALLS_AT_ONCE = 600
ADDRESSES_MAX = 10_000
REQUEST_SECONDS = 10.0
"""For a whole request to arrive; who sends a byte now and then would keep a connection for ever."""
UNREAD_SECONDS = 30.0
"""For whoever is answered to read on."""

_UNLIMITED = "/livez"
_TELL_BY_THEMSELVES = {"/api/sync/health", "/api/sync/status", "/api/stream"}
_NEED_THE_SOURCE = {"/api/sync/run", "/api/sync/force", "/api/sync/retry", "/api/sync/verify", "/api/sync/gaps"}  # fmt: skip


class CallLimit:
    """A token bucket for each address; those that have been quiet longest are forgotten first."""

    def __init__(
        self, per_second: float = CALLS_PER_SECOND, at_once: float = CALLS_AT_ONCE
    ) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address → (calls left, when they were counted)."""

    def wait_for(self, address: str, now: float) -> float:
        """Seconds until the next call may come; zero, and this one counts, if it may come now."""
        left, counted_at = self._buckets.pop(address, (self._at_once, now))
        left = min(left + (now - counted_at) * self._per_second, self._at_once)
        allowed = left >= 1
        self._buckets[address] = (left - allowed, now)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second


def _caller(scope: Scope) -> str:
    """The address that calls; of IPv6 the network, whose addresses are all one customer's."""
    address = str(scope["client"][0]) if scope["client"] else ""
    if ":" not in address:
        return address
    return str(ip_network(f"{address.partition('%')[0]}/64", strict=False))


def needs(path: str) -> tuple[str, ...]:
    """The servers without which a call cannot be answered; none where the answer says so itself."""
    if not path.startswith("/api/") or path in _TELL_BY_THEMSELVES:
        return ()
    return ("analytics", "source") if path in _NEED_THE_SOURCE else ("analytics",)


class Load:
    """Refuses, before anything else is done, what comes too fast or cannot be answered now."""

    def __init__(self, app: ASGIApp, circuits: dict[str, Circuit]) -> None:
        self._app = app
        self._circuits = circuits
        self._limit = CallLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            status, error, seconds = refusal
            refused = answer(status, error)
            refused.headers["Retry-After"] = str(math.ceil(seconds))
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, float] | None:
        """(status, sentence, seconds to wait)."""
        path = scope["path"]
        if path == _UNLIMITED:
            return None
        wait = self._limit.wait_for(_caller(scope), time.monotonic())
        if wait:
            return 429, f"More than {CALLS_PER_SECOND} calls a second; try again in a second.", wait
        for server in needs(path):
            if not self._circuits[server].lets_through():
                return 503, f"The {server} database is away; try again in a second.", 1
        return None


class PromptProtocol(H11Protocol):
    """HTTP for those who finish what they ask; all others are hung up on after a while."""

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for waiting in (self._late, self._unread):
            if waiting is not None:
                waiting.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_a_request()

    def _expect_a_request(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(REQUEST_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        is_whole = self.cycle is not None and not self.cycle.more_body
        if not is_whole or self.cycle.response_complete:
            self.transport.close()


def install(app: FastAPI, circuits: dict[str, Circuit]) -> None:
    app.add_middleware(Load, circuits=circuits)
