"""Truetape as a user runs it: a process of its own, asked over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

READY_SECONDS = 60
PATIENCE = 2
"""Times as long as it should take at worst is waited for what a test says: machines may be busy."""


def environment(**settings: str) -> dict[str, str]:
    """Ours without any setting of Truetape's but these."""
    from truetape.settings import Settings

    known = {row["name"] for row in Settings.load().shown()} | {"TIMESCALE_DATABASE_URL"}
    return {k: v for k, v in os.environ.items() if k not in known} | settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def truetape(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """One verb, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "truetape", *arguments],
        env=environment(**settings), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


class Served:
    """``truetape serve`` on a free port."""

    def __init__(self, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.here = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.settings = settings | {"PORT": str(self.port)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "truetape", "serve"],
                env=environment(**self.settings), stdout=log, stderr=log,
            )  # fmt: skip
        if wait:
            self.until(lambda: self.get("/livez"), "serve answers")

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def get(self, path: str, status: int = 200) -> Any:
        return self._ask(urllib.request.Request(self.here + path), status)

    def post(
        self, path: str, body: Any = None, status: int = 200, headers: dict[str, str] | None = None
    ) -> Any:
        data = json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        request = urllib.request.Request(self.here + path, data, headers, method="POST")
        return self._ask(request, status)

    def _ask(self, request: urllib.request.Request, status: int) -> Any:
        """The JSON of an answer with this status; None while there is no such answer."""
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer) if answer.status == status else None
        except urllib.error.HTTPError as error:
            return json.load(error) if error.code == status else None
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def health(self) -> dict[str, Any]:
        return dict(self.get("/api/sync/health") or {})

    def until(self, true: Any, what: str, seconds: float = READY_SECONDS) -> Any:
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            found = true()
            if found:
                return found
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {seconds} s\n{self.log.read_text()[-3000:]}")

    def until_complete(self, seconds: float = READY_SECONDS) -> dict[str, Any]:
        def complete() -> dict[str, Any] | None:
            health = self.health()
            return health if health.get("missedTrades") == 0 and health["isHealthy"] else None

        return dict(self.until(complete, "complete", seconds))
