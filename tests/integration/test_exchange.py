"""The demo exchange against a real PostgreSQL: shaped like Ponder's, and hard to kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from conftest import passable
from truetape.embedded import EmbeddedPostgres, exchange_home
from truetape.embedded.exchange import Exchange, Terms, stop_exchange
from truetape.embedded.exchange_home import Home
from truetape.errors import TruetapeError

TERMS = Terms(rate=60, history_days=0.5, history_trades=4_000, block_time=1.0, seed=7)
FAST = replace(TERMS, history_days=0.02, history_trades=500, block_time=0.25)

HALF_TRADES = """
SELECT count(*) FROM (
    SELECT t.id,
           count(*) FILTER (WHERE o.side = 'Buy' AND f.id = t.id || '-buy') AS buys,
           count(*) FILTER (WHERE o.side = 'Sell' AND f.id = t.id || '-sell') AS sells,
           count(f.id) AS fills
    FROM order_book_trades t
    LEFT JOIN trades f ON (f.chain_id, f.transaction_id, f.pool_id, f.price, f.quantity, f.timestamp)
        = (t.chain_id, t.transaction_id, t.pool_id, t.price, t.quantity, t.timestamp)
        AND f.id LIKE t.id || '-%'
    LEFT JOIN orders o ON o.id = f.order_id AND o.pool_id = t.pool_id AND o.chain_id = t.chain_id
    GROUP BY t.id) paired
WHERE (buys, sells, fills) <> (1, 1, 2)
"""
WRONG_ORDERS = """
SELECT count(*) FROM orders o LEFT JOIN (
    SELECT order_id, sum(quantity) AS filled FROM trades GROUP BY 1) f ON f.order_id = o.id
WHERE o.filled <> coalesce(f.filled, 0) OR o.filled > o.quantity
   OR (o.status = 'FILLED') <> (o.filled = o.quantity)
"""
WRONG_RANKS = """
WITH t AS (SELECT *, row_number() OVER (PARTITION BY transaction_id, pool_id, price, quantity
                                        ORDER BY id COLLATE "C") AS rank FROM order_book_trades),
     f AS (SELECT f.*, o.side, row_number() OVER (
                PARTITION BY o.side, f.transaction_id, f.pool_id, f.price, f.quantity
                ORDER BY f.id COLLATE "C") AS rank
           FROM trades f JOIN orders o ON o.id = f.order_id)
