"""What a trade costs as the tape grows: `make bench-size`, up to what the disk holds with
`make bench-size BENCH='--sizes 1000000,100000000'`.

One source grows from size to size; at each a catch-up from nothing is measured, without rivals: µs a trade,
on the clock and of processors (ours and those of both servers), and the peak memory of our process and of
the analytics' server. From a million trades on also what answers over HTTP take, health among them. Prints
a table, writes sizes.json with the machine's data, and draws the picture.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.answers import answers
from bench.machine import ServerMemory, machine, server_cpu_seconds
from bench.ours import from_nothing
from bench.report import lines, run, say
from bench.source import grow_source, make_source, settle
from truetape.embedded import EmbeddedPostgres

SIZES = "100000,300000,1000000,3000000,10000000"
MILLION = 1_000_000
TIMES = 3
"""How often up to a million are caught up on; the median counts. More take long enough to be sure."""


def catch_up(source: EmbeddedPostgres, target: EmbeddedPostgres, trades: int) -> dict[str, Any]:
    """One catch-up from nothing."""
    urls = source.ensure_database("exchange"), target.ensure_database("analytics")
    settle(*urls)
    before = [server_cpu_seconds(server) for server in (source, target)]
    with ServerMemory(target) as watched:
        own = from_nothing(*urls)
    after = [server_cpu_seconds(server) for server in (source, target)]
    assert own["trades"] == trades
    used = [own["cpu_seconds"], *(b - a for a, b in zip(before, after, strict=True))]
    ours, theirs, analytics = (round(seconds / trades * 1e6, 2) for seconds in used)
    return {
        "seconds": round(own["seconds"], 2),
        "us_per_trade": round(own["seconds"] / trades * 1e6, 2),
        "cpu_us_per_trade": {"ours": ours, "source": theirs, "analytics": analytics},
        "peak_memory_mb": round(own["peak_mb"], 1),
        "server_peak_memory_mb": round(watched.peak_mb, 1),
    }


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run that took the median time."""
    return sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]


def to(large: dict[str, Any], small: dict[str, Any]) -> dict[str, float]:
    """A trade's cost to that at another size. Others' work on the machine shows less in processor time."""
    clock = large["us_per_trade"] / small["us_per_trade"]
    used = [sum(run["cpu_us_per_trade"].values()) for run in (large, small)]
    return {"on_the_clock": round(clock, 3), "of_processors": round(used[0] / used[1], 3)}


def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    sizes = sorted(map(int, options.sizes.split(",")))
    found: dict[int, dict[str, Any]] = {}
    with EmbeddedPostgres(home / "source") as source, EmbeddedPostgres(home / "target") as target:
        source_url = source.ensure_database("exchange")
        target_url = target.ensure_database("analytics")
        make_source(source_url, 0)
        for made, size in pairwise([0, *sizes]):
            say(f"{size:,} trades …")
            grow_source(source_url, made, size)
            times = TIMES if size <= MILLION else 1
            found[size] = median_run([catch_up(source, target, size) for _ in range(times)])
            if size >= MILLION:
                found[size]["answers_ms"] = answers(source_url, target_url)
            say("\n".join(lines(found[size], "  ")))
    figures = machine() | {"sizes": found}
    if MILLION in found:
        figures["largest_to_a_million"] = to(found[sizes[-1]], found[MILLION])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=SIZES, help="in trades, ascending")
    run("sizes", parser, measure)


if __name__ == "__main__":
    main()
