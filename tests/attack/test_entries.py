"""Nonsense in Redis, where anybody in the house may write: it rings or it does not, and no more."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import differences
from redis import Redis
from redis.exceptions import ResponseError
from served import Served
from test_realtime import PONDER, Live, Market, processor_seconds
from test_sync import POOL

from conftest import SOURCE_TABLES, Databases, passable
from testbed.servers import Server
from truetape.embedded import EmbeddedValkey

GOOD, GROUP, UPDATES = b"chain:1:trades", b"truetape", b"truetape:updates"
ALL = {"notify", "redis", "timer"}


@pytest.fixture(scope="module")
def live(
    servers: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A market and the service that follows it; whatever was done to it, it is whole in the end."""
    made = Databases(*servers)
    source_url, analytics_url = made.create("source"), made.create_store()
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
        conn.execute(PONDER)
        conn.execute("INSERT INTO pools VALUES (%s, 'WETH/USDC', 1, 18, 6)", (POOL,))
    with EmbeddedValkey(passable(tmp_path_factory.mktemp("redis")) / "valkey") as valkey:
        market = Market(source_url, analytics_url, valkey)
        market.commit(market.trade())
        served = Served(tmp_path_factory.mktemp("log") / "serve.log", **market.settings())
        served.start()
        try:
            live = Live(market, served)
            served.until(lambda: live.bells() == ALL, "all doorbells are heard")
            yield live
            served.until_complete()
            assert served.end() == 0
            assert differences(source_url, analytics_url) == []
            assert "Traceback" not in served.log.read_text()
        finally:
            if served.process is not None and served.process.poll() is None:
                served.end(signal.SIGKILL)
            made.drop()


@pytest.fixture
def redis(live: Live) -> Iterator[Any]:
    """A client that speaks in bytes."""
    with Redis.from_url(live.market.redis_url) as client:
        yield client
        client.flushall()


def unread(redis: Any, stream: bytes = GOOD) -> int:
    groups = {g["name"]: g for g in redis.xinfo_groups(stream)}
    return int(groups[GROUP]["pending"]) + int(groups[GROUP]["lag"] or 0)


def told_prices(redis: Any) -> set[str]:
    told = [json.loads(fields[b"data"]) for _, fields in redis.xrange(UPDATES) if b"data" in fields]
    return {str(event.get("lastPrice")) for event in told}


def still_rings(live: Live, redis: Any) -> None:
    """Entries of a proper stream are answered, and trades come through, as ever."""
    row = live.market.trade()
    redis.delete(GOOD)
    redis.xadd(GOOD, {"x": "y"})
    live.market.commit(row, notify=False)
    live.is_shown(row)
    live.served.until(lambda: redis.xinfo_groups(GOOD) and unread(redis) == 0, "answered", 15)
    live.served.until(lambda: "redis" in live.bells(), "Redis is heard", 15)


# -- one thing at a time ---------------------------------------------------------------------------

BINARY = {b"\xff\xfe": b"\x80" * 40, b"\x00": b"", b"tradeId": b"\xc3\x28"}


def test_fields_that_are_no_text_are_answered_like_others(live: Live, redis: Any) -> None:
    lost = live.served.log.read_text().count("doorbell.lost")
    for _ in range(5):
        redis.xadd(GOOD, BINARY)
    still_rings(live, redis)
    assert live.served.log.read_text().count("doorbell.lost") == lost


def test_a_stream_whose_name_is_no_text_does_not_silence_the_others(live: Live, redis: Any) -> None:
    lost = live.served.log.read_text().count("doorbell.lost")
    odd = b"chain:\xff\xfe:trades"
    redis.xadd(odd, {"x": "y"})
    still_rings(live, redis)
    live.served.until(lambda: unread(redis, odd) == 0, "it is answered, too", 15)
    assert live.served.log.read_text().count("doorbell.lost") == lost


def test_entries_of_a_megabyte_are_answered(live: Live, redis: Any) -> None:
    for _ in range(60):
        redis.xadd(GOOD, {"tradeId": "x" * 2**20})
    live.served.until(lambda: redis.xinfo_groups(GOOD) and unread(redis) == 0, "answered", 30)
    still_rings(live, redis)


def test_bytes_of_others_in_our_own_stream_do_not_end_it(live: Live, redis: Any) -> None:
    failed = live.served.log.read_text().count("sync.failed")
    redis.delete(UPDATES)
    redis.xadd(UPDATES, BINARY, id="18446744073709551615-1")
    row = live.market.trade(price=7_000_000)
    live.market.commit(row)
    live.served.until(lambda: "7" in told_prices(redis), "told in Redis", 30)
    assert live.served.log.read_text().count("sync.failed") == failed


