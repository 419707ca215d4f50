"""The API under attack: whatever is sent, the answer is one that its OpenAPI document promises."""

import base64
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from served import Served, environment

from conftest import Databases
from testbed.servers import Server

HERE = Path(__file__).parent
SEED = int(os.environ.get("TRUETAPE_TEST_SEED", random.randrange(2**31)))
TOKEN = "s3cret-of-the-attack"
SECONDS_MAX = 240
SOURCE = """
CREATE TABLE order_book_trades (id text, "timestamp" integer, price numeric, quantity numeric,
    pool_id text, side varchar, transaction_id text, chain_id integer, buyer text, seller text);
CREATE INDEX ON order_book_trades ("timestamp");
CREATE TABLE pools (order_book text, coin text, chain_id integer, base_decimals integer,
    quote_decimals integer);
INSERT INTO pools VALUES ('0xweth', 'WETH/USDC', 1, 18, 6), ('0xwbtc', 'WBTC/USDC', 1, 8, 6),
    ('0xweth', 'WETH/USDC', 2, 18, 6), ('0xother', 'ARB/WETH', 1, NULL, NULL);
"""
TRADES = """
INSERT INTO order_book_trades
SELECT %(name)s || n, extract(epoch FROM now())::integer - %(ago)s * n,
       CASE n %% 97 WHEN 13 THEN 'NaN'::numeric ELSE 2000000000 + n END, n %% 7 * 10::numeric ^ 17,
       (ARRAY['0xweth', '0xwbtc', '0xother', '0xnameless'])[1 + n %% 4],
       (ARRAY['buy', 'sell', NULL])[1 + n %% 3], '0x' || n, 1 + n / 4 %% 2,
       (ARRAY['alice', 'bob', 'carol'])[1 + n %% 3], (ARRAY['bob', 'carol', 'alice'])[1 + n %% 3]
FROM generate_series(1, %(count)s) n
"""


def trading(source_url: str, ended: threading.Event) -> None:
    """The exchange goes on: a trade every tenth of a second."""
    number = 0
    with psycopg.connect(source_url, autocommit=True) as conn:
        while not ended.wait(0.1):
            number += 1
            conn.execute(TRADES, {"name": f"live{number}-", "ago": 0, "count": 1})


