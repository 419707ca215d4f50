"""Told to stop while everybody wants something of it: it ends soon, cleanly, and has lost nothing."""

import http.client
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from load import Load, add_history
from served import Served
from watch import becomes_true, shown, until

STOP_SECONDS = 10
TRADES = 800_000
"""More than a machine catches up on, under that load, before it has to stop."""


def ask(served: Served, path: str, stop: threading.Event) -> None:
    """Asks over and over; what becomes of the answer is not looked at."""
    while not stop.is_set():
        with suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(served.here + path, timeout=30).read()


def run_and_wait(served: Served, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(OSError, http.client.HTTPException, ValueError):
            served.post("/api/sync/run", {"strategy": "comprehensive"})
        stop.wait(0.1)


def test_it_stops_within_ten_seconds_under_load(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    add_history(source_url, TRADES)
    served = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url, SYNC_BATCH_SIZE="20000",
    )  # fmt: skip
    served.start()
    stop = threading.Event()
    paths = ("/api/stream", "/api/stream", "/api/sync/health", "/api/market/symbols", "/api/trades")
    threads = [threading.Thread(target=ask, args=(served, path, stop)) for path in paths]
    threads.append(threading.Thread(target=run_and_wait, args=(served, stop)))
    try:
        with Load(source_url):
            for thread in threads:
                thread.start()
            until("the catch-up has begun", lambda: shown(analytics_url) > 0)
            began = time.monotonic()
            assert served.end() == 0
            took = time.monotonic() - began
            print(f"stopped in {took:.1f} s, {shown(analytics_url)} trades in")
            assert took < STOP_SECONDS
            assert shown(analytics_url) < TRADES, "it was still catching up"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    served.start()
    try:
        becomes_true(served, source_url, analytics_url)
    finally:
        served.end()
