"""Speed as ratios in one run: `make bench`, or `make bench BENCH='--trades 5000000 --rounds 3'`.

Makes trades in a Ponder-shaped source and measures, interleaved, round after round:
  pipe   the bare binary COPY of the same rows into a table with primary key (time, id): the limit;
  ours   a catch-up from nothing, everything included (candles, traders, digests, quarantine).
Prints a table with medians and ratios, and writes JSON with the machine's data beside it.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from bench.source import make_source
from truetape import DataSyncService
from truetape.embedded import EmbeddedPostgres
from truetape.settings import Settings

PIPE_TABLE = """
DROP TABLE IF EXISTS pipe;
CREATE TABLE pipe (time timestamptz, id text COLLATE "C", chain_id bigint, pool_id text, side text,
    price numeric, quantity numeric, transaction_id text, PRIMARY KEY (time, id))
"""
PIPE_READ = """
COPY (SELECT to_timestamp("timestamp"), id, chain_id::bigint, pool_id, side::text, price::numeric,
             quantity::numeric, transaction_id FROM order_book_trades) TO STDOUT (FORMAT binary)
"""


def pipe(source_url: str, target_url: str) -> float:
    """Seconds for the bare COPY."""
    with psycopg.connect(source_url) as source, psycopg.connect(target_url) as target:
        target.execute(PIPE_TABLE)
        target.commit()
        began = time.monotonic()
        with (
            source.cursor().copy(PIPE_READ) as rows,
            target.cursor().copy("COPY pipe FROM STDIN (FORMAT binary)") as into,
        ):
            for block in rows:
                into.write(block)
        target.commit()
        return time.monotonic() - began


def ours(source_url: str, target_url: str) -> dict[str, float]:
    """A catch-up from nothing in a process of its own: seconds and peak memory."""
    with psycopg.connect(target_url, autocommit=True) as conn:
        conn.execute("DROP SCHEMA IF EXISTS analytics CASCADE")
    command = [sys.executable, "-m", "bench", "--child", source_url, target_url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


async def catch_up(source_url: str, target_url: str) -> None:
    async with DataSyncService(source_url, target_url, Settings.load()) as sync:
        began = time.monotonic()
        result = await sync.sync_missed_data()
        seconds = time.monotonic() - began
        again = await sync.sync_missed_data()
    assert again.total == 0, "a second sync must find nothing"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "trades": result.processed, "peak_mb": peak}))


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


def measure(trades: int, rounds: int, home: Path) -> dict[str, object]:
    with (
        EmbeddedPostgres(home / "source") as source,
        EmbeddedPostgres(home / "target") as target,
    ):
        source_url = source.ensure_database("exchange")
        target_url = target.ensure_database("analytics")
        print(f"making {trades:,} trades …", file=sys.stderr)
        make_source(source_url, trades)
        pipes: list[float] = []
        own: list[dict[str, float]] = []
        for number in range(rounds):
            pipes.append(pipe(source_url, target_url))
            own.append(ours(source_url, target_url))
            print(
                f"round {number + 1}: pipe {trades / pipes[-1]:,.0f}/s, "
                f"ours {trades / own[-1]['seconds']:,.0f}/s",
                file=sys.stderr,
            )
        size = sizes(target_url)
    pipe_rate = trades / statistics.median(pipes)
    own_rate = trades / statistics.median(r["seconds"] for r in own)
    return {
        "trades": trades,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "pipe_trades_per_second": round(pipe_rate),
        "catch_up_trades_per_second": round(own_rate),
        "catch_up_to_pipe": round(own_rate / pipe_rate, 3),
        "peak_memory_mb": round(max(r["peak_mb"] for r in own), 1),
        "bytes_per_trade": round(size["analytics"] / trades, 1),
        "bytes_to_bare_table": round(size["analytics"] / size["bare"], 3),
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(catch_up(*sys.argv[2:4]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o711)
        figures = measure(options.trades, options.rounds, home)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


main()
