"""From the commit in the source to the screen: `make bench-live`.

The demo exchange trades 200 trades a second, a block a second, while `truetape serve` follows it and
somebody watches as a page does: listens to ``/api/stream``, and asks ``GET /api/trades`` whenever it tells of
a trade. Both tell when a block's last trade was first seen, counted from the return of its COMMIT. Three
times: rung by NOTIFY, by Redis alone, and by nothing (the timer alone); and once more by NOTIFY with a
client that does not listen but polls GET every 10 ms. Then, when nothing happens, the processor time of our
process. Prints a table; a figure is the machine's, and on a machine that is busy otherwise it is that of its
other work. What others take of a machine that is shared is told beside it.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from bench.machine import Stolen, cpu_seconds, machine
from bench.processes import exchange, served
from bench.report import lines, run, say
from bench.watching import watching
from truetape.embedded import EmbeddedPostgres, EmbeddedValkey

MODES = {
    "notify": (True, False, False),
    "redis": (False, True, False),
    "timer": (False, False, False),
    "polled": (True, False, True),
}
"""Whether the exchange notifies, whether it publishes to Redis, and whether GET is polled."""
WARM_UP_SECONDS = 5


def idle_percent(pid: int, seconds: float) -> float:
    """Share of a core that a process takes while nothing happens."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return round((cpu_seconds(pid) - before) / seconds * 100, 2)


def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"rate": options.rate} | machine()
    with (
        EmbeddedPostgres(home / "source") as source,
        EmbeddedPostgres(home / "analytics") as analytics,
        EmbeddedValkey(home / "valkey") as valkey,
    ):
        redis_url = valkey.acquire()
        source_url = source.ensure_database("exchange")
        analytics_url = analytics.ensure_database("analytics")
        for mode, (notify, redis, polled) in MODES.items():
            ring = redis_url if redis else ""
            with (
                exchange(
                    "bench.live_exchange", options.rate, int(notify),
                    BENCH_SOURCE=source_url, BENCH_REDIS=ring,
                ) as blocks,
                served(source_url, analytics_url, ring) as (port, _),
                watching(port, blocks, WARM_UP_SECONDS, polled=polled) as watch,
            ):  # fmt: skip
                stolen = Stolen()
                time.sleep(options.seconds)
            figures[mode] = watch.figures() | {"stolenPercent": stolen.percent}
            say("\n".join(lines(figures[mode], f"{mode} ")))
        with served(source_url, analytics_url, redis_url) as (_, pid):
            time.sleep(WARM_UP_SECONDS)
            figures["idlePercentOfACore"] = statistics.median(
                idle_percent(pid, options.seconds / 3) for _ in range(3)
            )
    return figures


def table(figures: dict[str, Any]) -> list[str]:
    rows = [
        f"{'ms from COMMIT to seen':24}{'stream p50':>12}{'p99':>8}{'GET p50':>9}{'p99':>8}{'stolen':>9}"
    ]
    for mode in MODES:
        row = figures[mode]
        rows.append(
            f"{mode + ' (' + str(row['blocks']) + ' blocks)':24}{row['pushedP50']!s:>12}"
            f"{row['pushedP99']!s:>8}{row['gotP50']!s:>9}{row['gotP99']!s:>8}{row['stolenPercent']:>7} %"
        )
    rows.append(f"idle: {figures['idlePercentOfACore']} % of a core")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200, help="trades a second")
    parser.add_argument("--seconds", type=float, default=60, help="of measuring, a mode")
    run("live", parser, measure, table)


if __name__ == "__main__":
    main()
