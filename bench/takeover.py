"""How long nobody leads: `make bench-takeover`.

Three `truetape serve` on hosts of their own stand for the lease, while trades come. Again and again
whatever leads is killed, frozen, or cut off from the analytics (both ways, or one), at any moment; and it
is taken how long it takes until another leads, and until that one has taken in its first trade. Prints
the median and the longest by cause. The hosts are network namespaces: it takes root, or user namespaces.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from testbed.cluster import Cluster, running
from testbed.hosts import Host

CAUSES = ("kill -9", "SIGSTOP", "cut off", "hears nothing", "is not heard")
WORKERS = 3
TICK_SECONDS = 0.03
LOOK_SECONDS = 0.005
PATIENCE_SECONDS = 60

TABLES = """
CREATE TABLE order_book_trades (id text, "timestamp" integer, price numeric, quantity numeric,
    pool_id text, side varchar, transaction_id text);
CREATE TABLE pools (order_book text, coin text);
INSERT INTO pools VALUES ('p', 'WETH/USDC');
"""
TRADE = """
INSERT INTO order_book_trades
SELECT gen_random_uuid(), extract(epoch FROM now()), 100, 1, 'p', 'buy', 't'
"""
LEADER = """
SELECT split_part(holder, ':', 2)::integer FROM analytics.lease WHERE expires_at > clock_timestamp()
"""
SHOWN = "SELECT count(*) FROM analytics.trades"


class Worker:
    """A service on a host, that comes back whatever was done to it."""

    def __init__(self, host: Host, settings: dict[str, str]) -> None:
        self.host = host
        self._environment = os.environ | settings
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self.host.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "truetape", "serve"],
                env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def is_well(self) -> bool:
        """Whether it reaches both databases."""
        try:
            with self.host.entered():
                where = f"http://127.0.0.1:{self._environment['PORT']}/api/sync/health"
                with urllib.request.urlopen(where, timeout=3) as answer:
                    return bool(answer.status == 200)
        except OSError:
            return False


def harm(cause: str, worker: Worker, cluster: Cluster) -> Callable[[], None]:
    """Does it; what comes back makes it good again."""
    network, analytics = cluster.network, cluster.analytics.host
    if cause == "kill -9":
        worker.kill()
        return worker.start
    if cause == "SIGSTOP":
        worker.signal(signal.SIGSTOP)
        return lambda: worker.signal(signal.SIGCONT)
    if cause != "hears nothing":
        network.cut(worker.host, analytics)
    if cause != "is not heard":
        network.cut(analytics, worker.host)
    return network.heal


def until(ask: Callable[[], Any], what: str, pause: float = LOOK_SECONDS) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(pause)
    return answer


@contextmanager
def trading(source_url: str) -> Iterator[None]:
    """A trade every now and then."""
    stop = threading.Event()

    def trade() -> None:
        with psycopg.connect(source_url, autocommit=True) as conn:
            while not stop.wait(TICK_SECONDS):
                conn.execute(TRADE)

    thread = threading.Thread(target=trade)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def working(cluster: Cluster, source_url: str) -> Iterator[list[Worker]]:
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(TABLES)
    cluster.analytics.ensure_database("analytics")
    settings = {
        "PONDER_DATABASE_URL": cluster.source.url_on_network("exchange"),
        "ANALYTICS_DATABASE_URL": cluster.analytics.url_on_network("analytics"),
        "PORT": "42091",
    }
    workers = [Worker(host, settings) for host in cluster.workers]
    try:
        until(lambda: all(w.is_well() for w in workers), "all are there", 0.2)
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def take_over(
    cause: str, cluster: Cluster, workers: list[Worker], conn: psycopg.Connection
) -> dict[str, float]:
    """Seconds from the harm until another leads, and until that one has taken in a trade."""

    def leader() -> Worker | None:
        row = conn.execute(LEADER).fetchone()
        return next((w for w in workers if row and w.pid == row[0]), None)

    def shown() -> int:
        row = conn.execute(SHOWN).fetchone()
        return int(row[0]) if row else 0

    first: Worker = until(leader, "one leads")
    others = [w for w in workers if w is not first]
    until(lambda: all(w.is_well() for w in others), "the others stand by", 0.2)
    time.sleep(random.uniform(0, 1.5))
    make_good = harm(cause, first, cluster)
    began = time.monotonic()
    until(lambda: leader() in others, "another leads")
    led, before = time.monotonic() - began, shown()
    until(lambda: shown() > before, "it follows")
    followed = time.monotonic() - began
    make_good()
    return {"led": led, "followed": followed}


def measure(folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {cause: [] for cause in CAUSES}
    with running(folder, WORKERS) as cluster:
        source_url = cluster.source.ensure_database("exchange")
        with (
            working(cluster, source_url) as workers,
            trading(source_url),
            psycopg.connect(cluster.analytics.url("analytics"), autocommit=True) as conn,
        ):
            for number in range(rounds):
                cause = CAUSES[number % len(CAUSES)]
                found[cause].append(take_over(cause, cluster, workers, conn))
                print(f"{number + 1:3} {cause:14}{found[cause][-1]}", file=sys.stderr)
    return found


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Seconds, rounded."""
    figures: dict[str, Any] = {"takeovers": len(rounds)}
    for what in ("led", "followed"):
        seconds = [r[what] for r in rounds]
        figures[what] = {
            "p50": round(statistics.median(seconds), 2), "max": round(max(seconds), 2),
        }  # fmt: skip
    return figures


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"{'seconds until another leads':28}{'p50':>7}{'max':>7}   follows{'p50':>7}{'max':>7}"
    ]
    for cause, row in figures.items():
        led, followed = row["led"], row["followed"]
        lines.append(
            f"{cause + ' (' + str(row['takeovers']) + ')':28}{led['p50']:7.2f}{led['max']:7.2f}"
            f"{followed['p50']:17.2f}{followed['max']:7.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="takeovers, all causes in turn")
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        found = measure(Path(folder), options.rounds)
    found = {cause: rounds for cause, rounds in found.items() if rounds}
    figures = {cause: summary(rounds) for cause, rounds in found.items()}
    figures["all"] = summary([r for rounds in found.values() for r in rounds])
    print(table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
