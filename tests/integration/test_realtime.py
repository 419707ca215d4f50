"""Real time, both ways: what rings is believed in nothing, and what is told is told once and in order."""

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from listener import Listener, Told
from oracle import differences
from redis import Redis
from served import Served
from test_sync import POOL, QUANTITY, execute, trade

from conftest import SOURCE_TABLES, Databases, passable
from testbed.servers import Server
from truetape.embedded import EmbeddedValkey
from truetape.source.bell import Bell
from truetape.source.trade_streams import TradeStreams

CHAIN_STREAM = "chain:1:trades"
UPDATES = "truetape:updates"
RIGHTS = (
    "~chain:*:trades ~truetape:updates +ping +select +scan +exists +del +xadd +xinfo +xgroup "
    "+xreadgroup +xack +xpending +xclaim"
)
"""All that a user of ours needs in Redis; as docs/reference.md has it."""
PONDER = """
CREATE TABLE _ponder_checkpoint (chain_name text PRIMARY KEY, chain_id bigint,
    safe_checkpoint varchar(75), latest_checkpoint varchar(75), finalized_checkpoint varchar(75));
ALTER TABLE order_book_trades ADD chain_id integer DEFAULT 1;
ALTER TABLE pools ADD chain_id integer DEFAULT 1, ADD base_decimals integer, ADD quote_decimals integer;
CREATE INDEX ON order_book_trades ("timestamp");
"""
MOVE = """
INSERT INTO _ponder_checkpoint VALUES ('one', 1, repeat('0', 75), %(at)s, %(final)s)
ON CONFLICT (chain_name) DO UPDATE SET latest_checkpoint = excluded.latest_checkpoint
"""
ADD = "INSERT INTO order_book_trades VALUES (%s, %s, %s, %s, %s, %s, %s)"


class Market:
    """A source as Ponder keeps it, and all that a served Truetape is wired to."""

    def __init__(
        self, source_url: str, analytics_url: str, valkey: EmbeddedValkey, database: int = 0
    ) -> None:
        self.source_url = source_url
        self.analytics_url = analytics_url
        self.valkey = valkey
        self._database = database
        self.began = int(time.time()) - 600
        self.block = 100
        self._number = 0

    def commit(self, *rows: tuple[Any, ...], notify: bool = True) -> None:
        """A block: rows, position and NOTIFY in one transaction."""
        self.block += 1
        at = f"{int(time.time()):010d}{1:016d}{self.block:016d}{'9' * 33}"
        final = f"{self.began:010d}{1:016d}{1:016d}{'9' * 33}"
        with psycopg.connect(self.source_url) as conn:
            conn.cursor().executemany(ADD, rows)
            conn.execute(MOVE, {"at": at, "final": final})
            if notify:
                conn.execute("SELECT pg_notify('public_live_query', '[\"order_book_trades\"]')")

    def trade(self, second: int | None = None, **other: Any) -> tuple[Any, ...]:
        """A trade with an id of its own, now unless said otherwise."""
        self._number += 1
        return trade(
            f"m{self._number:06d}", int(time.time()) if second is None else second, **other
        )

    @property
    def redis_url(self) -> str:
        return f"{self.valkey.acquire().rpartition('/')[0]}/{self._database}"

    @contextmanager
    def redis(self) -> Iterator[Any]:
        with Redis.from_url(self.redis_url, decode_responses=True) as client:
            yield client

    def settings(self) -> dict[str, str]:
        return {
            "PONDER_DATABASE_URL": self.source_url,
            "ANALYTICS_DATABASE_URL": self.analytics_url,
            "REDIS_URL": self.redis_url,
        }

    def shown(self, trade_id: str) -> bool:
        found = execute(
            self.analytics_url, f"SELECT 1 FROM analytics.trades WHERE trade_id = '{trade_id}'"
        )
        return bool(found)


