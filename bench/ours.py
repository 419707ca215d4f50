"""What we do, each in a process of its own: ``python -m bench.ours WHAT SOURCE_URL ANALYTICS_URL``.

Prints one line of JSON: seconds, trades, peak memory of the process (MB), and what else was seen.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

import psycopg

from bench.machine import cpu_seconds, peak_mb
from bench.over_time import Course
from bench.source import settle
from truetape import DataSyncService
from truetape.cli import common
from truetape.settings import Settings
from truetape.sync.engine import open_engine

REORG_BLOCKS = 30
LONGEST_SECONDS = 60


async def catch_up(source_url: str, analytics_url: str) -> dict[str, Any]:
    """Everything from nothing, and how far it was when, as the run itself says; a second time there is
    nothing to do."""
    async with open_engine(Settings.load(), source_url, analytics_url, follow=False) as engine:
        engine.start()
        before, course = cpu_seconds(os.getpid()), Course()
        asked = await engine.ask("standard", {})
        run = await engine.ended(asked, lambda run: course.note(run.processed))
        seconds = course.end(run.processed)
        used = cpu_seconds(os.getpid()) - before
        again = await engine.ended(await engine.ask("standard", {}))
    assert again.total == 0, "a second sync must find nothing"
    told = {"seconds": seconds, "trades": run.processed, "cpu_seconds": used}
    return told | {"over_time": course.figures()}


async def force(source_url: str, analytics_url: str) -> dict[str, Any]:
    """Every trade again, and all that they feed rebuilt."""
    async with DataSyncService(source_url, analytics_url, Settings.load()) as sync:
        began = time.monotonic()
        result = await sync.force_sync_from(1)
        return {"seconds": time.monotonic() - began, "trades": result.processed}


async def verify(source_url: str, analytics_url: str) -> dict[str, Any]:
    """The rows of both sides, and every rollup against the tape."""
    settings = Settings.load()
    async with open_engine(settings, source_url, analytics_url, follow=False) as engine:
        engine.start()
        began = time.monotonic()
        run = await engine.ended(await engine.ask("verify", {}))
        seconds = time.monotonic() - began
    assert run.result is not None
    assert run.result["complete"], run.result
    return {"seconds": seconds, "trades": run.result["tradesChecked"]}


async def compare(source_url: str, analytics_url: str) -> dict[str, Any]:
    """The rows of both sides alone: what a verification begins with."""
    async with open_engine(Settings.load(), source_url, analytics_url, follow=False) as engine:
        whole, trades = await engine.reconciler.extent(), 0
        assert whole is not None
        began = time.monotonic()
        found = engine.reconciler.minutes(whole, hashed=True, rehash=True, note=False)
        async for minutes in found:
            assert not any(m.differs for m in minutes)
            trades += sum(m.theirs for m in minutes)
        return {"seconds": time.monotonic() - began, "trades": trades}


async def reorg(source_url: str, analytics_url: str) -> dict[str, Any]:
    """The last thirty blocks vanish and others take their place, in one commit, while we follow; seconds
    are None where a minute is not enough."""
    taken = """
        DELETE FROM order_book_trades WHERE "timestamp" > (SELECT max("timestamp") - %s
                                                           FROM order_book_trades) RETURNING *"""
    replace = f"""
        WITH gone AS ({taken})
        INSERT INTO order_book_trades
        SELECT 'r' || id, chain_id, 'r' || transaction_id, pool_id, price + 1, quantity, side,
               "timestamp", buyer, seller FROM gone"""
    settings = Settings.load()
    async with open_engine(settings, source_url, analytics_url, follow=True) as engine:
        engine.start()
        while (await engine.health.check()).missed_trades != 0 or not engine.leads:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        with (
            psycopg.connect(source_url, autocommit=True) as source,
            psycopg.connect(analytics_url, autocommit=True) as ours,
        ):
            newest = ours.execute("SELECT max(time) FROM analytics.tape").fetchone()[0]  # type: ignore[index]
            standing = f"""
                SELECT count(*) FILTER (WHERE trade_id LIKE 'r%%'),
                       count(*) FILTER (WHERE trade_id NOT LIKE 'r%%')
                FROM analytics.tape WHERE time <= %(newest)s
                  AND time > %(newest)s - interval '{REORG_BLOCKS} seconds'"""
            rows = source.execute(replace, (REORG_BLOCKS,)).rowcount
            began = time.monotonic()
            while time.monotonic() - began < LONGEST_SECONDS:
                if ours.execute(standing, {"newest": newest}).fetchone() == (rows, 0):
                    return {"seconds": time.monotonic() - began, "trades": rows}
                await asyncio.sleep(0.1)  # Whoever watches without a pause takes a core for itself.
    return {"seconds": None, "trades": rows}


def child(what: str, source_url: str, target_url: str, **settings: str) -> dict[str, Any]:
    """One of these works in a process of its own."""
    command = [sys.executable, "-m", "bench.ours", what, source_url, target_url]
    environment = os.environ | settings
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def empty(target_url: str) -> None:
    with psycopg.connect(target_url, autocommit=True) as conn:
        conn.execute("DROP SCHEMA IF EXISTS analytics CASCADE")


def from_nothing(source_url: str, target_url: str) -> dict[str, Any]:
    """A catch-up into an empty database, in a process of its own."""
    empty(target_url)
    settle(source_url, target_url)
    return child("catch-up", source_url, target_url)


def main() -> None:
    works = {
        "catch-up": catch_up,
        "force": force,
        "verify": verify,
        "compare": compare,
        "reorg": reorg,
    }
    told = common.run(
        works[sys.argv[1]](sys.argv[2], sys.argv[3])
    )  # On the loop of the command line.
    told["peak_mb"] = peak_mb()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
