"""What only a TimescaleDB can show; everything else runs on it as it runs on plain PostgreSQL."""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from oracle import differences
from served import truetape
from system import Cutter, System
from test_retention import DAYS, SINCE, sealed_before, tidy
from test_sync import POOL, add, execute, sync, trade

from conftest import Databases, fast_folder
from testbed.servers import PREFIXES, Server, running
from truetape.store.growth import MAKE_HYPERTABLE
from truetape.trade import DAY, HOUR, Slice

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "timescaledb.md").read_text()
IS_HYPERTABLE = "SELECT hypertable_name FROM timescaledb_information.hypertables"
CHUNKS = """
SELECT extract(epoch FROM range_start)::bigint, extract(epoch FROM range_end)::bigint
FROM timescaledb_information.chunks WHERE hypertable_name = 'tape' ORDER BY 1
"""


@pytest.fixture(scope="session")
def timescale() -> Iterator[Server]:
    with fast_folder() as folder, running("timescaledb", folder) as server:
        yield server


@pytest.fixture
def databases(timescale: Server) -> Iterator[Databases]:
    made = Databases(timescale, timescale)
    yield made
    made.drop()


@pytest.fixture
def source(databases: Databases) -> str:
    url = databases.create("source")
    execute(
        url,
        "CREATE TABLE order_book_trades (id text, timestamp integer, price numeric, quantity numeric, "
        "pool_id text, side varchar, transaction_id text); CREATE TABLE pools (order_book text, coin text)",
    )
    execute(url, f"INSERT INTO pools VALUES ('{POOL}', 'WETH/USDC')")
    add(url, *(trade(f"t{n}", SINCE + n * HOUR) for n in range(DAYS * 24)))
    return url


def command(source: str, analytics: str, verb: str) -> subprocess.CompletedProcess[str]:
    return truetape(verb, PONDER_DATABASE_URL=source, ANALYTICS_DATABASE_URL=analytics)


def test_the_first_start_makes_a_hypertable(databases: Databases, source: str) -> None:
    analytics = databases.create_empty_store()
    assert sync(source, analytics).processed == DAYS * 24
    assert execute(analytics, IS_HYPERTABLE) == [("tape",)]
    assert len(execute(analytics, CHUNKS)) >= 3
    assert differences(source, analytics) == []
    told = command(source, analytics, "doctor")
    assert "the tape is a hypertable" in told.stdout
    assert "apache licence" in told.stdout


def test_a_plain_installation_moves_by_the_documented_command_and_keeps_its_place(
    databases: Databases, source: str
) -> None:
    analytics = databases.create("plain")
    assert sync(source, analytics).processed == DAYS * 24
    assert "CREATE EXTENSION" in command(source, analytics, "doctor").stdout
    execute(analytics, "CREATE EXTENSION timescaledb")
    assert MAKE_HYPERTABLE in command(source, analytics, "doctor").stdout
    assert MAKE_HYPERTABLE in DOCUMENT
    execute(analytics, MAKE_HYPERTABLE)
    assert execute(analytics, IS_HYPERTABLE) == [("tape",)]
    assert sync(source, analytics).total == 0
    add(source, trade("later", int(time.time())))
    assert sync(source, analytics).processed == 1
    assert differences(source, analytics) == []
    assert command(source, analytics, "verify").returncode == 0


def test_old_trades_go_by_whole_chunks(databases: Databases, source: str) -> None:
    analytics = databases.create_empty_store()
    sync(source, analytics)
    chunks = execute(analytics, CHUNKS)
    system = System(source, analytics, "public", Cutter(), TAPE_RETENTION_DAYS=10)
    system.restart()
    system.run("standard")
    tidy(system, analytics)
    system.close()
    sealed = sealed_before(analytics)
    assert sealed in {end for _, end in chunks}
    assert execute(analytics, CHUNKS) == [c for c in chunks if c[0] >= sealed]
    assert sealed > time.time() - 18 * DAY


def test_several_writers_neither_lose_nor_double_nor_end_the_server(
    databases: Databases, source: str
) -> None:
    """The same ranges by four at a time, again and again, while rows change, come and go."""
    analytics = databases.create_empty_store()
    sync(source, analytics)
    began = execute(analytics, "SELECT pg_postmaster_start_time()")
    system = System(source, analytics, "public", Cutter())
    system.restart()

    async def write(system: System) -> None:
        reconciler = system._reconciler
        for step in range(12):
            await asyncio.to_thread(
                execute,
                source,
                f"UPDATE order_book_trades SET price = price + {step} WHERE ctid IN "
                f"(SELECT ctid FROM order_book_trades WHERE hashtext(id) % 9 = {step % 9});"
                f"INSERT INTO order_book_trades SELECT 'n{step}-' || n, {SINCE} + n * 7001, 5, 5, '{POOL}' "
                f"FROM generate_series(1, 200) n",
            )
            for day in range(SINCE, SINCE + 14 * DAY, 2 * DAY):
                parts = [Slice(d, d + DAY, 50, 24) for d in (day, day + DAY)]
                await asyncio.gather(*(reconciler.reconcile(p) for p in parts * 2))

    system.do(write(system))
    assert system.run("comprehensive").state == "succeeded"
    system.close()
    assert execute(analytics, "SELECT pg_postmaster_start_time()") == began
    assert differences(source, analytics) == []


def test_no_statement_of_ours_is_one_that_hypertables_cannot_bear() -> None:
    texts = [
        path.read_text()
        for pattern in ("*.sql", "*.py")
        for path in (ROOT / "src" / "truetape").rglob(pattern)
    ]
    assert len(texts) > 50
    for text in texts:
        assert not re.search(r"\bMERGE INTO\b|UPDATE analytics\.tape\b", text)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_queries_for_grafana_answer(databases: Databases, source: str) -> None:
    analytics = databases.create_empty_store()
    add(source, *(trade(f"now{n}", int(time.time()) - n * 600) for n in range(20)))
    sync(source, analytics)
    execute(analytics, "UPDATE analytics.pools SET base_decimals = 18, quote_decimals = 6")
    queries = [q for q in _blocks("sql") if "AS time" in q]
    assert len(queries) == 3
    for query in queries:
        rows = execute(analytics, query.replace(":symbol", "'WETH/USDC'"))
        assert rows, query
        assert all(value is not None for value in rows[-1]), query


def test_a_restored_backup_goes_on_where_it_was_taken(
    databases: Databases, source: str, tmp_path: Path
) -> None:
    """The commands of the document, with the programs of the server's version."""
    analytics, restored = databases.create_empty_store(), databases.create("restored")
    sync(source, analytics)
    [script] = [s for s in _blocks("sh") if "pg_restore" in s]
    lines = [
        line for line in script.splitlines() if line.split()[0] in ("pg_dump", "psql", "pg_restore")
    ]
    assert len(lines) == 4
    found = list(PREFIXES.glob("trixie-postgresql-*/bin"))
    env: dict[str, Any] = os.environ | {"ANALYTICS_DATABASE_URL": analytics}
    if found:
        env["PATH"] = f"{found[0]}:{env['PATH']}"
    for line in lines:
        done = subprocess.run(
            line.replace("-d analytics_restored", f"-d '{restored}'"),
            shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stderr)
    add(source, trade("since", int(time.time())))
    execute(restored, "UPDATE analytics.lease SET expires_at = '-infinity'")
    assert sync(source, restored).processed == 1
    assert command(source, restored, "verify").returncode == 0
    assert differences(source, restored) == []
    with psycopg.connect(restored) as conn:
        assert conn.execute(IS_HYPERTABLE).fetchall() == [("tape",)]