SELECT count(*) FILTER (WHERE t.rank > 1), count(*) FILTER (WHERE NOT starts_with(f.id, t.id || '-'))
FROM t JOIN f USING (transaction_id, pool_id, price, quantity, rank)
"""


class Database:
    """An empty database, and one answer at a time from it."""

    def __init__(self, server_url: str, name: str) -> None:
        self.url = make_conninfo(server_url, dbname=name)

    def all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as conn:
            return conn.execute(query.encode(), values or None).fetchall()

    def one(self, query: str, *values: object) -> Any:
        row = self.all(query, *values)[0]
        return row[0] if len(row) == 1 else row

    def change(self, query: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(query.encode())

    def assert_whole(self) -> None:
        """No half match, no half order, and nothing beyond the checkpoint."""
        trades, fills = self.one(
            "SELECT (SELECT count(*) FROM order_book_trades), (SELECT count(*) FROM trades)"
        )
        assert fills == 2 * trades > 0
        assert self.one(HALF_TRADES) == 0
        assert self.one(WRONG_ORDERS) == 0


def make_database(server_url: str) -> Iterator[Database]:
    name = f"exchange_{os.urandom(4).hex()}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield Database(server_url, name)
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


fresh = pytest.fixture(make_database, name="fresh")


@pytest.fixture(scope="module")
def live(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """An exchange that trades all the while, for the tests that only look."""
    for database in make_database(server_url):
        exchange = Exchange(tmp_path_factory.mktemp("exchange"), database.url)
        exchange.start(TERMS, timeout=60)
        yield database
        exchange.stop()
        assert not exchange.running


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "exchange"
    stop_exchange(tmp_path / "exchange")


def eventually(what: Callable[[], object], seconds: float = 20.0) -> None:
    ends_at = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.05)


def command(*arguments: str, **more: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "truetape.embedded.exchange", *arguments],
        stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def pid_of(home: Path) -> int:
    found = Home(home).occupant()
    assert found is not None
    return found[0]


def head(database: Database) -> int:
    """The last block of the only chain."""
    return int(database.one("SELECT substr(latest_checkpoint, 27, 16) FROM _ponder_checkpoint"))


def wait_for_blocks(database: Database, beyond: int) -> None:
    eventually(lambda: head(database) > beyond)


def test_history_arrives_and_trading_goes_on_to_the_present(live: Database) -> None:
    count, first, last = live.one(
        'SELECT count(*), min("timestamp"), max("timestamp") FROM order_book_trades'
    )
    assert count > 0.95 * TERMS.history_trades
    assert last - first == pytest.approx(TERMS.history_days * 86_400, abs=120)
    assert abs(time.time() - last) < 5
    assert len(live.all("SELECT DISTINCT pool_id FROM order_book_trades")) == TERMS.pools
    eventually(lambda: live.one("SELECT count(*) FROM order_book_trades") > count)


def test_the_tables_are_those_of_a_ponder_project(live: Database) -> None:
    columns = """SELECT string_agg(column_name || ' ' || udt_name, ', ' ORDER BY ordinal_position)
                 FROM information_schema.columns WHERE table_name = %s"""
    assert live.one(columns, "order_book_trades") == (
        "id text, chain_id int4, transaction_id text, pool_id text, price numeric, "
        "quantity numeric, side varchar, timestamp int4"
    )
    assert live.one(columns, "pools").startswith("id text, chain_id int4, coin text, order_book")
    indexed = "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%(\"timestamp\")'"
    assert live.one(indexed) == 2
    quotes = live.all("SELECT DISTINCT split_part(coin, '/', 2) FROM pools ORDER BY 1")
    assert quotes == [("USDC",), ("WETH",)]
    meta = live.one("SELECT value FROM _ponder_meta WHERE key = 'app'")
    assert meta["is_ready"] == 1 and abs(meta["heartbeat_at"] / 1000 - time.time()) < 15


def test_every_trade_has_a_fill_of_each_of_its_orders(live: Database) -> None:
    live.assert_whole()


def test_fills_that_differ_by_id_alone_pair_by_rank(live: Database) -> None:
    twins, wrong = live.one(WRONG_RANKS)
    assert twins > 0 and wrong == 0


def test_several_trades_share_a_second_and_some_a_transaction(live: Database) -> None:
    for column in ('"timestamp"', "transaction_id"):
        shared = f"SELECT count(*) - count(DISTINCT {column}) FROM order_book_trades"
        assert live.one(shared) > 100


def test_a_snapshot_holds_whole_blocks_up_to_its_checkpoint(live: Database) -> None:
    """What is seen up to a checkpoint never grows again; nothing is seen beyond it."""
    state = """SELECT c.latest_checkpoint, c.finalized_checkpoint,
        (SELECT max("timestamp") FROM order_book_trades), (SELECT count(*) FROM trades),
        (SELECT count(*) FROM order_book_trades) FROM _ponder_checkpoint c"""
    seen: list[tuple[int, int]] = []
    ends_at = time.monotonic() + 4
    with psycopg.connect(live.url, autocommit=True) as conn:
        while time.monotonic() < ends_at:
            row = conn.execute(state.encode()).fetchone()
            assert row is not None
            latest, final, newest, fills, trades = row
            assert len(latest) == 75 and latest.isdecimal() and latest[42:] == "9" * 33
            assert newest <= int(latest[:10]) and fills == 2 * trades
            assert 0 <= int(latest[26:42]) - int(final[26:42]) <= 90
            seen.append((int(latest[:10]), trades))
        assert len(dict(seen)) >= 3, "the checkpoint does not move"
        for second, trades in dict(seen).items():
            query = 'SELECT count(*) FROM order_book_trades WHERE "timestamp" <= %s'
            row = conn.execute(query, (second,)).fetchone()
            assert row == (trades,) and seen.count((second, trades)) == sum(
                s == second for s, _ in seen
            )


def test_each_block_rings_with_the_tables_it_touched(live: Database) -> None:
    with psycopg.connect(live.url, autocommit=True) as conn:
        conn.execute("LISTEN public_live_query")
        payloads = [n.payload for n in conn.notifies(timeout=10, stop_after=2)]
    assert len(payloads) == 2
    assert set(json.loads(payloads[0])) == {"order_book_trades", "trades", "orders"}


def test_a_second_one_is_refused_in_a_sentence(live: Database) -> None:
    second = command("--database-url", live.url)
    _, told = second.communicate(timeout=30)
    assert second.returncode == 2
    assert "Another demo exchange is writing into schema 'public'" in told
    assert "Traceback" not in told


def test_it_trades_on_where_a_kill_cut_it_off(fresh: Database, home: Path) -> None:
    exchange = Exchange(home, fresh.url)
    exchange.start(FAST, timeout=60)
    began = int(time.time())
    for _ in range(3):
        os.kill(pid_of(home), signal.SIGKILL)
        eventually(lambda: not exchange.running)
        fresh.assert_whole()
        block, trades = head(fresh), fresh.one("SELECT count(*) FROM order_book_trades")
        assert exchange.start(FAST, timeout=60) is False
        wait_for_blocks(fresh, block + 2)
        assert fresh.one("SELECT count(*) FROM order_book_trades") > trades
    exchange.stop()
    fresh.assert_whole()
    gaps = """SELECT max(gap) FROM (SELECT "timestamp" - lag("timestamp") OVER (
        ORDER BY "timestamp") AS gap FROM order_book_trades
        WHERE "timestamp" >= %s) g"""
    assert fresh.one(gaps, began) == 1, "the time it was dead has no trades"


def test_it_ends_with_the_last_who_uses_it(fresh: Database, home: Path) -> None:
    """A second `serve --demo` that goes, or fails, takes nothing from the first."""
    first, second = Exchange(home, fresh.url), Exchange(home, fresh.url)
    assert first.start(FAST, timeout=60) is False
    assert second.start(FAST, timeout=60) is True
    second.stop()
    assert first.running
    wait_for_blocks(fresh, head(fresh) + 2)
    first.stop()
    assert not first.running


def test_the_server_that_it_writes_into_stays_until_it_ends(home: Path, tmp_path: Path) -> None:
    """While a service is dead, whoever looks in is the server's only other user."""
    directory = passable(tmp_path) / "pg"
    program = (  # a process of its own: of a child of ours we could not tell that it has ended
        "import sys; from pathlib import Path; from truetape.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.acquire()\n"
        "print(server.ensure_database('exchange'), flush=True); sys.stdin.read()"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert service.stdout is not None
    url = service.stdout.readline().strip()
    exchange = Exchange(home, url, server=directory)
    exchange.start(FAST, timeout=60)
    try:
        service.kill()
        service.wait()
        with EmbeddedPostgres(directory):
            pass  # `truetape health`
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT count(*) > 0 FROM order_book_trades").fetchone() == (True,)
    finally:
        exchange.stop()
    with pytest.raises(psycopg.OperationalError):
        for _ in range(100):  # It ends a moment after its last user.
            psycopg.connect(url, connect_timeout=3).close()
            time.sleep(0.2)


def test_a_history_that_was_cut_off_is_completed(fresh: Database, home: Path) -> None:
    exchange, terms = Exchange(home, fresh.url), replace(TERMS, history_trades=40_000)
    killed: list[bool] = []

    def kill_in_mid_history(share: float) -> None:
        if not killed and 0.2 < share < 0.9:
            killed.append(True)
            os.kill(pid_of(home), signal.SIGKILL)

    with pytest.raises(TruetapeError, match="ended"):
        exchange.start(terms, timeout=60, progress=kill_in_mid_history)
    assert fresh.one("SELECT value->>'is_ready' FROM _ponder_meta") == "0"
    fresh.assert_whole()
    exchange.start(terms, timeout=60)
    exchange.stop()
    fresh.assert_whole()
    in_history = """SELECT count(*), max(width_bucket("timestamp", lo, hi, 10)) FROM
        order_book_trades, (SELECT min("timestamp") AS lo, max("timestamp") + 1 AS hi
        FROM order_book_trades) e"""
    count, last = fresh.one(in_history)
    assert 36_000 < count < 52_000 and last == 10


def test_a_long_absence_is_filled_with_a_bounded_number_of_trades(
    fresh: Database, home: Path
) -> None:
    exchange = Exchange(home, fresh.url)
    exchange.start(FAST, timeout=60)
    exchange.stop()
    before, two_days = fresh.one("SELECT count(*) FROM order_book_trades"), 172_800
    for table in ("order_book_trades", "trades", "orders"):
        fresh.change(f'UPDATE {table} SET "timestamp" = "timestamp" - {two_days}')
    earlier = f"lpad((substr(%s, 1, 10)::int - {two_days})::text, 10, '0') || substr(%s, 11)"
    names = ("latest_checkpoint", "finalized_checkpoint", "safe_checkpoint")
    moved = ", ".join(f"{n} = {earlier.replace('%s', n)}" for n in names)
    fresh.change(f"UPDATE _ponder_checkpoint SET {moved}")
    exchange.start(FAST, timeout=60)
    exchange.stop()
    added = fresh.one("SELECT count(*) FROM order_book_trades") - before
    assert 8_000 < added < 20_000
    hours = 'SELECT count(DISTINCT "timestamp" / 3600) FROM order_book_trades'
    assert fresh.one(hours) >= 48
    fresh.assert_whole()


def test_a_cut_connection_is_made_anew(fresh: Database, home: Path) -> None:
    exchange = Exchange(home, fresh.url)
    exchange.start(FAST, timeout=60)
    cut = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'truetape demo exchange' AND datname = current_database()"""
    assert fresh.one(cut) == 1
    block = head(fresh)
    wait_for_blocks(fresh, block + 8)
    assert exchange.running
    assert "again in 0.2 s" in (home / "exchange.log").read_text()
    exchange.stop()
    fresh.assert_whole()


def test_it_survives_its_user_and_the_next_one_joins(fresh: Database, home: Path) -> None:
    user = f"""
import os, pathlib, signal
from truetape.embedded.exchange import Exchange, Terms
Exchange(pathlib.Path({str(home)!r}), {fresh.url!r}).start({FAST!r}, timeout=60)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", user], timeout=90, check=False)
    assert done.returncode == -signal.SIGKILL
    exchange, pid = Exchange(home, fresh.url), pid_of(home)
    assert exchange.running and not Home(home).wanted()
    assert exchange.start(FAST, timeout=60) is True
    assert pid_of(home) == pid and Home(home).wanted()
    other = command("--home", str(home), "--database-url", fresh.url)
    assert "already runs from" in other.communicate(timeout=30)[1] and other.returncode == 2
    exchange.stop()
    assert not exchange.running


def test_it_leaves_when_nobody_has_wanted_it_for_long(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_home, "UNWANTED_SECONDS_MAX", 0.2)
    monkeypatch.setattr(exchange_home, "LOOK_SECONDS", 0.02)
    place, stop = Home(home), threading.Event()
    want = place.want()
    watch = threading.Thread(target=place.end_when_unwanted, args=(stop,))
    watch.start()
    time.sleep(0.5)
    assert not stop.is_set()
    want.close()
    assert stop.wait(5)
    watch.join(5)


def test_tables_of_a_real_ponder_are_not_touched(fresh: Database) -> None:
    fresh.change("CREATE TABLE order_book_trades (id text); CREATE TABLE pools (coin text)")
    asked = command("--database-url", fresh.url)
    _, told = asked.communicate(timeout=30)
    assert asked.returncode == 2 and "holds the tables of another Ponder" in told
    assert fresh.one("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 2


def test_a_stop_by_signal_is_clean(fresh: Database) -> None:
    asked = command("--database-url", fresh.url, "--history-days=0.01", "--block-time=0.1")
    eventually(lambda: fresh.one("SELECT to_regclass('_ponder_meta') IS NOT NULL"))
    eventually(lambda: fresh.one("SELECT count(*) FROM order_book_trades") > 0)
    asked.send_signal(signal.SIGINT)
    _, told = asked.communicate(timeout=10)
    assert asked.returncode == 0 and told.endswith("stopped\n")
    fresh.assert_whole()


def test_an_unreachable_database_and_bad_terms_are_told_apart() -> None:
    wrong = command("--database-url", "postgresql://localhost/x", "--pools", "99")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{taken.getsockname()[1]}/x"
        nowhere = command("--database-url", url)
        told = nowhere.communicate(timeout=60)[1]
    assert "cannot be reached" in told and nowhere.returncode == 3
    assert "pools must be from 1 to 16" in wrong.communicate(timeout=30)[1]
    assert wrong.returncode == 2


def test_two_chains_trade_apart_at_the_same_addresses(fresh: Database, home: Path) -> None:
    exchange = Exchange(home, fresh.url)
    exchange.start(replace(FAST, chains=2, schema="ponder v2"), timeout=60)
    exchange.stop()
    with psycopg.connect(fresh.url, autocommit=True) as conn:
        conn.execute('SET search_path TO "ponder v2"')
        query = """SELECT chain_id, count(*), (SELECT count(*) FROM _ponder_checkpoint),
            (SELECT count(DISTINCT order_book) FROM pools), (SELECT count(*) FROM pools)
            FROM order_book_trades GROUP BY 1 ORDER BY 1"""
        rows = conn.execute(query).fetchall()
    assert [row[0] for row in rows] == [31337, 31338]
    assert min(row[1] for row in rows) > 150
    assert rows[0][2:] == (2, TERMS.pools, 2 * TERMS.pools)
