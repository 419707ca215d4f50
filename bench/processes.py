"""The exchange and `truetape serve`, each a process of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

START_SECONDS = 120


@contextmanager
def exchange(module: str, *arguments: object, **environment: str) -> Iterator[Any]:
    """One that trades, once its first block is there; each line of it tells of a block that is committed."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the exchange did not begin to trade")
        yield process.stdout
    finally:
        process.terminate()
        process.wait()


def health(port: int) -> dict[str, Any] | None:
    """What the service says of itself; None while it does not answer."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/api/sync/health")
        return dict(json.load(connection.getresponse()))
    except (OSError, ValueError):
        return None


def is_complete(port: int) -> bool:
    """Whether it says that nothing is missing, and follows."""
    found = health(port)
    return bool(found and found["following"] and found["isHealthy"] and found["missedTrades"] == 0)


def answers(port: int) -> bool:
    return health(port) is not None


@contextmanager
def served(
    source_url: str, analytics_url: str, redis_url: str,
    ready: Callable[[int], bool] = is_complete,
) -> Iterator[tuple[int, int]]:  # fmt: skip
    """``truetape serve``: its port and process id, once it is ``ready``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {
        "PONDER_DATABASE_URL": source_url, "ANALYTICS_DATABASE_URL": analytics_url,
        "REDIS_URL": redis_url, "PORT": str(port),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "truetape", "serve"], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("truetape serve did not become complete")
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
