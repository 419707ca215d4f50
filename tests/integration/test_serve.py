"""Truetape as a process: the worked outage with its cron lines, kill -9, both databases away."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from oracle import differences
from served import Served, truetape
from test_sync import POOL, add, execute, trade

from truetape.embedded import EmbeddedPostgres

UNHEALTHY = (
    "curl -s {here}/api/sync/health | jq '.isHealthy' | grep -q false "
    '&& echo "ALERT: Analytics sync unhealthy"'
)
LATE = (
    "curl -s {here}/api/sync/health | jq '.lagMinutes > 30' | grep -q true "
    "&& curl -X POST {here}/api/sync/run"
)


@pytest.fixture
def serve(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    served = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url,
        ANALYTICS_DATABASE_URL=analytics_url,
        TRUETAPE_HOME=str(tmp_path),
    )
    yield served
    if served.process is not None and served.process.poll() is None:
        served.end(signal.SIGKILL)


def cron(line: str, served: Served) -> str:
    done = subprocess.run(
        ["bash", "-c", line.format(here=served.here)], capture_output=True, text=True, check=False
    )
    return done.stdout


def test_the_worked_outage_over_http(source_url: str, analytics_url: str, tmp_path: Path) -> None:
    execute(source_url, f"INSERT INTO pools VALUES ('{POOL}', 'WETH/USDC')")
    add(source_url, *(trade(f"t{i}", 1754400000 + 60 * (i - 1)) for i in (1, 2, 3)))
    served = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url, SYNC_FOLLOW="false",
    )  # fmt: skip
    served.start()
    assert served.post("/api/sync/run")["processed"] == 3
    assert served.end() == 0

    for number, second in ((4, 300), (5, 360), (6, 600), (7, 660)):
        add(source_url, trade(f"t{number}", 1754400000 + second))
    execute(
        analytics_url, "UPDATE analytics.state SET complete_at = complete_at - interval '1 hour'"
    )
    served.start()
    health = served.health()
    assert (health["isHealthy"], health["missedTrades"]) == (False, 4)
    assert round(health["lagMinutes"]) == 60
    assert health["recommendation"] == "IMMEDIATE_SYNC_REQUIRED"
    if shutil.which("jq") and shutil.which("curl"):
        assert cron(UNHEALTHY, served).strip() == "ALERT: Analytics sync unhealthy"
        assert '"processed":4' in cron(LATE, served)
        assert cron(UNHEALTHY, served) == cron(LATE, served) == ""
    else:
        ran = served.post("/api/sync/run")
        assert (ran["processed"], ran["errors"], ran["total"]) == (4, 0, 4)
        assert ran["duration"] > 0
    health = served.health()
    assert (health["isHealthy"], health["lagMinutes"], health["missedTrades"]) == (True, 0, 0)
    assert health["recommendation"] == "HEALTHY"
    assert served.end() == 0
    assert differences(source_url, analytics_url) == []


def test_killed_and_restarted_under_load(
    serve: Served, source_url: str, analytics_url: str
) -> None:
    now = int(time.time()) - 3600
    add(source_url, *(trade(f"h{i}", now + i // 3) for i in range(3000)))
    serve.start()
    for round_ in range(3):
        add(source_url, *(trade(f"r{round_}-{i}", now + 1000 + i) for i in range(200)))
        serve.end(signal.SIGKILL)
        add(source_url, *(trade(f"s{round_}-{i}", now + 100 + i) for i in range(50)))
        serve.start()
    serve.until_complete()
    proof = serve.post("/api/sync/verify")
    assert (proof["complete"], proof["tradesChecked"]) == (True, 3750)
    assert differences(source_url, analytics_url) == []
    assert serve.end() == 0


def test_health_while_a_database_is_away(
    analytics_url: str, tmp_path: Path, server_url: str
) -> None:
    home = tmp_path / "source"
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    server = EmbeddedPostgres(home)
    server.acquire()
    source = server.ensure_database("exchange")
    execute(source, "CREATE TABLE order_book_trades (id text, timestamp integer, price numeric, "
            "quantity numeric, pool_id text, side varchar, transaction_id text); "
            "CREATE TABLE pools (order_book text, coin text)")  # fmt: skip
    add(source, trade("a", int(time.time()) - 100))
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source, ANALYTICS_DATABASE_URL=analytics_url
    )
    served.start()
    try:
        served.until_complete()
        server.release()
        began = time.monotonic()
        down = served.until(lambda: served.get("/api/sync/health", 503), "health says 503", 20)
        again = time.monotonic()
        down = served.get("/api/sync/health", 503)
        assert time.monotonic() - again < 2.5, f"after {again - began:.1f} s"
        assert (down["isHealthy"], down["lagMinutes"], down["missedTrades"]) == (False, None, None)
        assert down["error"]
        assert set(down) >= {"status", "recommendation", "chains", "verified", "message"}
        assert served.get("/livez") == {"status": "ok"}
        assert served.get("/readyz", 503)
        server.acquire()
        add(source, trade("b", int(time.time()) - 50))
        served.until_complete()
    finally:
        served.end(signal.SIGKILL)
        server.release()


def test_the_port_is_taken(serve: Served) -> None:
    serve.start()
    second = truetape(
        "serve", PONDER_DATABASE_URL=serve.settings["PONDER_DATABASE_URL"],
        ANALYTICS_DATABASE_URL=serve.settings["ANALYTICS_DATABASE_URL"], PORT=str(serve.port),
    )  # fmt: skip
    assert second.returncode == 2
    assert "PORT" in second.stderr
    assert serve.end(signal.SIGINT) == 0


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours(host: str, source_url: str, analytics_url: str) -> None:
    refused = truetape(
        "serve", PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
        HOST=host, TRUETAPE_API_TOKEN="long-enough-to-be-a-token",
    )  # fmt: skip
    assert refused.returncode == 2
    assert f"HOST {host} is no address of this machine" in refused.stderr


def test_two_processes_one_leader(
    serve: Served, source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    now = int(time.time()) - 600
    add(source_url, *(trade(f"a{i}", now + i) for i in range(300)))
    other = Served(tmp_path / "other.log", PONDER_DATABASE_URL=source_url,
                   ANALYTICS_DATABASE_URL=analytics_url)  # fmt: skip
    serve.start()
    other.start()
    try:
        serve.until_complete()
        serve.end(signal.SIGKILL)
        add(source_url, *(trade(f"b{i}", now + i) for i in range(300)))
        other.until(lambda: other.health().get("missedTrades") == 0
                    and execute(analytics_url, "SELECT count(*) FROM analytics.tape") == [(600,)],
                    "the other has taken over", 20)  # fmt: skip
    finally:
        other.end(signal.SIGKILL)
    assert differences(source_url, analytics_url) == []


def test_a_role_with_select_only(database: object, server_url: str, tmp_path: Path) -> None:
    from conftest import SOURCE_TABLES, Databases

    assert isinstance(database, Databases)
    source, analytics = database.create("source"), database.create_store()
    role = f"reader_{os.getpid()}"
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
        conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'r'")
    add(source, trade("a", 1754400000))
    url = source.replace(source.split("//")[1].split("@")[0], f"{role}:r")
    try:
        refused = truetape("sync", PONDER_DATABASE_URL=url, ANALYTICS_DATABASE_URL=analytics)
        assert refused.returncode in (1, 2)
        assert "GRANT SELECT" in refused.stderr
        execute(source, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        done = truetape("sync", PONDER_DATABASE_URL=url, ANALYTICS_DATABASE_URL=analytics)
        assert done.returncode == 0, done.stderr
        assert differences(source, analytics) == []
    finally:
        execute(source, f"DROP OWNED BY {role}")
        execute(source, f"DROP ROLE {role}")
