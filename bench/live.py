"""From the commit in the source to the screen: `make bench-live`.

The demo exchange trades 200 trades a second, a block a second, while `truetape serve` follows it and
somebody watches: a client that polls ``/api/trades`` without a pause, and one that listens to
``/api/stream``. Both tell when a block's last trade was first seen, counted from the return of its
COMMIT. Three times: rung by NOTIFY, by Redis alone, and by nothing (the timer alone). Then, when
nothing happens, the processor time of our process. Prints a table; a figure is the machine's, and on
a machine that is busy otherwise it is that of its other work.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truetape.embedded import EmbeddedPostgres, EmbeddedValkey

MODES = {"notify": (True, False), "redis": (False, True), "timer": (False, False)}
"""What rings: whether the exchange notifies, and whether it publishes to Redis."""
WARM_UP_SECONDS = 5
POLL_PAUSE_SECONDS = 0.01


@dataclass
class Watch:
    """When each block (by its second) was committed, and when it was seen first."""

    committed: dict[int, tuple[float, str]] = field(default_factory=dict)
    polled: dict[int, float] = field(default_factory=dict)
    pushed: dict[int, float] = field(default_factory=dict)

    def latencies_ms(self, seen: dict[int, float]) -> list[float]:
        return sorted((seen[s] - at) * 1000 for s, (at, _) in self.committed.items() if s in seen)


def percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    return round(values[min(int(len(values) * share), len(values) - 1)], 1)


# -- the three processes -----------------------------------------------------------------------


@contextmanager
def exchange(source_url: str, redis_url: str, rate: float, *, notify: bool) -> Iterator[Any]:
    """The demo exchange; each line that it writes tells of a block that is committed."""
    command = [sys.executable, "-m", "bench.live_exchange", str(rate), str(int(notify))]
    environment = os.environ | {"BENCH_SOURCE": source_url, "BENCH_REDIS": redis_url}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served(source_url: str, analytics_url: str, redis_url: str) -> Iterator[tuple[int, int]]:
    """``truetape serve``: its port and process id, once it is complete."""
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
        deadline = time.monotonic() + 120
        while not is_complete(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("truetape serve did not become complete")
            time.sleep(0.2)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def is_complete(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/api/sync/health")
        health = json.load(connection.getresponse())
    except (OSError, ValueError):
        return False
    return bool(health["following"] and health["isHealthy"] and not health["isColdStart"])


# -- watching ----------------------------------------------------------------------------------


def read_commits(lines: Any, watch: Watch) -> None:
    for line in lines:
        block = json.loads(line)
        watch.committed[block["second"]] = (block["at"], block["lastId"])


def poll(port: int, watch: Watch, stop: threading.Event) -> None:
    """Asks for the newest trade over and over. A block is seen when its last trade is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.wait(POLL_PAUSE_SECONDS):
        connection.request("GET", "/api/trades?limit=1")
        trades = json.load(connection.getresponse())["trades"]
        at = time.time()
        if trades:
            watch.polled.setdefault(trades[0]["time"], at)


def listen(port: int, watch: Watch, stop: threading.Event) -> None:
    """Follows the stream. A block is seen when the last of its pools' events is here."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/api/stream")
    answer = connection.getresponse()
    newest = 0
    while not stop.is_set():
        line = answer.readline()
        at = time.time()
        if line.startswith(b"data: "):
            second = json.loads(line[6:]).get("lastTrade", 0)
            if second >= newest:
                watch.pushed[second], newest = at, second


def watch_market(port: int, lines: Any, seconds: float) -> Watch:
    watch, stop = Watch(), threading.Event()
    threading.Thread(target=read_commits, args=(lines, watch), daemon=True).start()
    watchers = [
        threading.Thread(target=work, args=(port, watch, stop), daemon=True)
        for work in (poll, listen)
    ]
    time.sleep(WARM_UP_SECONDS)
    watch.committed.clear()
    for thread in watchers:
        thread.start()
    time.sleep(seconds)
    last = set(sorted(watch.committed)[-1:])
    time.sleep(1.5)
    stop.set()
    for second in set(watch.committed) - {s for s in watch.committed if s <= max(last, default=0)}:
        del watch.committed[second]  # Still under way.
    return watch


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_percent(pid: int, seconds: float) -> float:
    """Share of a core that a process takes while nothing happens."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return round((cpu_seconds(pid) - before) / seconds * 100, 2)


# -- all of it ---------------------------------------------------------------------------------


def measure(home: Path, rate: float, seconds: float) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "tradesPerSecond": rate, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    with (
        EmbeddedPostgres(home / "source") as source,
        EmbeddedPostgres(home / "analytics") as analytics,
        EmbeddedValkey(home / "valkey") as valkey,
    ):
        redis_url = valkey.acquire()
        source_url = source.ensure_database("exchange")
        analytics_url = analytics.ensure_database("analytics")
        for mode, (notify, redis) in MODES.items():
            ring = redis_url if redis else ""
            with (
                exchange(source_url, ring, rate, notify=notify) as lines,
                served(source_url, analytics_url, ring) as (port, _),
            ):
                watch = watch_market(port, lines, seconds)
            polled = watch.latencies_ms(watch.polled)
            pushed = watch.latencies_ms(watch.pushed)
            figures[mode] = {
                "blocks": len(watch.committed), "polled": len(polled), "pushed": len(pushed),
                "polledP50": percentile(polled, 0.5), "polledP99": percentile(polled, 0.99),
                "pushedP50": percentile(pushed, 0.5), "pushedP99": percentile(pushed, 0.99),
            }  # fmt: skip
            print(f"{mode}: {figures[mode]}", file=sys.stderr)
        with served(source_url, analytics_url, redis_url) as (port, pid):
            time.sleep(WARM_UP_SECONDS)
            figures["idlePercentOfACore"] = statistics.median(
                idle_percent(pid, seconds / 3) for _ in range(3)
            )
    return figures


def table(figures: dict[str, Any]) -> str:
    lines = [f"{'ms from COMMIT to seen':24}{'GET p50':>9}{'p99':>8}{'stream p50':>12}{'p99':>8}"]
    for mode in MODES:
        row = figures[mode]
        lines.append(
            f"{mode + ' (' + str(row['blocks']) + ' blocks)':24}{row['polledP50']!s:>9}"
            f"{row['polledP99']!s:>8}{row['pushedP50']!s:>12}{row['pushedP99']!s:>8}"
        )
    lines.append(f"idle: {figures['idlePercentOfACore']} % of a core")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="trades a second")
    parser.add_argument("--seconds", type=float, default=60, help="of measuring, a mode")
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o711)
        figures = measure(home, options.rate, options.seconds)
    print(table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
