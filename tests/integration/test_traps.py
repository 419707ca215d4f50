"""The traps of this domain: each has bitten a known system. Where each of them is tested:

==== ====================================================================================================
1    here
2    here; late rows without any checkpoint: test_unasked
3    here; under load: tests/faults, tests/histories
4    test_sync::test_a_bad_row_is_set_aside_alone_and_comes_back_when_mended; unasked: test_unasked
5    test_crash::test_a_crash_at_every_exchange_loses_and_doubles_nothing; tests/faults/test_kill
6    here
7    here; two chains, renamed and late pools: test_unasked; one symbol, several pools: test_api
8    here; unasked: test_unasked
9    here for numeric timestamps; the rest: test_sync::test_a_bad_row_…, ::test_a_strange_but_possible_row_counts
10   here
11   here
12   here; with a real Ponder: tests/e2e
13   here; with a real Ponder: tests/e2e
14   here; a redeployment: test_deletions; with a real Ponder: tests/e2e
15   here
16   here; with a real Ponder: tests/e2e
17   here; another view in its place: test_deletions; with a real Ponder: tests/e2e
18   test_realtime::test_notifications_without_end_and_sense_do_no_more_than_ring, ::test_a_listening_connection_…;
     that polling alone is enough: test_unasked, where nobody rings
19   here what plain PostgreSQL has of it (deadlocks, no foreign keys); compressed chunks: TimescaleDB only
20   TimescaleDB only
21   test_realtime::test_what_a_dead_consumer_left_is_taken_up_and_what_was_trimmed_is_no_fault
22   here; through a pooler: test_doctor
23   here
24   here
==== ====================================================================================================
"""

import asyncio
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from indexer import position, ready, set_position
from oracle import differences
from psycopg import sql
from served import Served
from system import Cutter, System
from test_crash import expire_lease
from test_deletions import age, becomes, bring_back, kept, no_figure_falls, vanish
from test_sync import POOL, add, execute, sync, trade, with_service

from truetape import DataSyncService
from truetape.settings import Settings
from truetape.source import Source
from truetape.sync.engine import open_engine
from truetape.trade import HashMethod, Slice

S = 1754400000
YEARS = 3 * 365 * 86_400


@pytest.fixture
def served(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    service = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url
    )
    yield service
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGKILL)


# -- cursors ---------------------------------------------------------------------------------


def test_trades_that_share_the_last_second_are_not_lost(
    source_url: str, analytics_url: str
) -> None:
    """Trap 1: all trades of a block share a second, and the first of all is not behind itself."""
    add(source_url, trade("m", S))
    assert sync(source_url, analytics_url).processed == 1
    for another in ("a", "z", "m2"):
        add(source_url, trade(another, S))
        assert sync(source_url, analytics_url).processed == 1
    assert differences(source_url, analytics_url) == []


def test_a_slow_chain_that_writes_years_below_the_newest_trade_is_followed(
    source_url: str, analytics_url: str
) -> None:
    """Trap 2: the order of timestamps is not the order of commits, and chains have none between them."""
    execute(source_url, "ALTER TABLE order_book_trades ADD chain_id integer")
    slow = S - YEARS
    execute(
        source_url,
        f"INSERT INTO order_book_trades VALUES ('fast', {S}, 1, 1, 'p', 'buy', 't', 1), "
        f"('slow', {slow}, 1, 1, 'p', 'buy', 't', 2)",
    )
    position(source_url, 9000, S, final=(8900, S - 1200), chain=1)
    position(source_url, 10, slow, final=(5, slow - 60), chain=2)
    sync(source_url, analytics_url)
    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()
    for block in range(11, 15):
        second = slow + 12 * (block - 10)
        with psycopg.connect(source_url) as conn:
            conn.execute(
                f"INSERT INTO order_book_trades VALUES ('s{block}', {second}, 2, 2, 'p', 'buy', 't', 2)"
            )
            set_position(conn, block, second, final=(5, slow - 60), chain=2)
        system.look(["tail"])
        assert differences(source_url, analytics_url) == []
    system.close()
    expire_lease(analytics_url)
    # Where no chain tells how far it is, whoever asks gets all the same.
    execute(source_url, "DROP TABLE _ponder_checkpoint")
    add_late = (
        f"INSERT INTO order_book_trades VALUES ('later', {slow + 7}, 2, 2, 'p', 'buy', 't', 2)"
    )
    execute(source_url, add_late)
    assert sync(source_url, analytics_url).processed == 1
    assert differences(source_url, analytics_url) == []


