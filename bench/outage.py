"""An outage of five hours at 200 trades a second: `make bench-outage`.

The analytics have all until five hours ago; 3.6 million trades are missing and the exchange goes on, 200
trades a second, a block a second, with NOTIFY. `truetape serve` starts, and it is measured how long it takes
until nothing is missing, until it says so itself, and meanwhile, as in `bench.live`, how long each new block
takes from its COMMIT to whoever watches. Prints a table, writes outage.json, and draws the picture.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.machine import machine, peak_mb
from bench.ours import child
from bench.over_time import Course
from bench.processes import answers, exchange, is_complete, served
from bench.report import run, say
from bench.source import RATE, grow_source, make_source
from bench.watching import watching
from truetape.embedded import EmbeddedPostgres

BEFORE_SECONDS = 300
OUTAGE_SECONDS = 5 * 3600
LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 60
HELD = "SELECT coalesce(sum(trades), 0)::bigint FROM analytics.days"
"""What the analytics have taken in, at hardly any cost to them."""


@dataclass
class Backlog:
    """What the analytics lack of a source with so many trades a second, from its first second on."""

    conn: psycopg.Connection
    first_second: int

    def missing(self) -> int:
        """Of all seconds that are over."""
        due = (int(time.time()) - self.first_second) * RATE
        row = self.conn.execute(HELD).fetchone()
        assert row is not None
        return due - int(row[0])

    def watch(self, course: Course, missing: int) -> float:
        """Until there is nothing left of what was missing: seconds."""
        while (left := self.missing()) > 0:
            course.note(missing - left)
            time.sleep(LOOK_SECONDS)
        return course.end(missing)


def said_after(port: int, course: Course) -> float | None:
    """Seconds until the service itself says that nothing is missing; None where patience ends first."""
    gone = course.seconds[-1]
    while (passed := time.monotonic() - course.began) < gone + PATIENCE_SECONDS:
        if is_complete(port):
            return round(passed, 1)
        time.sleep(LOOK_SECONDS)
    return None


def course_of(latencies: list[tuple[int, float]], began: float) -> dict[str, list[float]]:
    return {
        "seconds": [round(second - began, 1) for second, _ in latencies],
        "ms": [ms for _, ms in latencies],
    }


def recover(source_url: str, analytics_url: str, blocks: Any, backlog: Backlog) -> dict[str, Any]:
    """From the start of our process until nothing is missing."""
    missing, began, course = backlog.missing(), time.time(), Course()
    with served(source_url, analytics_url, "", ready=answers) as (port, pid):
        answered = time.time() - began
        with watching(port, blocks) as watch:
            seconds = backlog.watch(course, missing)
        said, memory = said_after(port, course), peak_mb(pid)
    return {
        "trades_missing": missing,
        "seconds": round(seconds, 1),
        "seconds_until_health_says_so": said,
        "seconds_until_it_answers": round(answered, 1),
        "trades_per_second": round(missing / seconds),
        "peak_memory_mb": round(memory, 1),
        "live": watch.figures(),
        "live_over_time": {
            name: course_of(watch.latencies_ms(seen), began)
            for name, seen in (("pushed", watch.pushed), ("got", watch.got))
        },
        "over_time": course.figures(),
    }


def measure(home: Path, _: argparse.Namespace) -> dict[str, Any]:
    with (
        EmbeddedPostgres(home / "source") as source,
        EmbeddedPostgres(home / "analytics") as analytics,
    ):
        source_url = source.ensure_database("exchange")
        analytics_url = analytics.ensure_database("analytics")
        first_second = int(time.time()) - BEFORE_SECONDS - OUTAGE_SECONDS
        before, end = BEFORE_SECONDS * RATE, (BEFORE_SECONDS + OUTAGE_SECONDS) * RATE
        make_source(source_url, before, first_second)
        child("catch-up", source_url, analytics_url)
        say(f"making an outage of {end - before:,} trades …")
        grow_source(source_url, before, end, first_second)
        with exchange(
            "bench.outage_exchange", first_second, end, BENCH_SOURCE=source_url
        ) as blocks:
            say("recovering …")
            with psycopg.connect(analytics_url, autocommit=True) as conn:
                backlog = Backlog(conn, first_second)
                return machine() | recover(source_url, analytics_url, blocks, backlog)


if __name__ == "__main__":
    run("outage", argparse.ArgumentParser(description=__doc__), measure)
