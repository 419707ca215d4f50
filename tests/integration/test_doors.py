"""Who gets in, what they may do, and what they can learn on the way."""

import asyncio
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from served import Served
from test_sync import add, execute, trade

from conftest import passable
from truetape.embedded import EmbeddedPostgres
from truetape.settings import Settings
from truetape.source import Source
from truetape.sync.engine import open_engine

TOKEN = "a token that nobody may read"
PASSWORD = "a-password-that-nobody-may-read"


def test_the_source_is_read_only_to_us_whatever_the_role_may_do(
    source_url: str, analytics_url: str
) -> None:
    """The tests' role owns everything; each way to the source refuses a write all the same."""

    async def write() -> None:
        async with (
            open_engine(Settings.load(), source_url, analytics_url, follow=True) as engine,
            engine.source.look() as look,
        ):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await look._conn.execute("DELETE FROM order_book_trades")
        async with Source.open(source_url) as source, source.pool.connection() as conn:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                async with conn.transaction():
                    await conn.execute("DELETE FROM order_book_trades")

    add(source_url, trade("t1", 1754400000))
    asyncio.run(write())
    assert execute(source_url, "SELECT count(*) FROM order_book_trades") == [(1,)]


def test_questions_about_the_market_cannot_write(source_url: str, analytics_url: str) -> None:
    async def write() -> None:
        async with (
            open_engine(Settings.load(), source_url, analytics_url, follow=False) as engine,
            engine.readers.connection() as conn,
        ):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await conn.execute("DELETE FROM analytics.trades")

    asyncio.run(write())


def headers_of(url: str, **headers: str) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}


def everything_said(served: Served, log: Path) -> str:
    """All that a process lets out: what it logs, says over HTTP, and shows of itself to `ps`."""
    assert served.process is not None
    calls = (
        "/api/sync/health",
        "/api/sync/stats",
        "/api/sync/runs",
        "/metrics",
        "/openapi.json",
        "/",
    )
    said = [log.read_text()]
    for call in calls:
        with urllib.request.urlopen(served.here + call, timeout=30) as answer:
            said.append(answer.read().decode())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return "\n".join(said)


def test_no_secret_is_in_the_log_an_answer_or_the_process_list(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    add(source_url, trade("t1", 1754400000))
    log = tmp_path / "serve.log"
    served = Served(
        log, PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
        TRUETAPE_API_TOKEN=TOKEN, REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:1/0",
    )  # fmt: skip
    passwords = {conninfo_to_dict(url).get("password") for url in (source_url, analytics_url)}
    served.start()
    try:
        served.until_complete()
        wrong = {"Authorization": f"Bearer {TOKEN}x"}
        assert served.post("/api/sync/run", {}, 401, wrong) is not None
        assert served.post("/api/sync/run", {}, 200, {"Authorization": f"Bearer {TOKEN}"})
        said = everything_said(served, log)
    finally:
        served.end()
    assert "truetape serve" in said, "it was there to be seen"
    for secret in {TOKEN, PASSWORD, *passwords} - {None}:
        assert str(secret) not in said


def test_every_answer_leaves_by_the_same_doors(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source_url,
        ANALYTICS_DATABASE_URL=analytics_url, TRUETAPE_API_TOKEN=TOKEN,
    )  # fmt: skip
    served.start()
    try:
        seen = {}
        for path in ("/", "/docs", "/livez", "/api/sync/health", "/api/market/candles", "/nothing"):
            seen[path], headers = headers_of(served.here + path)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert "server" not in headers, "who asks need not know what we are made of"
            if path in ("/", "/docs"):
                assert "default-src 'self'" in headers["content-security-policy"]
        assert set(seen.values()) == {200, 400, 404}
        assert headers_of(served.here + "/api/sync/health", Host="evil.example")[0] == 403
        long = f"{served.here}/api/trades?symbol={'x' * 100_000}"
        assert headers_of(long)[0] in (400, 414), "a question is bounded"
        body = {"strategy": "standard", "more": "x" * 70_000}
        refused = served.post("/api/sync/run", body, 413, {"Authorization": f"Bearer {TOKEN}"})
        assert "larger than" in refused["error"]
    finally:
        served.end()


def test_an_embedded_server_is_closed_to_whoever_else_is_on_the_machine(tmp_path: Path) -> None:
    home = passable(tmp_path) / "pg"
    with EmbeddedPostgres(home) as server:
        url = server.ensure_database("trades")
        password = (home / "password").read_text()
        for without in (url.replace(f":{password}@", "@"), url.replace(password, "guessed")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(without).close()
        shown = []
        for command_line in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
                shown.append(command_line.read_bytes().decode())
        assert any(str(home) in line for line in shown), "it was there to be seen"
        assert not any(password in line for line in shown)
