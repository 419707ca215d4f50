"""Doorbells: what tells that trades may have come. They say when; what has come, the database says.

Each may be absent, lost, doubled, forged or in flood. A doorbell only ever rings; it reads nothing
that is believed, and its faults end in a pause and another try, never in a fault of the sync.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from truetape import log, metrics
from truetape.connect import CONNECT_TIMEOUT_SECONDS, DEAD_PEER, first_line

logger = log.get(__name__)

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 30.0
STILL_THERE_SECONDS = 10.0
"""How often a silent connection is asked whether it still listens, and how long it may take to answer."""

NAME_BYTES_MAX = 63
CHANNELS = ("{schema}_live_query", "{schema}_status_channel")
"""Ponder's: the first since 0.11 or so, for a schema and for a views schema alike; the second of 0.9."""


class Doorbell(Protocol):
    """``name`` as health shows it; ``alive`` while rings can be heard."""

    name: str
    alive: bool

    async def listen(self) -> None:
        """Rings until cancelled, whatever happens at the other end."""


async def persist(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does some work again and again. A fault is told once, until it has gone well for a while."""
    pause, told = FIRST_PAUSE_SECONDS, False
    while True:
        began = time.monotonic()
        try:
            await work()
        except Exception as error:
            if time.monotonic() - began > STEADY_SECONDS:
                pause, told = FIRST_PAUSE_SECONDS, False
            if not told:
                logger.warning("doorbell.lost", doorbell=name, error=first_line(error))
                told = True
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


class Notifications:
    """Ponder's NOTIFY after each block, over a connection of its own.

    It comes with the commit. Listening needs no right; anybody may notify; what is said is not read.
    """

    name = "notify"

    def __init__(self, source_url: str, schema: str, ring: Callable[[], object]) -> None:
        self.alive = False
        self._ring = ring
        names = (c.format(schema=schema) for c in CHANNELS)
        self._channels = [n.encode()[:NAME_BYTES_MAX].decode(errors="ignore") for n in names]
        self._conninfo = make_conninfo(
            source_url,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="truetape",
            **{k: v for k, v in DEAD_PEER.items() if k not in conninfo_to_dict(source_url)},
        )

    async def listen(self) -> None:
        await persist(self.name, self._listen)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, prepare_threshold=None
        ) as conn:
            for channel in self._channels:
                await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            conn.add_notify_handler(lambda _: self._rung())  # What comes with another answer.
            try:
                while await self._still_listens(conn):
                    if not self.alive:
                        self.alive = True
                        self._ring()  # For what has come while nobody listened.
                    while await _readable(conn, STILL_THERE_SECONDS):
                        if _heard(conn):
                            self._rung()
            finally:
                self.alive = False

    def _rung(self) -> None:
        metrics.RINGS.labels(self.name).inc()
        self._ring()

    async def _still_listens(self, conn: psycopg.AsyncConnection) -> bool:
        """Raises when the server is gone; a pooler in between may have given us another session."""
        async with asyncio.timeout(STILL_THERE_SECONDS):
            row = await (
                await conn.execute(
                    "SELECT count(*) FROM pg_listening_channels() c WHERE c = ANY(%s)",
                    (self._channels,),
                )
            ).fetchone()
        if row is None or row[0] != len(self._channels):
            raise ConnectionError("a pooler in between does not pass notifications on")
        return True


def _heard(conn: psycopg.AsyncConnection) -> bool:
    """Reads what the server has said unasked; whether a notification is among it. ``notifies`` with a timeout
    of nothing may end before it has read any."""
    conn.pgconn.consume_input()
    heard = False
    while conn.pgconn.notifies() is not None:
        heard = True
    return heard


async def _readable(conn: psycopg.AsyncConnection, seconds: float) -> bool:
    """Whether the server says something within some seconds. ``notifies`` would wake up ten times a
    second to find out."""
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(conn.fileno(), said.set)
    try:
        async with asyncio.timeout(seconds):
            await said.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(conn.fileno())
    return True
