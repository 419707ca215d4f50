"""The demo exchange seen from outside: starting it, joining one that runs, stopping it.

It is a process of its own so that trading goes on while the analytics are down, a kill -9 of them
included. The next user joins it by its home directory; when nobody has for an hour, it ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

from truetape.connect import without_password
from truetape.embedded.exchange_home import Home
from truetape.embedded.exchange_terms import Terms
from truetape.errors import TruetapeError

URL_VARIABLE = "EXCHANGE_DATABASE_URL"
"""Hands the URL to the process: a command line is for everybody to read, passwords included."""
REDIS_VARIABLE = "EXCHANGE_REDIS_URL"
"""Likewise that of the Redis in which it announces trades, if any."""
LOG_BYTES_MAX = 1_000_000
STOP_SECONDS = 10.0

_STATE = """
SELECT count(*), coalesce(min(substr(latest_checkpoint, 1, 10)::bigint), 0),
       coalesce(sum(substr(latest_checkpoint, 1, 10)::bigint), 0),
       (SELECT (value->>'is_ready')::int = 1 FROM {meta} WHERE key = 'app')
FROM {checkpoint}
"""


def start_exchange(
    database_url: str,
    home: Path,
    terms: Terms | None = None,
    redis_url: str | None = None,
    server: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts the process and returns at once. It outlives us, and Ctrl-C does not reach it.

    ``server``: directory of the embedded PostgreSQL that it writes into, so that it counts as one of its
    users: whoever looks in while we are gone would be the last one otherwise, and stop it.
    """
    log = Home(home).log
    too_long = log.exists() and log.stat().st_size > LOG_BYTES_MAX
    command = [sys.executable, "-m", "truetape.embedded.exchange", "--home", str(home)]
    if server is not None:
        command += ["--server", str(server)]
    with log.open("wb" if too_long else "ab") as output:
        return subprocess.Popen(
            command + (terms or Terms()).arguments(),
            env={**os.environ, URL_VARIABLE: database_url, REDIS_VARIABLE: redis_url or ""},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def stop_exchange(home: Path) -> bool:
    """Ends the exchange that runs from ``home``; False when there is none."""
    place = Home(home)
    found = place.occupant()
    if found is None:
        return False
    ends_at = time.monotonic() + STOP_SECONDS
    _signal(found[0], signal.SIGTERM)
    while place.occupant() == found:
        if time.monotonic() > ends_at:  # it hangs in a database that does not answer
            _signal(found[0], signal.SIGKILL)
        time.sleep(0.05)
    return True


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Exchange:
    """The demo exchange of one home directory, writing into one database, announcing in a Redis.

    ``server``: see ``start_exchange``.
    """

    def __init__(
        self,
        home: Path,
        database_url: str,
        redis_url: str | None = None,
        server: Path | None = None,
    ) -> None:
        self._home = Home(home)
        self._server = server
        self._url = database_url
        self._redis_url = redis_url
        self._process: subprocess.Popen[bytes] | None = None
        self._want: IO[str] | None = None

    @property
    def running(self) -> bool:
        found = self._home.occupant()
        return found is not None and found[1] == without_password(self._url)

    def start(
        self,
        terms: Terms | None = None,
        *,
        timeout: float = 120.0,
        progress: Callable[[float], None] | None = None,
    ) -> bool:
        """Joins the exchange that runs from this home, or starts one; True when it joined.

        Returns when the history is in and blocks come as they should. ``progress`` is called with
        the share of the history that is in, 0 to 1. One that runs keeps its own terms; one that
        writes into another database is stopped first. Raises TruetapeError with a sentence.
        """
        terms = terms or Terms()
        self._want = self._want or self._home.want()
        joined = self.running
        if not joined:
            stop_exchange(self._home.path)
            self._process = self._start(terms)
        ends_at = time.monotonic() + timeout
        while (share := self._loaded(terms)) < 1 or not self.running:
            if progress is not None:
                progress(min(share, 0.99))
            self._check_alive(terms)
            if time.monotonic() > ends_at:
                raise TruetapeError(
                    f"The demo exchange has no history after {timeout:.0f} s: "
                    f"{self._home.last_line()} ({self._home.log})"
                )
            time.sleep(0.1)
        if progress is not None:
            progress(1.0)
        return joined

    def _start(self, terms: Terms) -> subprocess.Popen[bytes]:
        return start_exchange(self._url, self._home.path, terms, self._redis_url, self._server)

    def _check_alive(self, terms: Terms) -> None:
        if self.running:
            return
        if self._process is None:  # the one that we joined was about to end
            self._process = self._start(terms)
        elif self._process.poll() is not None:
            raise TruetapeError(f"The demo exchange ended: {self._home.last_line()}")

    def _loaded(self, terms: Terms) -> float:
        """The share of the history that is in; 1 means that every chain is at the present."""
        names = {n: sql.Identifier(terms.schema, f"_ponder_{n}") for n in ("meta", "checkpoint")}
        try:
            with psycopg.connect(self._url, connect_timeout=5) as conn:
                row = conn.execute(sql.SQL(_STATE).format(**names)).fetchone()
        except psycopg.Error:
            return 0.0
        assert row is not None
        chains, slowest, total, ready = int(row[0]), int(row[1]), int(row[2]), bool(row[3])
        now = time.time()
        if ready and chains >= terms.chains and slowest >= now - terms.block_time - 3:
            return 1.0
        history = max(1.0, terms.history_days * 86_400)
        behind = now * chains - total
        return min(0.99, max(0.0, (chains - behind / history) / terms.chains))

    def stop(self) -> None:
        """Ends it, unless somebody else uses it."""
        if self._want is not None:
            self._want.close()
            self._want = None
        if self._home.wanted():
            self._process = None
            return
        if self._process is not None:
            self._process.terminate()  # it may not have moved in yet
        stop_exchange(self._home.path)
        if self._process is not None:
            self._process.wait(STOP_SECONDS)
            self._process = None
