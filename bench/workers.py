"""One backlog, one, two and four workers: `make bench-workers`.

The same trades are caught up on from nothing by `truetape sync`, which leads and does one slice at a time
(SYNC_CONCURRENCY=1), and beside it no, one, or three processes of `truetape worker` of the same kind.
Interleaved, round after round. Prints trades a second, and how much of the machine's processors the
database servers and our processes took meanwhile: where the two together have all of it, more workers on
the same machine cannot help. Writes workers.json with the machine's data.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from bench.machine import cpu_seconds, machine, server_cpu_seconds
from bench.ours import child, empty
from bench.report import run, say
from bench.source import make_source
from truetape.embedded import EmbeddedPostgres
from truetape.store.migrate import migrate

WORKERS = (1, 2, 4)
START_SECONDS = 30


@contextmanager
def helping(source_url: str, target_url: str, processes: int) -> Iterator[list[int]]:
    """So many `truetape worker`, once they take slices; their process ids."""
    environment = os.environ | {
        "PONDER_DATABASE_URL": source_url, "ANALYTICS_DATABASE_URL": target_url,
        "SYNC_CONCURRENCY": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "truetape", "worker", "--json"]
    started = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(processes)
    ]
    try:
        deadline = time.monotonic() + START_SECONDS
        with psycopg.connect(target_url, autocommit=True) as conn:
            registered = "SELECT count(*) FROM analytics.procrastinate_workers"
            while conn.execute(registered).fetchone() != (processes,):
                if time.monotonic() > deadline:
                    raise SystemExit("the workers did not come")
                time.sleep(0.05)
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def catch_up(source: EmbeddedPostgres, target: EmbeddedPostgres, workers: int) -> dict[str, Any]:
    """One catch-up from nothing: trades a second, and processors taken (1 is one core, all the time)."""
    urls = source.ensure_database("exchange"), target.ensure_database("analytics")
    empty(urls[1])
    migrate(urls[1])
    with helping(*urls, workers - 1) as helpers:
        before = [server_cpu_seconds(source), server_cpu_seconds(target)]
        helped = sum(map(cpu_seconds, helpers))
        own = child("catch-up", *urls, SYNC_CONCURRENCY="1")
        after = [server_cpu_seconds(source), server_cpu_seconds(target)]
        ours = own["cpu_seconds"] + sum(map(cpu_seconds, helpers)) - helped
    return {
        "trades_per_second": own["trades"] / own["seconds"],
        "source": (after[0] - before[0]) / own["seconds"],
        "analytics": (after[1] - before[1]) / own["seconds"],
        "ours": ours / own["seconds"],
    }


def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[int, list[dict[str, Any]]] = {workers: [] for workers in WORKERS}
    with EmbeddedPostgres(home / "source") as source, EmbeddedPostgres(home / "target") as target:
        say(f"making {options.trades:,} trades …")
        make_source(source.ensure_database("exchange"), options.trades)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for workers in WORKERS:
                found[workers].append(catch_up(source, target, workers))
                rate = found[workers][-1]["trades_per_second"]
                say(f"  {workers} workers {rate:>10,.0f} trades/s")
    figures: dict[str, Any] = {"trades": options.trades, "rounds": options.rounds} | machine()
    figures["workers"] = {str(workers): summary(runs) for workers, runs in found.items()}
    one = figures["workers"]["1"]["trades_per_second"]
    figures["to_one_worker"] = {
        workers: round(told["trades_per_second"] / one, 3)
        for workers, told in figures["workers"].items()
    }
    return figures


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians: trades a second, and of the machine's cores those taken by each."""
    told = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    cores = {name: round(told[name], 2) for name in ("source", "analytics", "ours")}
    return {"trades_per_second": round(told["trades_per_second"]), "cores": cores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    run("workers", parser, measure)


if __name__ == "__main__":
    main()