def test_what_commits_after_younger_trades_were_taken_in_is_found(
    source_url: str, analytics_url: str
) -> None:
    """Trap 3: what came between a maximum and the rows below it."""
    now = int(time.time())
    add(source_url, trade("first", now - 60))
    sync(source_url, analytics_url)
    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()
    with psycopg.connect(source_url) as slow:
        for trade_id, second in (("same second", now), ("a minute before", now - 60)):
            slow.execute(
                "INSERT INTO order_book_trades VALUES (%s, %s, 1, 1, %s, 'buy', 't')",
                (trade_id, second, POOL),
            )
        add(source_url, trade("fast", now))
        system.look(["tail", "newest"])
        assert kept(analytics_url) == 2
        slow.commit()
    system.look(["tail", "newest"])
    assert kept(analytics_url) == 4
    system.close()
    assert differences(source_url, analytics_url) == []


def test_a_table_that_is_rewritten_is_not_taken_for_changed(
    source_url: str, analytics_url: str
) -> None:
    """Trap 6: xmin tells nothing: not who has changed, nor who has gone."""
    add(source_url, *(trade(f"t{i}", S + i) for i in range(300)))
    assert sync(source_url, analytics_url).processed == 300
    for statement in (
        "UPDATE order_book_trades SET price = price",
        "VACUUM FREEZE order_book_trades",
        "VACUUM FULL order_book_trades",
    ):
        execute(source_url, statement)
        assert sync(source_url, analytics_url).total == 0
    execute(source_url, "DELETE FROM order_book_trades WHERE id = 't5'")
    assert sync(source_url, analytics_url).retracted == 1
    assert differences(source_url, analytics_url) == []


# -- rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", ["on both", "on trades only", "on pools only", "nowhere"])
def test_no_trade_counts_twice_for_its_pools(
    chains: str, source_url: str, analytics_url: str
) -> None:
    """Trap 7: one address on two chains, a pool twice in the table, late and renamed pools."""
    if chains in ("on both", "on trades only"):
        execute(source_url, "ALTER TABLE order_book_trades ADD chain_id integer DEFAULT 1")
    if chains in ("on both", "on pools only"):
        execute(source_url, "ALTER TABLE pools ADD chain_id integer DEFAULT 1")
    execute(source_url, "INSERT INTO pools VALUES ('p', 'A/B/C'), ('p', 'A/B/C')")
    columns = "(id, timestamp, price, quantity, pool_id, side, transaction_id)"
    execute(
        source_url,
        f"INSERT INTO order_book_trades {columns} SELECT 't' || i, {S} + i, 2, 3, "
        "CASE WHEN i % 2 = 0 THEN 'p' ELSE 'late' END, 'buy', 't' FROM generate_series(1, 10) i",
    )
    sync(source_url, analytics_url)
    execute(source_url, "INSERT INTO pools VALUES ('late', 'X/Y')")
    execute(source_url, "UPDATE pools SET coin = 'A2/B' WHERE order_book = 'p'")
    sync(source_url, analytics_url)
    figures = "SELECT pool_id, symbol, trades, base_volume FROM analytics.symbol_metrics ORDER BY 1"
    assert execute(analytics_url, figures) == [("late", "X/Y", 5, 15), ("p", "A2/B", 5, 15)]
    assert differences(source_url, analytics_url) == []


def test_an_id_that_returns_with_another_timestamp_stands_once(
    source_url: str, analytics_url: str
) -> None:
    """Trap 8: the key of the tape holds the time, so it does not stop the double."""
    add(source_url, *(trade(f"t{i}", S + i) for i in range(100)))
    sync(source_url, analytics_url)
    for number, seconds in enumerate((1, 61, -61, 3600, -3600 * 30, 86_400 * 40)):
        execute(
            source_url,
            f'UPDATE order_book_trades SET "timestamp" = "timestamp" + {seconds} WHERE id = \'t{number + 7}\'',
        )

    async def while_time_flies(service: DataSyncService) -> None:
        running = asyncio.create_task(service.sync_missed_data())
        while not running.done():
            await asyncio.to_thread(age, analytics_url, 31)
            await asyncio.sleep(0.1)
        assert (await running).success

    with_service(source_url, analytics_url, while_time_flies)
    assert kept(analytics_url) == 100
    assert differences(source_url, analytics_url) == []


