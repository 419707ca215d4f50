"""The pictures of README and docs: ``make screenshots``, from a running demo, healthy and in an outage."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from testbed.chromium import FLAGS, chromium

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDE, PHONE = (1360, 960), (390, 844)
OUTAGE_SECONDS = 45
PATIENCE_SECONDS = 180
IMPATIENT = {
    "SYNC_HEALTHY_LAG_MINUTES": "0.1", "SYNC_WARNING_LAG_MINUTES": "0.2",
    "SYNC_CRITICAL_LAG_MINUTES": "0.4",
}  # fmt: skip
"""So that an outage of less than a minute is one."""


@contextmanager
def demo(home: Path, port: int, **settings: str) -> Iterator[str]:
    """``truetape serve --demo``; its address, once it answers."""
    here = f"http://127.0.0.1:{port}"
    environment = os.environ | {"TRUETAPE_HOME": str(home), "PORT": str(port)} | settings
    process = subprocess.Popen(
        [sys.executable, "-m", "truetape", "serve", "--demo"], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(here, lambda health: bool(health))
        yield here
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def until(here: str, true: Any) -> dict[str, Any]:
    """Waits until health is as wanted."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{here}/api/sync/health", timeout=5) as answer:
                health: dict[str, Any] = json.load(answer)
            if true(health):
                return health
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit("the demo did not become what was to be photographed")


def ask(url: str) -> None:
    request = urllib.request.Request(
        url, b"{}", {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def take(browser: Browser, url: str, name: str, *, scheme: Any, size: tuple[int, int]) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(4000)
    page.screenshot(path=IMAGES / f"{name}.png")
    context.close()
    print(f"docs/images/{name}.png")


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        home.chmod(0o711)
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        with demo(home, port) as here:
            until(here, lambda h: h["isHealthy"] and h["missedTrades"] == 0)
            ask(f"{here}/api/sync/verify")
            take(browser, f"{here}/", "healthy", scheme="light", size=WIDE)
            take(browser, f"{here}/#/market", "market", scheme="dark", size=WIDE)
            take(browser, f"{here}/", "phone", scheme="dark", size=PHONE)
        time.sleep(OUTAGE_SECONDS)
        with demo(home, port, SYNC_FOLLOW="false", **IMPATIENT) as here:
            until(here, lambda h: h["status"] == "unhealthy" and h["missedTrades"])
            take(browser, f"{here}/", "outage", scheme="light", size=WIDE)
        browser.close()


if __name__ == "__main__":
    main()
