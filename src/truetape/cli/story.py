"""``truetape demo``: an outage told in a terminal, on real servers, in about a minute."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from truetape.cli.common import ended_badly, notes, run, say_json, set_up_logs
from truetape.cli.opening import opened
from truetape.errors import TruetapeError
from truetape.settings import Settings

START_SECONDS = 180.0
LAG_SETTINGS = {
    # In a story of a minute, five seconds are late already.
    "SYNC_HEALTHY_LAG_MINUTES": "0.08",
    "SYNC_WARNING_LAG_MINUTES": "0.1",
    "SYNC_CRITICAL_LAG_MINUTES": "0.2",
}


class Service:
    """A ``truetape serve --demo`` of our own, on a free port."""

    def __init__(self, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self._here = f"http://127.0.0.1:{port}"
        self._environment = environment | {"PORT": str(port)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "truetape", "serve", "--demo"], env=self._environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def get(self, path: str) -> Any:
        """The JSON of a call; None while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self._here}{path}", timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            if self._process is not None and self._process.poll() is not None:
                raise TruetapeError(
                    "the service of the demo ended; try: truetape serve --demo"
                ) from None
            return None

    def healthy(self, patience: float) -> dict[str, Any]:
        """Waits until health is green."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            health = self.get("/api/sync/health")
            if health is not None and health["isHealthy"] and health["missedTrades"] == 0:
                return dict(health)
            time.sleep(0.2)
        raise TruetapeError(f"health did not become green within {patience:.0f} s")


def demo(seconds: float, *, as_json: bool) -> None:
    set_up_logs(quiet=True)
    settings = Settings.load()
    home = settings.home / "story"
    os.environ |= LAG_SETTINGS | {"TRUETAPE_HOME": str(home)}
    for name in (
        "PONDER_DATABASE_URL",
        "ANALYTICS_DATABASE_URL",
        "TIMESCALE_DATABASE_URL",
        "REDIS_URL",
    ):
        os.environ.pop(name, None)
    service = Service(dict(os.environ))
    try:
        told = _tell(service, seconds)
    finally:
        service.end(signal.SIGTERM)
    notes().print(f"Its servers have stopped; their data stays in {home} until you delete it.")
    if as_json:
        say_json(told)
    ended_badly(not told["complete"])


def _tell(service: Service, seconds: float) -> dict[str, Any]:
    notes().print("[bold]1.[/] An exchange trades, Truetape keeps its analytics.")
    notes().print("   (Here five seconds are late already, not five minutes as by default.)")
    with notes().status("starting PostgreSQL, Valkey, the exchange and the service …"):
        service.start()
        service.healthy(START_SECONDS)
    _watch(service, seconds / 2)

    notes().print("[bold]2.[/] The service is killed (kill -9). Trades go on.")
    service.end(signal.SIGKILL)
    missed = run(_watch_outage(seconds))

    notes().print("[bold]3.[/] The service comes back and processes what it missed.")
    began = time.monotonic()
    service.start()
    with notes().status("catching up …"):
        service.healthy(START_SECONDS)
    recovered = time.monotonic() - began
    notes().print(
        f"   [green]healthy[/] again {recovered:.1f} s after the restart, start-up included"
    )
    _watch(service, seconds / 4)

    notes().print("[bold]4.[/] Proof: the rows of both sides, and every rollup against the tape.")
    proof = subprocess.run(
        [sys.executable, "-m", "truetape", "verify", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not proof.stdout:
        raise TruetapeError(f"verify did not answer: {proof.stderr.strip()}")
    found = json.loads(proof.stdout)
    colour = "green" if found["complete"] else "red"
    notes().print(
        f"   [{colour}]{'complete' if found['complete'] else 'NOT complete'}[/]: "
        f"{found['tradesChecked']:,} trades and {found['bucketsChecked']:,} buckets checked, "
        f"{len(found['mismatches'])} mismatches"
    )
    return {
        "missedTrades": missed,
        "recoverySeconds": round(recovered, 2),
        "complete": found["complete"],
        "tradesChecked": found["tradesChecked"],
        "bucketsChecked": found["bucketsChecked"],
        "mismatches": len(found["mismatches"]) + len(found["rollupMismatches"]),
    }


def _watch(service: Service, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(max(min(seconds / 3, 2.0), 0.5))
        health, stats = service.get("/api/sync/health"), service.get("/api/sync/stats")
        if health is not None and stats is not None:
            colour = "green" if health["isHealthy"] else "red"
            notes().print(
                f"   [{colour}]{health['status']}[/]  {stats['trades']:,} trades on the tape, "
                f"{health['missedTrades']} on their way"
            )


async def _watch_outage(seconds: float) -> int:
    """Looks at both databases while no service runs; the trades missed in the end."""
    missed = 0
    deadline = time.monotonic() + seconds
    async with opened(Settings.load(), works=False) as engine:
        while time.monotonic() < deadline:
            await asyncio.sleep(max(min(seconds / 5, 2.0), 0.5))
            health = await engine.health.check(patience_seconds=5)
            missed = health.missed_trades or 0
            colour = "green" if health.is_healthy else "red"
            notes().print(
                f"   [{colour}]{health.status}[/]  {missed:,} trades missed, lag "
                f"{health.lag_minutes} min: {health.recommendation}"
            )
    return missed
