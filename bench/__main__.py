"""Speed as ratios in one run: `make bench`, or `make bench BENCH='--trades 5000000 --rounds 3'`.

Makes trades in a Ponder-shaped source and measures, interleaved, round after round:
  pipe         the bare binary COPY of the same rows into a table with primary key (time, id): the limit;
  ours         a catch-up from nothing, everything included (candles, traders, digests, quarantine);
  hypertable   the same into TimescaleDB, and beside it, on the same server, into plain tables (plain_table)
               and the bare COPY (hyper_pipe);
  replication  PostgreSQL's logical replication catching up on the same rows, with no rollup;
  row by row   batches of 50, five statements a trade, each its own commit; on a slice.
Then, on what stands there: a force from the start, a verification against the bare digest query of both
sides, a deep reorg, and answers over HTTP. Prints a table, writes bench.json with the machine's data, and
draws the pictures.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from bench import rivals
from bench.answers import answers
from bench.machine import ServerMemory, machine
from bench.ours import child, from_nothing
from bench.report import run, say
from bench.source import make_source
from testbed.servers import DebianPostgres
from truetape.embedded import EmbeddedPostgres

MAX_ROW_BY_ROW = 10_000
LEAST_FOR_REORG = 700_000
"""Of a shorter tape thirty blocks are more than a hundredth: that is held for somebody's word."""


def bare_digest(source_url: str, target_url: str) -> float:
    """Seconds for `SELECT count(*), sum(hash)` of both sides, one after the other."""
    began = time.monotonic()
    for url, table in ((source_url, "order_book_trades"), (target_url, "analytics.tape")):
        with psycopg.connect(url) as conn:
            conn.execute(
                f"SELECT count(*), sum(hash_record_extended(t, 0)) FROM {table} t".encode()
            ).fetchone()
    return time.monotonic() - began


def sizes(target_url: str) -> dict[str, int]:
    """Bytes on disk, indexes included."""
    with psycopg.connect(target_url, autocommit=True) as conn:
        everything = conn.execute(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'analytics' AND c.relkind = 'r'"
        ).fetchone()
        bare = conn.execute("SELECT pg_total_relation_size('pipe')").fetchone()
    assert everything is not None
    assert bare is not None
    return {"analytics": int(everything[0]), "bare": int(bare[0])}


def ratios(rates: dict[str, list[float]], of: str, *to: str) -> dict[str, float]:
    """Medians of one against those of others."""
    median = statistics.median
    return {name: round(median(rates[of]) / median(rates[name]), 3) for name in to}


def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    trades, rounds = options.trades, options.rounds
    figures: dict[str, Any] = {"trades": trades, "rounds": rounds} | machine()
    slice_of = min(trades, MAX_ROW_BY_ROW)
    rates: dict[str, list[float]] = {}

    def note(name: str, count: int, seconds: float) -> None:
        rates.setdefault(name, []).append(count / seconds)
        say(f"  {name:16} {count / seconds:>10,.0f} trades/s")

    with (
        rivals.LogicalPostgres(home / "source") as source,
        EmbeddedPostgres(home / "target") as target,
        DebianPostgres(home / "timescale", "timescaledb") as timescale,
    ):
        source_url = source.ensure_database("exchange")
        target_url = target.ensure_database("analytics")
        hyper_url = timescale.ensure_database("analytics")
        plain_url = timescale.ensure_database("plain")
        with psycopg.connect(hyper_url, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION timescaledb")
        say(f"making {trades:,} trades …")
        make_source(source_url, trades)
        memory: list[float] = []
        server_memory: list[float] = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            seconds, course = rivals.pipe(source_url, target_url)
            note("pipe", trades, seconds)
            with ServerMemory(target) as watched:
                own = from_nothing(source_url, target_url)
            note("ours", trades, own["seconds"])
            memory.append(own["peak_mb"])
            server_memory.append(watched.peak_mb)
            note("hyper_pipe", trades, rivals.pipe(source_url, hyper_url)[0])
            note("plain_table", trades, from_nothing(source_url, plain_url)["seconds"])
            note("hypertable", trades, from_nothing(source_url, hyper_url)["seconds"])
            note("replication", trades, rivals.replication(source_url, target_url))
            note("row_by_row", slice_of, rivals.row_by_row(source_url, target_url, slice_of))
        figures["over_time"] = {"pipe": course.figures(trades), "ours": own["over_time"]}
        figures["trades_per_second"] = {k: round(statistics.median(v)) for k, v in rates.items()}
        figures["catch_up_to"] = ratios(rates, "ours", "pipe", "replication", "row_by_row")
        figures["hypertable_to"] = ratios(rates, "hypertable", "plain_table", "hyper_pipe")
        figures["peak_memory_mb"] = round(max(memory), 1)
        figures["server_peak_memory_mb"] = round(max(server_memory), 1)
        size = sizes(target_url)
        figures["bytes_per_trade"] = round(size["analytics"] / trades, 1)
        figures["bytes_to_bare_table"] = round(size["analytics"] / size["bare"], 3)
        say("on what stands there")
        bare = min(bare_digest(source_url, target_url) for _ in range(2))
        compared = min(child("compare", source_url, target_url)["seconds"] for _ in range(2))
        figures["tapes_compared_seconds"] = round(compared, 2)
        figures["tapes_compared_to_bare_digest"] = round(bare / compared, 3)
        verified = child("verify", source_url, target_url)["seconds"]
        figures["verified_with_rollups_seconds"] = round(verified, 2)
        forced = child("force", source_url, target_url)
        figures["force_trades_per_second"] = round(forced["trades"] / forced["seconds"])
        figures["answers_ms"] = answers(source_url, target_url)
        if trades >= LEAST_FOR_REORG:
            corrected = child("reorg", source_url, target_url)["seconds"]
            figures["reorg_30_blocks_seconds"] = corrected and round(corrected, 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    run("bench", parser, measure)


main()