@pytest.mark.parametrize(
    "meddle",
    [
        lambda r: r.xgroup_destroy(GOOD, GROUP),
        lambda r: r.xgroup_delconsumer(GOOD, GROUP, "leader"),
        lambda r: r.xgroup_setid(GOOD, GROUP, "0"),
        lambda r: r.xgroup_setid(GOOD, GROUP, "99999999999999-0"),
        lambda r: r.xtrim(GOOD, 0),
        lambda r: r.rename(GOOD, "chain:2:trades"),
        lambda r: r.xreadgroup(GROUP, "leader", {GOOD: ">"}),
        lambda r: r.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        lambda r: r.execute_command("SWAPDB", 0, 1),
    ],
    ids=["group", "consumer", "back", "ahead", "trim", "rename", "steal", "kill", "swap"],
)
def test_who_meddles_with_our_group_is_mended(
    live: Live, redis: Any, meddle: Callable[[Any], Any]
) -> None:
    still_rings(live, redis)
    for _ in range(3):
        redis.xadd(GOOD, {"x": "y"})
        meddle(redis)
    still_rings(live, redis)


# -- all at once -----------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from([GOOD, b"chain:2:trades", b"chain::trades", b"chain:*:trades", b"chain:[:trades",
                     b"chain:a b\n:trades", "chain:é:trades".encode(), b"truetape:updates"]),
    st.binary(max_size=12).map(lambda b: b"chain:" + b + b":trades"),
)  # fmt: skip
BYTES = st.binary(max_size=30) | st.sampled_from([b"", b"x" * 2**20, b'{"price": NaN}', b"\xff"])
ENTRIES = st.dictionaries(BYTES, BYTES, min_size=1, max_size=4)
IDS = st.sampled_from(
    [b"*", b"1-1", b"18446744073709551615-18446744073709551615", b"99999999999999-0"]
)
COMMANDS = st.one_of(
    st.tuples(st.just("XADD"), NAMES, IDS, ENTRIES.map(lambda e: [part for pair in e.items() for part in pair])),
    st.tuples(st.just("SET"), NAMES, BYTES),
    st.tuples(st.sampled_from(["LPUSH", "SADD", "PFADD"]), NAMES, BYTES),
    st.tuples(st.just("HSET"), NAMES, BYTES, BYTES),
    st.tuples(st.just("ZADD"), NAMES, st.just(b"1"), BYTES),
    st.tuples(st.sampled_from(["DEL", "PERSIST"]), NAMES),
    st.tuples(st.just("PEXPIRE"), NAMES, st.just(b"50")),
    st.tuples(st.just("RENAME"), NAMES, NAMES),
    st.tuples(st.just("XGROUP"), st.sampled_from([b"DESTROY"]), NAMES, st.just(GROUP)),
    st.tuples(st.just("XGROUP"), st.just(b"CREATE"), NAMES, st.just(GROUP), st.just(b"$"), st.just(b"MKSTREAM")),
    st.tuples(st.just("XGROUP"), st.just(b"SETID"), NAMES, st.just(GROUP), st.sampled_from([b"0", b"$", b"5-5"])),
    st.tuples(st.just("XGROUP"), st.just(b"DELCONSUMER"), NAMES, st.just(GROUP), st.just(b"leader")),
    st.tuples(st.just("XTRIM"), NAMES, st.just(b"MAXLEN"), st.just(b"0")),
    st.tuples(st.just("FLUSHALL")),
)  # fmt: skip


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commands=st.lists(COMMANDS, min_size=1, max_size=12))
def test_whatever_is_done_in_redis_no_trade_is_late_and_nothing_spins(
    live: Live, redis: Any, commands: list[tuple[Any, ...]]
) -> None:
    for command in commands:
        try:
            redis.execute_command(
                *(p for c in command for p in (c if isinstance(c, list) else [c]))
            )
        except ResponseError:
            continue  # This one makes no sense after those before.
    row = live.market.trade()
    live.market.commit(row, notify=False)
    live.is_shown(row, 15)


def test_afterwards_all_is_quiet_and_heard(live: Live, redis: Any) -> None:
    live.served.until(lambda: live.bells() == ALL, "all doorbells are heard", 30)
    still_rings(live, redis)
    used, began = processor_seconds(live.served), time.monotonic()
    time.sleep(4)
    assert (processor_seconds(live.served) - used) / (time.monotonic() - began) < 0.3