def test_timestamps_that_are_numbers_of_any_kind(source_url: str, analytics_url: str) -> None:
    """Trap 9: NaN is a legal numeric, and so are fractions and numbers without bound."""
    execute(source_url, 'ALTER TABLE order_book_trades ALTER "timestamp" TYPE numeric')
    bad = ["NaN", "Infinity", "-Infinity", "0", "0.5", "-1", "1754400000000", "9" * 78, None]
    good = ["1", "1.5", "1754400000", "1754400000.999"]
    with psycopg.connect(source_url, autocommit=True) as conn:
        for number, second in enumerate([*bad, *good]):
            conn.execute(
                "INSERT INTO order_book_trades VALUES (%s, %s, 1, 1, 'p', 'buy', 't')",
                (f"t{number:02}", second),
            )
    result = sync(source_url, analytics_url)
    assert (result.processed, result.errors) == (len(good), len(bad))
    times = execute(
        analytics_url,
        "SELECT extract(epoch FROM time)::bigint FROM analytics.trades ORDER BY trade_id",
    )
    assert [t for (t,) in times] == [1, 1, S, S]
    assert sync(source_url, analytics_url).total == 0


ALIKE_WHEN_JOINED: list[tuple[Any, ...]] = [
    # (pool_id, side, transaction_id)
    *(("a", f"b{s}c", "d") for s in (",", "|", ":", "-", "\t", "\x1f", '"', "\\", "(", ")")),
    *((f"a{s}b", "c", "d") for s in (",", "|", ":", "-", "\t", "\x1f", '"', "\\", "(", ")")),
    ("a", "", None), ("a", None, ""), ("a", None, None), ("a", "", ""), ("a", "NULL", ""), ("", "a", ""),
    ("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ('"a"', "b", "c"), ("a", '"b"', "c"),
    ("A", "b", "c"), ("a", "B", "c"), ("a ", "b", "c"), ("a", " b", "c"), ("é", "b", "c"),
    ("e\u0301", "b", "c"),
]  # fmt: skip


@pytest.mark.parametrize("method", HashMethod)
def test_rows_that_would_be_alike_when_joined_hash_apart(
    method: HashMethod, source_url: str
) -> None:
    """Trap 10: joining columns with a separator lets two different rows hash alike."""
    hashes: list[int] = []
    with psycopg.connect(source_url) as conn:
        for pool, side, transaction in ALIKE_WHEN_JOINED:
            row = conn.execute(
                f"SELECT {method.expression(with_traders=True)} FROM (SELECT 'i'::text AS trade_id, "
                "to_timestamp(1) AS time, 1::bigint AS chain_id, %s::text AS pool_id, %s::text AS side, "
                "1::numeric AS price, 11::numeric AS quantity, %s::text AS transaction_id, "
                "NULL::text AS buyer, NULL::text AS seller) r",
                (pool, side, transaction),
            ).fetchone()
            assert row is not None
            hashes.append(row[0])
    assert len(set(hashes)) == len(ALIKE_WHEN_JOINED)


def test_a_change_that_only_moves_a_separator_is_seen(source_url: str, analytics_url: str) -> None:
    """Trap 10, from outside."""
    add(source_url, *(trade(f"t{i}", S + i, pool="a", side="b|c", tx="d,e") for i in range(5)))
    sync(source_url, analytics_url)
    execute(source_url, "UPDATE order_book_trades SET pool_id = 'a|b', side = 'c' WHERE id = 't1'")
    execute(source_url, "UPDATE order_book_trades SET price = 11, quantity = 1 WHERE id = 't2'")
    assert sync(source_url, analytics_url).changed == 2
    execute(source_url, "UPDATE order_book_trades SET price = 1, quantity = 11 WHERE id = 't2'")
    assert sync(source_url, analytics_url).changed == 1
    assert differences(source_url, analytics_url) == []


def test_text_is_ordered_byte_by_byte_whatever_the_servers_locale(
    source_url: str, analytics_url: str
) -> None:
    """Trap 10: what is compared or ordered is COLLATE "C"."""
    sync(source_url, analytics_url)
    otherwise = """
        SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'analytics'::regnamespace AND c.relkind IN ('r', 'p')
          AND a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> 0
          AND a.attcollation <> (SELECT oid FROM pg_collation WHERE collname = 'C')
          AND a.attname ~ '(_id|_key|symbol|side|trader|buyer|seller)$'
          AND c.relname NOT LIKE 'procrastinate%'  -- The queue's own, that orders by numbers.
    """
    assert execute(analytics_url, otherwise) == []


def linguistic(url: str) -> str | None:
    """How this server can be told to order text as a dictionary does, if it can."""
    ways = ("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", "LOCALE 'en_US.UTF-8'", "LOCALE 'en_US.utf8'")
    for way in ways:
        name = sql.Identifier(f"try_{secrets.token_hex(4)}").as_string()
        try:
            execute(url, f"CREATE DATABASE {name} TEMPLATE template0 {way}")
        except psycopg.Error:
            continue
        execute(url, f"DROP DATABASE {name}")
        return way
    return None


def test_figures_are_the_same_in_a_database_that_orders_like_a_dictionary(
    server_url: str, source_url: str
) -> None:
    """Trap 10, where the server has such a locale (TRUETAPE_TEST_POSTGRES_URL)."""
    way = linguistic(server_url)
    if way is None:
        pytest.skip("this server orders text byte by byte only")
    name = f"dictionary_{secrets.token_hex(4)}"
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0 {way}")
    analytics_url = f"{source_url.rpartition('/')[0]}/{name}"
    try:
        assert execute(analytics_url, "SELECT 'a' < 'B'") == [(True,)]
        ids = ["a", "B", "_", "é", "10", "9", "0xA", "0xa", "-", "Z z"]
        prices = list(enumerate(ids, 100))
        random.shuffle(prices)
        for price, trade_id in prices:
            add(source_url, trade(trade_id, S, price=price))
            sync(source_url, analytics_url)
        assert differences(source_url, analytics_url) == []
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def test_open_and_close_do_not_depend_on_who_came_first(
    source_url: str, analytics_url: str
) -> None:
    """Trap 11: a tie-break within a second that never changes."""
    ids = ["a", "B", "_", "é", "10", "9", "0xA", "0xa"]
    prices = {trade_id: 100 + number for number, trade_id in enumerate(ids)}
    arrival = random.sample(ids, len(ids))
    print(f"arrival {arrival}")
    for trade_id in arrival:
        add(source_url, trade(trade_id, S, price=prices[trade_id]))
        sync(source_url, analytics_url)
    ordered = sorted(ids, key=lambda i: i.encode())
    for relation in ("candles_1m", "hourly_aggregations", "daily_summaries"):
        candle = execute(analytics_url, f"SELECT open, close FROM analytics.{relation}")
        assert candle == [(prices[ordered[0]], prices[ordered[-1]])]
    # The last one goes, and comes back: the one before it closes meanwhile.
    vanish(source_url, f"id = '{ordered[-1]}'")
    sync(source_url, analytics_url)
    assert execute(analytics_url, "SELECT close FROM analytics.candles_1m") == [
        (prices[ordered[-2]],)
    ]
    bring_back(source_url)
    sync(source_url, analytics_url)
    assert differences(source_url, analytics_url) == []


# -- Ponder ----------------------------------------------------------------------------------


class Chain:
    """Blocks of three trades, each with its checkpoint in one transaction, as Ponder writes them."""

    def __init__(self, url: str, number: int = 1) -> None:
        self.url = url
        self.number = number
        self.block = 0
        self.second = int(time.time()) - 900
        self.final = (0, self.second)

    def write(self, blocks: int, *, seconds: int = 1, fork: str = "") -> None:
        for _ in range(blocks):
            self.block += 1
            self.second += seconds
            with psycopg.connect(self.url) as conn:
                self.rows(conn, self.block, self.second, fork)
                self.tell(conn)

    def rows(self, conn: psycopg.Connection, block: int, second: int, fork: str = "") -> None:
        conn.execute(
            "INSERT INTO order_book_trades SELECT %(chain)s || '-' || %(block)s || '-' || i || %(fork)s, "
            "%(second)s, 100 + i, 1 + i, 'p', 'buy', 't', %(chain)s FROM generate_series(1, 3) i",
            {"chain": self.number, "block": block, "second": second, "fork": fork},
        )

    def tell(self, conn: psycopg.Connection) -> None:
        set_position(conn, self.block, self.second, final=self.final, chain=self.number)


@pytest.fixture
def chains(source_url: str) -> tuple[Chain, Chain]:
    """Two chains with some history, the last ten blocks of each not final."""
    execute(
        source_url,
        'ALTER TABLE order_book_trades ADD chain_id integer; CREATE INDEX by_time ON order_book_trades ("timestamp")',
    )
    both = Chain(source_url, 1), Chain(source_url, 2)
    ready(source_url, True)
    for chain in both:
        chain.write(20)
        chain.final = (chain.block, chain.second)
        chain.write(10)
    return both


@contextmanager
def watching(analytics_url: str, wrong: Callable[[psycopg.Connection], Any]) -> Iterator[list[Any]]:
    """Asks in snapshots of the analytics, again and again, for what must never be there."""
    found: list[Any] = []
    stop = threading.Event()

    def watch() -> None:
        with psycopg.connect(analytics_url) as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            while not stop.is_set():
                if (seen := wrong(conn)) is not None:
                    found.append(seen)
                conn.rollback()
                time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()


def test_a_chain_is_never_called_complete_beyond_what_is_there(
    served: Served, chains: tuple[Chain, Chain], source_url: str, analytics_url: str
) -> None:
    """Trap 12: blocks may share a timestamp and commit apart; indexes come and go."""
    claims: set[int] = set()

    def beyond(conn: psycopg.Connection) -> Any:
        rows = conn.execute(
            "SELECT chain_id, complete_block, (SELECT count(*) FROM analytics.trades t WHERE "
            "t.chain_id = c.chain_id AND split_part(trade_id, '-', 2)::int <= complete_block) "
            "FROM analytics.chains c"
        ).fetchall()
        claims.update(block for _, block, _ in rows)
        return next(((c, block, n) for c, block, n in rows if n < 3 * block), None)

    served.start()
    served.until_complete()
    with watching(analytics_url, beyond) as found:
        for step in range(400):
            if step == 10:
                execute(source_url, "DROP INDEX by_time")
            for chain in chains:
                chain.write(2, seconds=step % 2)
            time.sleep(0.05)
            if step > 20 and len(claims) > 4:
                break
        last = chains[0].block
        served.until(
            lambda: [c["completeThroughBlock"] for c in served.health()["chains"]] == [last, last],
            "complete through the last block", 20,
        )  # fmt: skip
    assert found == []
    assert len(claims) > 4, claims
    assert differences(source_url, analytics_url) == []


def test_a_reorg_and_what_it_does_to_the_other_chain(
    served: Served, chains: tuple[Chain, Chain], source_url: str, analytics_url: str
) -> None:
    """Trap 13: rows go without a word, those of the other chain too; the checkpoint goes back later."""
    one, _ = chains
    served.start()
    served.until_complete()

    def other_dips(conn: psycopg.Connection) -> Any:
        query = "SELECT count(*) FROM analytics.trades WHERE chain_id = 2"
        row = conn.execute(query).fetchone()
        assert row is not None
        return row[0] if row[0] < 90 else None

    with watching(analytics_url, other_dips) as dips:
        with psycopg.connect(source_url) as conn:
            conn.execute("CREATE TABLE aside AS SELECT * FROM order_book_trades WHERE false")
            conn.execute(
                "DELETE FROM order_book_trades WHERE chain_id = 1 AND split_part(id, '-', 2)::int > 25"
            )
            conn.execute(
                "WITH d AS (DELETE FROM order_book_trades WHERE chain_id = 2 AND "
                "split_part(id, '-', 2)::int > 27 RETURNING *) INSERT INTO aside SELECT * FROM d"
            )
        time.sleep(0.2)
        # The first block of the fork: older than rows that were seen, some ids as before.
        one.block, one.second = 26, one.second - 6
        with psycopg.connect(source_url) as conn:
            conn.execute("INSERT INTO order_book_trades SELECT * FROM aside")
            one.rows(conn, 26, one.second)
            one.tell(conn)
        one.write(6, fork=" of the fork")
        served.until(lambda: differences(source_url, analytics_url) == [], "as the fork has it", 20)
        one.write(5)
        served.until(lambda: differences(source_url, analytics_url) == [], "and on", 20)
    assert dips == []
    served.until_complete()


def test_a_restart_that_takes_back_all_that_is_not_final_is_not_seen(
    served: Served, chains: tuple[Chain, Chain], source_url: str, analytics_url: str
) -> None:
    """Trap 14: all unfinalized rows go in one transaction; ready comes before they are back."""
    served.start()
    served.until_complete()
    with no_figure_falls(analytics_url):
        with psycopg.connect(source_url) as conn:
            conn.execute("DELETE FROM order_book_trades WHERE split_part(id, '-', 2)::int > 20")
            conn.execute("UPDATE _ponder_meta SET value = jsonb_set(value, '{is_ready}', '0')")
        time.sleep(2.5)
        with psycopg.connect(source_url) as conn:
            conn.execute("UPDATE _ponder_meta SET value = jsonb_set(value, '{is_ready}', '1')")
            for chain in chains:
                chain.block, chain.second = chain.final
                chain.tell(conn)
        time.sleep(2.5)
        for _ in range(12):
            for chain in chains:
                chain.write(1)
            time.sleep(0.05)
        served.until(lambda: kept(analytics_url) == 2 * 3 * 32, "goes on", 20)
    served.until_complete()
    assert differences(source_url, analytics_url) == []


def test_what_a_crash_of_the_source_took_back_is_followed(
    source_url: str, analytics_url: str
) -> None:
    """Trap 15: rows that we have read were never on disk; Ponder fills the hole at its next restart."""
    execute(source_url, "ALTER TABLE order_book_trades ADD chain_id integer")
    chain = Chain(source_url)
    ready(source_url, True)
    chain.write(30)
    sync(source_url, analytics_url)
    vanish(source_url, "split_part(id, '-', 2)::int > 27")
    chain.block, chain.second = 30, chain.second + 1
    chain.write(10)
    assert sync(source_url, analytics_url).retracted == 9
    assert differences(source_url, analytics_url) == []
    bring_back(source_url)
    assert sync(source_url, analytics_url).inserted == 9
    assert differences(source_url, analytics_url) == []


def test_a_big_catch_up_is_in_nobodys_way(source_url: str, analytics_url: str) -> None:
    """Trap 16: who needs the tables for himself gets them within a second, again and again."""
    execute(
        source_url,
        f"INSERT INTO order_book_trades SELECT 'i' || i, {S} + i / 5, 100 + i % 13, 1 + i % 7, 'p' || i % 3, "
        f"'Sell', 't' FROM generate_series(1, 250000) i",
    )
    done, ages, waits = threading.Event(), [], []

    def watch() -> None:
        query = (
            "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float "
            "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'truetape'"
        )
        while not done.wait(0.05):
            ages.append(execute(source_url, query)[0][0])

    def lock() -> None:
        while not done.wait(0.3):
            began = time.monotonic()
            with psycopg.connect(source_url) as conn:
                conn.execute("LOCK TABLE order_book_trades IN ACCESS EXCLUSIVE MODE")
                waits.append(time.monotonic() - began)

    others = [threading.Thread(target=watch), threading.Thread(target=lock)]
    for other in others:
        other.start()
    try:
        assert sync(source_url, analytics_url).processed == 250_000
    finally:
        done.set()
        for other in others:
            other.join()
    print(f"oldest transaction {max(ages):.2f} s, longest wait {max(waits):.2f} s of {len(waits)}")
    assert len(ages) > 20
    assert len(waits) > 5
    assert max(ages) < 3  # a second on a machine that has nothing else to do
    assert max(waits) < 3


def test_lost_grants_and_missing_views_are_named_and_waited_for(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    """Trap 17: views are dropped and made anew, and grants go with them."""
    role = f"reader_{secrets.token_hex(4)}"
    url = f"postgresql://{role}:r@{source_url.partition('@')[2]}"
    now = int(time.time())
    execute(
        source_url,
        f"CREATE ROLE {role} LOGIN PASSWORD 'r'; ALTER TABLE order_book_trades RENAME TO below; "
        "CREATE VIEW order_book_trades AS SELECT * FROM below; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=url, ANALYTICS_DATABASE_URL=analytics_url
    )
    try:
        add(source_url, trade("a", now))
        served.start()
        served.until_complete()
        execute(
            source_url,
            "BEGIN; DROP VIEW order_book_trades; CREATE VIEW order_book_trades AS SELECT * FROM below; COMMIT",
        )
        add(source_url, trade("b", now))
        said = served.until(lambda: served.get("/api/sync/health", 503), "says what is wrong", 20)
        assert "GRANT SELECT ON" in said["error"]
        assert role in said["error"]
        assert "ALTER DEFAULT PRIVILEGES" in said["error"]
        execute(source_url, f"GRANT SELECT ON order_book_trades TO {role}")
        served.until(lambda: kept(analytics_url) == 2, "goes on", 30)
        execute(source_url, "DROP VIEW order_book_trades")
        said = served.until(lambda: served.get("/api/sync/health", 503), "says what is wrong", 20)
        assert "not there for now" in said["error"]
        execute(
            source_url,
            "BEGIN; CREATE VIEW order_book_trades AS SELECT * FROM below; "
            f"GRANT SELECT ON order_book_trades TO {role}; COMMIT",
        )
        add(source_url, trade("c", now))
        served.until(lambda: kept(analytics_url) == 3, "goes on", 30)
        served.until_complete()
        assert differences(source_url, analytics_url) == []
    finally:
        served.end(signal.SIGKILL)
        execute(source_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


# -- PostgreSQL, Python ----------------------------------------------------------------------


def test_a_deadlock_is_tried_again(source_url: str, analytics_url: str) -> None:
    """Trap 19: whoever writes beside us may wait for us while we wait for him."""
    sync(source_url, analytics_url)
    add(source_url, *(trade(f"t{i}", S + i) for i in range(100)))
    results: list[Any] = []
    ours = threading.Thread(target=lambda: results.append(sync(source_url, analytics_url)))
    with psycopg.connect(analytics_url) as other:
        other.execute("SET LOCAL deadlock_timeout = '1min'")
        other.execute("LOCK TABLE analytics.days IN SHARE MODE")
        ours.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND application_name LIKE 'truetape%'"
        )
        deadline = time.monotonic() + 20
        while execute(analytics_url, waiting) == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Now in a circle: it is our transaction that the server gives up.
        other.execute("LOCK TABLE analytics.tape IN SHARE MODE")
    ours.join()
    [result] = results
    assert (result.success, result.processed, result.errors) == (True, 100, 0)
    assert execute(
        analytics_url, "SELECT deadlocks > 0 FROM pg_stat_database WHERE datname = current_database()"
    ) == [(True,)]  # fmt: skip
    assert execute(
        analytics_url,
        "SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = 'analytics'::regnamespace "
        "AND conname NOT LIKE 'procrastinate%'",  # The queue's own, among themselves.
    ) == []  # fmt: skip
    assert differences(source_url, analytics_url) == []


def test_connections_to_the_source_ask_for_nothing_that_a_pooler_refuses(source_url: str) -> None:
    """Trap 22: no start-up parameters, no prepared statements, nothing set for a session."""
    add(source_url, *(trade(f"t{i}", S + i) for i in range(10)))
    position(source_url, 7, S, final=(5, S - 60))

    async def look() -> None:
        async with Source.open(source_url) as source:
            part = Slice(S, S + 60)
            for _ in range(10):
                async with source.look() as look:
                    await look.extent()
                    await look.tail(S)
                    await look.find(["t1", "t2"])
                    await look.pools()
                    await look.standing()
                    async for _ in look.survey(part, hashed=True):
                        pass
                    async for _ in look.all_rows(part):
                        pass
            async with source.pool.connection() as conn:
                for query in (
                    "SELECT name FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction%'",
                    "SELECT name FROM pg_settings WHERE source = 'client' "
                    "AND name NOT IN ('application_name', 'client_encoding')",
                    "SELECT statement FROM pg_prepared_statements",
                    "SELECT name FROM pg_cursors WHERE name <> ''",
                    "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
                ):
                    assert await (await conn.execute(query)).fetchall() == [], query

    asyncio.run(look())


def test_work_that_is_cancelled_in_the_middle_of_a_copy_spoils_no_connection(
    source_url: str, analytics_url: str
) -> None:
    """Trap 23: what is half read is never given to the next one."""
    execute(
        source_url,
        f"INSERT INTO order_book_trades SELECT 'i' || i, {S} + i / 100, 100, 1, 'p', 'Sell', repeat('t', 200) "
        "FROM generate_series(1, 30000) i",
    )
    copying = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active'"
    busy = (
        "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'truetape%' AND state <> 'idle'"
    )
    part = Slice(S, S + 301, 30_000)

    async def work() -> None:
        settings = Settings.load(SYNC_CONCURRENCY=1)
        async with open_engine(settings, source_url, analytics_url, follow=False) as engine:
            engine.start()
            await becomes("leads", lambda: engine.leads)
            cancelled = 0
            for _ in range(20):
                running = asyncio.create_task(engine.reconciler.reconcile(part))
                with suppress(AssertionError):
                    await becomes("copies", lambda: execute(source_url, copying) != [(0,)], 0.5)
                await asyncio.sleep(random.random() * 0.05)
                cancelled += running.cancel()
                await asyncio.wait([running])
                assert running.cancelled() or running.exception() is None
                for pool in (engine.source.pool, engine.analytics):
                    # Each of the pool's connections answers what it is asked, and nothing else.
                    async with pool.connection() as one, pool.connection() as two:
                        for number, conn in enumerate((one, two)):
                            row = await (await conn.execute("SELECT %s::int", (number,))).fetchone()
                            assert row == (number,)
                if running.cancelled():
                    held = execute(analytics_url, "SELECT count(*) FROM analytics.tape")[0][0]
                    assert held in (0, 30_000), "half of a batch"
            assert cancelled > 5
            for url in (source_url, analytics_url):
                deadline = time.monotonic() + 5
                while left := execute(url, busy):
                    assert time.monotonic() < deadline, left
                    await asyncio.sleep(0.05)

    asyncio.run(work())
    assert sync(source_url, analytics_url).success
    assert differences(source_url, analytics_url) == []


def test_a_recent_maximum_and_a_run_that_succeeded_prove_nothing(
    source_url: str, analytics_url: str
) -> None:
    """Trap 24: what is missing in the middle is missing."""
    add(source_url, *(trade(f"t{i}", S + i * 60) for i in range(100)))
    assert sync(source_url, analytics_url).success
    later = "UPDATE analytics.state SET complete_at = complete_at - interval '10 minutes'"
    execute(analytics_url, later)

    async def quiet(service: DataSyncService) -> None:
        health = await service.check_sync_health()
        assert (health.is_healthy, health.lag_minutes, health.missed_trades) == (True, 0, 0)

    async def lacking(service: DataSyncService) -> None:
        health = await service.check_sync_health()
        assert (health.is_healthy, health.status, health.missed_trades) == (False, "unhealthy", 3)
        assert health.last_ponder_timestamp == health.last_analytics_timestamp

    with_service(source_url, analytics_url, quiet)
    add(source_url, *(trade(f"m{i}", S + 1800 + i * 300) for i in range(3)))
    with_service(source_url, analytics_url, lacking)


@pytest.mark.parametrize("after", ["a cold start", "an outage"])
def test_health_is_never_green_while_a_catch_up_is_under_way(
    after: str, served: Served, source_url: str, analytics_url: str
) -> None:
    """Trap 24: nor does the newest trade prove anything, which is taken in first."""
    now = int(time.time())
    trades = 60_000
    if after == "an outage":
        add(source_url, *(trade(f"t{i}", now - 90_000 - i) for i in range(100)))
        sync(source_url, analytics_url)
        execute(
            analytics_url,
            "UPDATE analytics.state SET complete_at = complete_at - interval '1 hour'",
        )
        trades += 100
    execute(
        source_url,
        f"INSERT INTO order_book_trades SELECT 'i' || i, {now} - i, 100 + i % 13, 1 + i % 7, 'p' || i % 3, "
        f"'Sell', 't' FROM generate_series(1, 60000) i",
    )
    served.start()
    red = 0
    while not (health := served.health()).get("isHealthy"):
        assert health["status"] == "unhealthy"
        red += 1
        assert red < 2000
    assert kept(analytics_url) == trades, health
    assert red > 0
    served.until_complete()
