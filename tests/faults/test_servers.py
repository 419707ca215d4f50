"""A database server dies and comes back: does the sync go on by itself, with every trade once?"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from load import Load, add_history
from served import Served
from watch import becomes_true, shown, until

from conftest import SOURCE_TABLES, passable
from truetape.embedded import EmbeddedPostgres

DEATHS = (signal.SIGQUIT, signal.SIGKILL)
"""PostgreSQL's immediate stop, and its sudden end."""


class Mortal:
    """A PostgreSQL that dies and comes back at the same port."""

    def __init__(self, home: Path) -> None:
        self._server = EmbeddedPostgres(home)
        self._server.acquire()
        self.url = self._server.ensure_database("trades")

    def die(self, number: int) -> None:
        pid = self._server._pid()
        assert pid is not None
        os.kill(pid, number)
        until("dead", lambda: not self._server._runs(pid))

    def come_back(self) -> None:
        port = self._server.port
        self._server.release()
        self._server.acquire()
        assert self._server.port == port, "it came back elsewhere"

    def close(self) -> None:
        self._server.release()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    server = Mortal(passable(tmp_path) / "postgres")
    yield server
    server.close()


@pytest.mark.parametrize("side", ["analytics", "source"])
def test_a_server_dies_twice_under_load_and_the_sync_goes_on_by_itself(
    side: str, mortal: Mortal, source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    if side == "source":
        source_url = mortal.url
        with psycopg.connect(source_url, autocommit=True) as conn:
            conn.execute(SOURCE_TABLES)
    else:
        analytics_url = mortal.url
    add_history(source_url, 3000)
    served = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
    )  # fmt: skip
    served.start()
    try:
        with Load(source_url) as load:
            served.until(lambda: shown(analytics_url) > 3050, "follows")
            for death in DEATHS:
                mortal.die(death)
                down = served.until(lambda: served.get("/api/sync/health", 503), "503", 10)
                assert side in down["error"]
                if side == "analytics":
                    load.grow(100)
                mortal.come_back()
                before = shown(analytics_url)
                load.grow(50)
                served.until(lambda before=before: shown(analytics_url) > before, "goes on", 30)
        becomes_true(served, source_url, analytics_url)
        assert served.end() == 0
    finally:
        if served.process is not None and served.process.poll() is None:
            served.end(signal.SIGKILL)


OUTAGE_SECONDS = 18
"""Longer than a pool that doubles its waits would need to sleep on through the server's return."""


@pytest.mark.parametrize("side", ["analytics", "source"])
def test_after_a_long_outage_the_first_seconds_are_enough_and_meanwhile_calls_fail_at_once(
    side: str, mortal: Mortal, source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    if side == "source":
        source_url = mortal.url
        with psycopg.connect(source_url, autocommit=True) as conn:
            conn.execute(SOURCE_TABLES)
    else:
        analytics_url = mortal.url
    add_history(source_url, 500)
    served = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
    )  # fmt: skip
    served.start()
    try:
        served.until_complete()
        assert served.health()["circuits"] == {"source": "closed", "analytics": "closed"}
        mortal.die(signal.SIGQUIT)
        died_at = time.monotonic()
        asked = "/api/sync/gaps" if side == "source" else "/api/market/symbols"
        served.until(lambda: circuits(served).get(side) == "open", "the circuit opens", 15)
        at_once = 0
        while time.monotonic() < died_at + OUTAGE_SECONDS:
            refusal = served.get(asked, 503)
            at_once += refusal["error"] == f"The {side} database is away; try again in a second."
            time.sleep(0.2)
        assert at_once > OUTAGE_SECONDS / 2, "one probe a second, two seconds long at most"
        mortal.come_back()
        served.until(lambda: served.get("/api/sync/health"), "health again", 5)
        served.until_complete(10)
        assert circuits(served) == {"source": "closed", "analytics": "closed"}
        assert served.get(asked) is not None
        assert served.end() == 0
    finally:
        if served.process is not None and served.process.poll() is None:
            served.end(signal.SIGKILL)


def circuits(served: Served) -> dict[str, str]:
    """Of each server whether calls reach it; told with health, whatever its status."""
    found = served.health() or served.get("/api/sync/health", 503) or {}
    return dict(found.get("circuits", {}))