@pytest.fixture(scope="module")
def served(
    servers: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A service that follows a lively source and guards its changes with a token."""
    made = Databases(*servers)
    source_url = made.create("source")
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(SOURCE)
        conn.execute(TRADES, {"name": "past-", "ago": 1000, "count": 500})
    served = Served(
        tmp_path_factory.mktemp("log") / "serve.log", PONDER_DATABASE_URL=source_url,
        ANALYTICS_DATABASE_URL=made.create_store(), TRUETAPE_API_TOKEN=TOKEN,
    )  # fmt: skip
    served.start()
    ended = threading.Event()
    exchange = threading.Thread(target=trading, args=(source_url, ended))
    try:
        served.until(lambda: served.health().get("missedTrades") == 0, "all is processed")
        exchange.start()
        yield served
        served.until(lambda: served.health().get("isHealthy"), "healthy after the attack")
        assert served.end() == 0
        assert "Traceback" not in served.log.read_text()
    finally:
        ended.set()
        if exchange.is_alive():
            exchange.join()
        if served.process is not None and served.process.poll() is None:
            served.end(signal.SIGKILL)
        made.drop()


def tightened(document: dict[str, Any]) -> dict[str, Any]:
    """The document with every answer closed: a key that it does not name is a breach, too."""
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document


def attack(served: Served, folder: Path, *options: str) -> None:
    """All checks over all calls, in all ways that schemathesis knows."""
    document = folder / "openapi.json"
    document.write_text(json.dumps(tightened(served.get("/openapi.json"))))
    print(f"TRUETAPE_TEST_SEED={SEED} repeats it")
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
         "run", str(document), "--url", served.here, "--checks", "all", "--seed", str(SEED),
         "--no-color", *options],
        env=environment(), cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX,
        check=False,
    )  # fmt: skip
    print(f"{time.monotonic() - began:.0f} s\n{ran.stdout[-20_000:]}{ran.stderr[-5_000:]}")
    assert ran.returncode == 0, f"TRUETAPE_TEST_SEED={SEED} repeats it; see above"


def test_who_has_no_token_finds_no_fault(served: Served, tmp_path: Path) -> None:
    # Who may not come in is not told which methods there are either: a 401 comes before any 405.
    attack(served, tmp_path, "--exclude-checks", "unsupported_method")


def test_who_has_the_token_finds_no_fault(served: Served, tmp_path: Path) -> None:
    attack(served, tmp_path, "--header", f"Authorization: Bearer {TOKEN}")


# -- what schemathesis does not send ---------------------------------------------------------------


def exchanged(served: Served, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to some bytes; (0, b"") where the connection is closed instead."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.read()
        except (http.client.HTTPException, ConnectionError):
            return 0, b""


NAMES = ("Host", "Origin", "Authorization", "Content-Length", "Content-Type", "Transfer-Encoding",
         "Last-Event-ID", "Forwarded", "X-Forwarded-For", "Connection", "Upgrade", "Expect")  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        ["http://[", "http://[::1", "//[", "null", "chunked", "²", "-1", "1e3", "Bearer", "Bearer é",
         "localhost:99999999", "websocket", "100-continue", "[", "a:b:c", "application/json; charset=x"]
    ),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    headers=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
    call=st.sampled_from(["GET /livez", "GET /nothing", "POST /api/sync/retry", "PUT /api/trades"]),
    is_known=st.booleans(),
)
@example(headers={"Origin": "http://["}, call="POST /api/sync/retry", is_known=True)
@example(headers={"Content-Length": "²"}, call="POST /api/sync/retry", is_known=True)
def test_no_header_makes_it_stumble(
    served: Served, headers: dict[str, str], call: str, is_known: bool
) -> None:
    known = {"Authorization": f"Bearer {TOKEN}"} if is_known else {}
    sent = {"Host": "localhost", "Connection": "close"} | known | headers
    lines = [f"{call} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    status, body = exchanged(served, "\r\n".join(lines).encode("latin-1"))
    assert status < 500, body
    if status >= 400 and body != b"Invalid HTTP request received.":
        assert set(json.loads(body)) == {"error", "details"}


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode()),
    path=st.sampled_from(["run", "force", "retry", "verify"]),
)
def test_no_body_makes_it_stumble(served: Served, body: bytes, path: str) -> None:
    status, told = post(served, path, body)
    assert status in (200, 202, 400), told


def post(served: Served, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    known = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", f"/api/sync/{path}?wait=false", body, known | headers)
    answer = connection.getresponse()
    told = json.load(answer)
    connection.close()
    return answer.status, told


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\ud800": 1}',
        b'{"tradeId": "\\ud800"}',
        b'{"tradeId": "a\\u0000b"}',
        b'{"strategy": "\\udfff"}',
        b"[" * 20_000,
        b'{"tradeId": ' + b"9" * 20_000 + b"}",
        b'\xff\xfe{"tradeId": 1}',
    ],
)
@pytest.mark.parametrize("path", ["run", "force", "retry", "verify"])
def test_a_body_that_is_no_text_is_refused(served: Served, path: str, body: bytes) -> None:
    status, told = post(served, path, body)
    assert (status, set(told)) == (400, {"error", "details"})


def test_a_body_without_end_is_refused_by_what_comes(served: Served) -> None:
    status, told = post(served, "run", (b" " * 1000 for _ in range(1000)))
    assert (status, set(told)) == (413, {"error", "details"})


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize("second", [0, 6_227_020_800, 9_999_999_999])
def test_a_force_from_any_time_is_answered(served: Served, second: int, dry: bool) -> None:
    status, told = post(served, "force", json.dumps({"fromTimestamp": second, "dryRun": dry}))
    assert (status, told["fromTimestamp"]) == (200 if dry else 202, second)
    assert not dry or (told["trades"] > 0) == (second == 0)
    if not dry:
        run = f"/api/sync/runs/{told['runId']}"
        ended = served.until(lambda: served.get(run)["endedAt"] and served.get(run), "it has ended")
        assert ended["state"] == "succeeded"


@pytest.mark.parametrize("second", ["253402300799", "-62135596800", "-1", "9" * 30, "1_0", "٣"])
def test_a_cursor_from_outside_our_time_is_refused(served: Served, second: str) -> None:
    cursor = base64.urlsafe_b64encode(f"{second}:x".encode()).decode().rstrip("=")
    assert served.get(f"/api/trades?cursor={cursor}", status=400)


def test_a_method_that_is_not_allowed_is_told_which_are(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("PUT", "/api/trades", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    connection.close()


FILLER = """INSERT INTO analytics.outbox (kind, data)
SELECT 'update', '{"filler": true}' FROM generate_series(1, 3000)"""


@pytest.mark.parametrize("filler", [None, FILLER], ids=["memory", "database"])
def test_listeners_that_leave_at_any_moment_leave_no_trace(
    served: Served, filler: str | None
) -> None:
    """Whatever was on its way to them, out of memory or out of the database, at that moment."""
    if filler:
        with psycopg.connect(served.settings["ANALYTICS_DATABASE_URL"], autocommit=True) as conn:
            conn.execute(filler)
            counted = "SELECT count(*) FROM analytics.outbox WHERE data::text LIKE '%filler%'"
            served.until(lambda: conn.execute(counted).fetchone() == (0,), "they are told")
    request = b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n"
    for number in range(200):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(request)
            if number % 5:
                connection.recv(1 + number * 20)
        time.sleep(0.003)  # There is a limit of calls.
    assert served.get("/livez")
    assert served.health()["following"]
    assert "Traceback" not in served.log.read_text()