@dataclass
class Live:
    """A market and the service that follows it."""

    market: Market
    served: Served

    def listen(self, after: int | None = None) -> Listener:
        return Listener(self.served.port, after)

    def bells(self) -> set[str]:
        return set(self.served.health().get("doorbells", []))

    def is_shown(self, row: tuple[Any, ...], seconds: float = 45) -> None:
        self.served.until(lambda: self.market.shown(row[0]), f"{row[0]} is shown", seconds)


@pytest.fixture(scope="module")
def market(
    servers: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    made = Databases(*servers)
    source_url, analytics_url = made.create("source"), made.create_store()
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
        conn.execute(PONDER)
        conn.execute("INSERT INTO pools VALUES (%s, 'WETH/USDC', 1, 18, 6)", (POOL,))
    with EmbeddedValkey(passable(tmp_path_factory.mktemp("redis")) / "valkey") as valkey:
        market = Market(source_url, analytics_url, valkey)
        market.commit(*(market.trade(market.began + i) for i in range(50)))
        yield market
    made.drop()


@pytest.fixture(scope="module")
def live(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    served = Served(tmp_path_factory.mktemp("log") / "serve.log", **market.settings())
    served.start()
    try:
        live = Live(market, served)
        served.until(
            lambda: live.bells() == {"notify", "redis", "timer"}, "all doorbells are heard"
        )
        served.until_complete()
        yield live
        served.until_complete()
        assert served.end() == 0
        assert differences(market.source_url, market.analytics_url) == []
    finally:
        if served.process is not None and served.process.poll() is None:
            served.end(signal.SIGKILL)


@pytest.fixture(autouse=True)
def all_is_well(live: Live) -> Iterator[None]:
    """What one test did to a doorbell is mended before the next."""
    yield
    live.served.until(
        lambda: live.bells() == {"notify", "redis", "timer"}, "doorbells are back", 30
    )
    with live.market.redis() as redis:  # A stream that was deleted has to be found missing first.
        live.served.until(
            lambda: redis.exists(CHAIN_STREAM) and redis.xinfo_groups(CHAIN_STREAM),
            "its stream is read again",
            30,
        )


def processor_seconds(served: Served) -> float:
    assert served.process is not None
    stat = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / 100


# -- out -----------------------------------------------------------------------------------------


def test_a_commit_is_told_over_http_and_in_redis_with_the_same_number(live: Live) -> None:
    row = live.market.trade(price=2_500_000_000)
    with live.listen() as listener:
        live.market.commit(row)
        told = listener.until(lambda t: t.data.get("lastPrice") == "2500", "the new price")
    data = told.data
    assert told.kind == "update"
    assert (data["sequence"], data["symbol"], data["poolId"], data["chainId"], data["units"]) == (
        told.id, "WETH/USDC", POOL, 1, "human",
    )  # fmt: skip
    assert (data["lastTrade"], data["interval"], data["changed"]) == (row[1], "1m", 1)
    candle = data["buckets"][-1]
    assert (candle["time"], candle["close"]) == (row[1] // 60 * 60, "2500")
    shown = live.served.get(f"/api/market/candles?poolId={POOL}&interval=1m")["candles"][-1]
    assert candle == shown
    with live.market.redis() as redis:
        live.served.until(lambda: redis.xrange(UPDATES, f"{told.id}-0", f"{told.id}-0"), "in Redis")
        [(_, fields)] = redis.xrange(UPDATES, f"{told.id}-0", f"{told.id}-0")
        assert fields["event"] == "update"
        assert f'"sequence": {told.id},' in fields["data"]


def test_every_trade_is_told_once_and_every_number_once(live: Live) -> None:
    with live.listen() as listener:
        for _ in range(30):
            live.market.commit(*(live.market.trade() for _ in range(3)))
        last = live.market.trade(price=77_000_000)
        live.market.commit(last)
        end = listener.until(lambda t: t.data.get("lastPrice") == "77", "the last price")
    told = [t for t in listener.told if t.id <= end.id]
    assert [t.id for t in told] == list(range(told[0].id, end.id + 1))
    counted = sum(t.data["trades"] for t in told if t.kind in ("update", "correction"))
    assert counted == 91


def test_a_listener_resumes_after_the_last_event_it_has(live: Live) -> None:
    with live.listen() as first:
        live.market.commit(live.market.trade())
        seen = first.until(lambda t: t.kind == "update", "an update").id
    prices = [Decimal(900 + n) for n in range(5)]
    for price in prices:
        row = live.market.trade(price=int(price) * 10**6)
        live.market.commit(row)
        live.is_shown(row)
    with live.listen(after=seen) as second:
        second.until(lambda t: t.data.get("lastPrice") == str(prices[-1]), "the last price")
        assert [t.id for t in second.told] == list(range(seen + 1, second.last + 1))
        assert [t.data["lastPrice"] for t in second.of("update")][-5:] == [str(p) for p in prices]


@pytest.mark.parametrize("nonsense", ["abc", "-1", "1.5", "9" * 200])
def test_a_last_event_id_that_is_no_number_is_refused_with_a_word(
    live: Live, nonsense: str
) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", live.served.port, timeout=10)
    connection.request("GET", "/api/stream", headers={"Last-Event-ID": nonsense})
    assert connection.getresponse().status == 400
    connection.close()


def test_a_number_that_was_never_given_is_told_as_a_gap(live: Live) -> None:
    with live.listen(after=10**15) as listener:
        gap = listener.until(lambda t: t.kind == "gap", "a gap")
        assert gap.data["after"] == 10**15
        assert gap.data["resumesAt"] < 10**15
        live.market.commit(live.market.trade(price=5_000_000))
        told = listener.until(lambda t: t.data.get("lastPrice") == "5", "the stream goes on")
        assert told.id >= gap.data["resumesAt"]


def test_who_fell_behind_what_is_kept_is_told_from_where_to_read_again(live: Live) -> None:
    with live.listen() as listener:
        live.market.commit(live.market.trade())
        before = listener.until(lambda t: t.kind == "update", "an update").id
    since = int(time.time()) - 7200
    execute(
        live.market.analytics_url,
        "INSERT INTO analytics.outbox (kind, since, data) SELECT 'update', "
        f"to_timestamp({since} + i % 100), '{{\"filler\": true}}' FROM generate_series(0, 22000) i",
    )
    live.market.commit(live.market.trade(price=6_000_000))
    kept = "SELECT count(*), min(sequence) FROM analytics.published"
    live.served.until(
        lambda: execute(live.market.analytics_url, "SELECT count(*) FROM analytics.outbox") == [(0,)]
        and execute(live.market.analytics_url, kept)[0][0] <= 21_001,
        "old ones go", 30,
    )  # fmt: skip
    with live.listen(after=before) as late:
        gap = late.until(lambda t: t.kind == "gap", "a gap", 30)
        told = late.until(lambda t: t.id > gap.id, "the stream goes on")
        assert late.told[0] is gap
        assert (gap.data["after"], gap.id + 1) == (before, gap.data["resumesAt"])
        assert told.id == gap.data["resumesAt"]
        assert gap.data["readAgainFrom"] in range(since - 60, since + 1)
        late.until(lambda t: t.data.get("lastPrice") == "6", "up to the newest", 30)
    assert execute(live.market.analytics_url, kept)[0][0] <= 21_001
    with live.market.redis() as redis:
        assert redis.xlen(UPDATES) < 11_000


def test_a_listener_that_never_reads_slows_nothing_and_can_still_read_on(live: Live) -> None:
    sleeper = socket.socket()
    sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sleeper.connect(("127.0.0.1", live.served.port))
    sleeper.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.3)
    execute(
        live.market.analytics_url,
        "INSERT INTO analytics.outbox (kind, data) SELECT 'update', "
        "('{\"filler\": \"' || repeat('x', 2000) || '\"}')::json FROM generate_series(1, 4000)",
    )
    with live.listen() as listener:
        for price in (11, 12, 13):
            live.market.commit(live.market.trade(price=price * 10**6))
            listener.until(lambda t, p=price: t.data.get("lastPrice") == str(p), "told as ever")  # type: ignore[misc]
        end = listener.last
    numbers = []
    for line in sleeper.makefile("rb"):
        if line.startswith(b"id: "):
            numbers.append(int(line[4:]))
            if numbers[-1] == end:
                break
    assert numbers == list(range(numbers[0], end + 1))
    sleeper.close()


def test_a_late_trade_corrects_a_candle_with_its_old_and_new_figures(live: Live) -> None:
    minute = int(time.time()) // 60 * 60 - 60
    for row in (live.market.trade(minute + 7), live.market.trade()):
        live.market.commit(row)
        live.is_shown(row)
    with live.listen() as listener:
        live.market.commit(live.market.trade(minute + 3, price=123_456_789_000_000))
        # The trades before, late themselves, may be told only now.
        told = listener.until(
            lambda t: t.kind == "correction" and t.data["buckets"][-1]["time"] == minute
            and t.data["buckets"][-1]["new"]["high"] == "123456789",
            "a correction", 30,
        )  # fmt: skip
        change = told.data["buckets"][-1]
        assert change["new"]["open"] == "123456789"
        assert change["old"]["high"] != "123456789"
        assert told.data["trades"] == 1
        assert change["new"]["trades"] == change["old"]["trades"] + 1


def test_a_reorg_corrects_what_it_took_away(live: Live) -> None:
    minute = live.market.began // 60 * 60 + 120
    rows = [live.market.trade(minute + n, pool="0xreorg", price=n + 1) for n in range(3)]
    live.market.commit(*rows)
    live.is_shown(rows[-1])
    with live.listen() as listener:
        execute(
            live.market.source_url,
            "DELETE FROM order_book_trades WHERE price = 3 AND pool_id = '0xreorg'",
        )
        told = listener.until(
            lambda t: t.kind == "correction" and t.data["poolId"] == "0xreorg", "a correction", 45
        )
    assert told.data["units"] == "raw"
    assert told.data["trades"] == -1
    assert (told.data["lastPrice"], told.data["lastTrade"]) == ("2", minute + 1)
    [change] = told.data["buckets"]
    assert (change["old"]["close"], change["new"]["close"]) == ("3", "2")
    assert (change["old"]["baseVolume"], change["new"]["baseVolume"]) == (
        str(3 * QUANTITY),
        str(2 * QUANTITY),
    )


def test_a_force_that_changes_a_figure_says_so(live: Live) -> None:
    minute = live.market.began // 60 * 60
    live.market.commit(live.market.trade(minute + 61, pool="0xforce", price=9))
    live.market.commit(live.market.trade(minute + 121, pool="0xforce", price=9))
    tampered = "UPDATE analytics.candles_1m SET high = 10 WHERE pool_id = '0xforce'"
    live.served.until(
        lambda: len(execute(live.market.analytics_url, tampered + " RETURNING 1")) == 2, "there"
    )
    with live.listen() as listener:
        done = live.served.post("/api/sync/force", {"fromTimestamp": minute})
        assert done["success"]
        told = listener.until(
            lambda t: t.kind == "correction" and t.data["poolId"] == "0xforce", "a correction"
        )
    assert [(b["old"]["high"], b["new"]["high"]) for b in told.data["buckets"]] == [("10", "9")] * 2
    assert told.data["trades"] == 0


def test_health_is_told_when_it_changes(live: Live) -> None:
    bad = live.market.trade(price="NaN")
    with live.listen() as listener:
        live.market.commit(bad)
        told = listener.until(
            lambda t: t.kind == "health" and t.data["failedTrades"] == 1, "degraded"
        )
        assert told.data["status"] == "degraded"
        execute(
            live.market.source_url, f"UPDATE order_book_trades SET price = 4 WHERE id = '{bad[0]}'"
        )
        listener.until(
            lambda t: t.id > told.id and t.kind == "health" and t.data["failedTrades"] == 0,
            "mended",
            30,
        )


def test_another_process_tells_the_same_under_the_same_numbers(live: Live, tmp_path: Path) -> None:
    other = Served(tmp_path / "other.log", **live.market.settings())
    other.start()
    try:
        with live.listen() as here, Listener(other.port) as there:
            for price in (21, 22, 23):
                live.market.commit(live.market.trade(price=price * 10**6))
            for listener in (here, there):
                listener.until(lambda t: t.data.get("lastPrice") == "23", "the last price")
            both = {t.id for t in here.told} & {t.id for t in there.told}
            assert both
            assert [t for t in here.told if t.id in both] == [t for t in there.told if t.id in both]
        assert set(other.health()["doorbells"]) == {"notify", "redis", "timer"}
        assert other.end() == 0
    finally:
        if other.process is not None and other.process.poll() is None:
            other.end(signal.SIGKILL)


# -- in ------------------------------------------------------------------------------------------


def pending(redis: Any, stream: str = CHAIN_STREAM) -> int:
    return int(redis.xpending(stream, "truetape")["pending"])


def unread(redis: Any, stream: str = CHAIN_STREAM) -> int:
    """Entries that are not delivered or not acknowledged yet."""
    groups = {g["name"]: g for g in redis.xinfo_groups(stream)}
    return int(groups["truetape"]["pending"]) + int(groups["truetape"]["lag"] or 0)


def test_redis_rings_where_nobody_notifies_and_is_answered(live: Live) -> None:
    with live.market.redis() as redis:
        for _ in range(5):
            row = live.market.trade()
            redis.xadd(CHAIN_STREAM, {"tradeId": "0xnot-an-id", "price": "nonsense"}, maxlen=1000)
            live.market.commit(row, notify=False)
            live.is_shown(row)
        live.served.until(lambda: unread(redis) == 0, "all are acknowledged")


def test_a_stream_that_appears_later_rings_too(live: Live) -> None:
    with live.market.redis() as redis:
        redis.xadd("chain:77:trades", {"x": "y"})
        live.served.until(lambda: redis.xinfo_groups("chain:77:trades"), "it is listened to")
        live.served.until(lambda: unread(redis, "chain:77:trades") == 0, "and answered")


def test_an_entry_is_not_acknowledged_before_a_look_has_ended_well(live: Live) -> None:
    with live.market.redis() as redis, psycopg.connect(live.market.source_url) as blocker:
        blocker.execute("LOCK TABLE order_book_trades IN ACCESS EXCLUSIVE MODE")
        redis.xadd(CHAIN_STREAM, {"x": "y"})
        live.served.until(lambda: pending(redis) == 1, "it is read")
        time.sleep(0.5)
        assert pending(redis) == 1
        blocker.rollback()
        live.served.until(lambda: unread(redis) == 0, "it is acknowledged", 30)


def test_what_a_dead_consumer_left_is_taken_up_and_what_was_trimmed_is_no_fault(live: Live) -> None:
    with live.market.redis() as redis:
        stream = "chain:5:trades"
        redis.xgroup_create(stream, "truetape", id="0", mkstream=True)
        for _ in range(20):
            redis.xadd(stream, {"x": "y"})
        found = redis.xreadgroup("truetape", "dead", {stream: ">"}, count=20)
        ids = [entry for _, entries in found for entry, _ in entries]
        redis.xclaim(stream, "truetape", "dead", 0, ids, idle=60_000)
        redis.xclaim(stream, "truetape", "dead", 0, ids[:3], idle=60_000, retrycount=99)
        redis.xtrim(stream, maxlen=10, approximate=False)
        live.served.until(lambda: unread(redis, stream) == 0, "taken up and answered", 20)
        assert redis.xlen(stream) <= 10


def test_a_hundred_thousand_forged_entries_do_no_more_than_ring(live: Live) -> None:
    with live.market.redis() as redis, live.listen() as listener:
        began, used = time.monotonic(), processor_seconds(live.served)
        for _ in range(100):
            pipeline = redis.pipeline(transaction=False)
            for _ in range(1000):
                pipeline.xadd(CHAIN_STREAM, {"tradeId": "0xforged", "price": "1"})
            pipeline.execute()
        row = live.market.trade(price=31_000_000)
        live.market.commit(row)
        listener.until(lambda t: t.data.get("lastPrice") == "31", "a real trade comes through")
        live.served.until(lambda: unread(redis) == 0, "all are acknowledged", 40)
        print(
            f"{time.monotonic() - began:.1f} s, {processor_seconds(live.served) - used:.1f} s of processor"
        )
        redis.delete(CHAIN_STREAM)
    assert execute(live.market.analytics_url, "SELECT FROM analytics.trades WHERE price = 1") == []


def test_flushed_in_mid_flow_both_ways_go_on(live: Live) -> None:
    with live.market.redis() as redis, live.listen() as listener:
        for number in range(6):
            redis.xadd(CHAIN_STREAM, {"x": "y"})
            row = live.market.trade(price=(40 + number) * 10**6)
            live.market.commit(row, notify=False)
            if number == 3:
                redis.flushall()
            live.is_shown(row)
        last = listener.until(lambda t: t.data.get("lastPrice") == "45", "the last price")
        live.served.until(lambda: redis.xrange(UPDATES, f"{last.id}-0"), "told in Redis again")
        redis.xadd(CHAIN_STREAM, {"x": "y"})
        live.served.until(lambda: redis.xinfo_groups(CHAIN_STREAM), "listened to again")
        live.served.until(lambda: unread(redis) == 0, "and answered")


def test_redis_may_go_and_come_back(live: Live) -> None:
    market = live.market
    with market.redis() as redis:
        port = market.valkey.port
    market.valkey.release()
    live.served.until(lambda: live.bells() == {"notify", "timer"}, "one doorbell less", 30)
    with live.listen() as listener:
        row = market.trade(price=51_000_000)
        market.commit(row)
        told = listener.until(
            lambda t: t.data.get("lastPrice") == "51", "told over HTTP all the same"
        )
    market.valkey.acquire()
    assert market.valkey.port == port
    with market.redis() as redis:
        live.served.until(
            lambda: redis.xrange(UPDATES, f"{told.id}-0", f"{told.id}-0"),
            "made up for in Redis",
            30,
        )


def test_another_thing_at_our_keys_is_told_once_and_survived(live: Live) -> None:
    with live.market.redis() as redis:
        redis.delete(CHAIN_STREAM, UPDATES)
        redis.set(CHAIN_STREAM, "not a stream")
        redis.set(UPDATES, "not a stream")
        rows = [live.market.trade() for _ in range(3)]
        for row in rows:
            live.market.commit(row)
            live.is_shown(row)
        time.sleep(3)
        log = live.served.log.read_text()
        assert log.count("doorbell.refused") <= 2
        assert log.count("redis.out_failed") <= 3
        redis.delete(CHAIN_STREAM, UPDATES)
        live.market.commit(live.market.trade())
        live.served.until(
            lambda: redis.exists(CHAIN_STREAM, UPDATES) == 2, "both are streams again", 20
        )


def test_notifications_without_end_and_sense_do_no_more_than_ring(live: Live) -> None:
    used, began = processor_seconds(live.served), time.monotonic()
    with psycopg.connect(live.market.source_url, autocommit=True) as conn:
        while time.monotonic() - began < 3:
            conn.execute(
                "SELECT pg_notify('public_live_query', repeat('x', i)) FROM generate_series(1, 200) i"
            )
        row = live.market.trade()
        live.market.commit(row, notify=False)
        live.is_shown(row)
    share = (processor_seconds(live.served) - used) / (time.monotonic() - began)
    print(f"{share:.0%} of a core")
    assert share < 0.9


def test_a_listening_connection_that_is_cut_is_made_again(live: Live) -> None:
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND query LIKE '%pg_listening_channels%' AND pid <> pg_backend_pid()"
    )
    for _ in range(3):
        live.served.until(lambda: execute(live.market.source_url, cut), "there is one to cut")
        row = live.market.trade()
        live.market.commit(row)
        live.is_shown(row)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_redis_is_spoken_to_over_tls(live: Live, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    parts = urlsplit(live.market.redis_url)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)

        async def pump(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
            while block := await source.read(65536):
                into.write(block)
                await into.drain()
            into.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async def chains() -> list[int]:
        return [3]

    async def listen() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = await asyncio.start_server(join, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        url = f"rediss://:{parts.password}@localhost:{port}/3?ssl_ca_certs={certificate}"
        doorbell = TradeStreams(url, "chain:*:trades", Bell(), chains)
        listening = asyncio.create_task(doorbell.listen())
        async with asyncio.timeout(10):
            while not doorbell.alive:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        listening.cancel()
        await asyncio.wait([listening])
        server.close()

    asyncio.run(listen())


# -- one publisher -------------------------------------------------------------------------------


def test_numbers_only_grow_and_nothing_is_told_twice_when_leaders_are_killed(
    live: Live, database: Databases, tmp_path: Path
) -> None:
    """A market of its own, its Redis by a user with the least rights: leaders die under load."""
    source_url, analytics_url = database.create("source"), database.create_store()
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
        conn.execute(PONDER)
    market = Market(source_url, analytics_url, live.market.valkey, database=1)
    place = market.redis_url.rpartition("@")[2]
    settings = market.settings() | {"REDIS_URL": f"redis://least:secret@{place}"}
    with market.redis() as redis:
        redis.execute_command("ACL", "SETUSER", "least", "on", ">secret", *RIGHTS.split())
    two = [Served(tmp_path / f"{n}.log", **settings) for n in range(2)]
    told: dict[int, Told] = {}
    try:
        two[0].start(wait=False)
        two[1].start()
        for dying in (two[0], two[1]):
            for _ in range(10):
                market.commit(*(market.trade() for _ in range(2)))
                time.sleep(0.05)
            dying.end(signal.SIGKILL)
            execute(analytics_url, "UPDATE analytics.lease SET expires_at = '-infinity'")
            market.commit(*(market.trade() for _ in range(5)))
            dying.start(wait=False)
        market.commit(market.trade(price=61_000_000))
        two[0].until_complete()
        with Listener(two[0].port, after=0) as listener:
            listener.until(lambda t: t.data.get("lastPrice") == "61000000", "the last price", 30)
            time.sleep(1)
            told = {t.id: t for t in listener.told}
            assert [t.id for t in listener.told] == list(range(1, listener.last + 1))
        events = execute(analytics_url, "SELECT sequence FROM analytics.published ORDER BY 1")
        assert [s for (s,) in events] == list(range(1, len(events) + 1))
        trades = sum(t.data["trades"] for t in told.values() if t.kind != "health")
        assert [(trades,)] == execute(analytics_url, "SELECT count(*) FROM analytics.trades")
        with market.redis() as redis:
            two[0].until(lambda: redis.xlen(UPDATES) >= len(told), "all are in Redis")
            ids = [entry for entry, _ in redis.xrange(UPDATES)]
            assert ids == [f"{n}-0" for n in range(1, len(ids) + 1)]
    finally:
        for served in two:
            if served.process is not None and served.process.poll() is None:
                served.end(signal.SIGKILL)
