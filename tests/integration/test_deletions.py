"""What vanishes in the source: when does it leave the analytics, and when had it better not?"""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import indexer
import psycopg
import pytest
from indexer import position, ready, set_position
from oracle import differences
from served import Served, truetape
from test_api import api
from test_sync import POOL, add, execute, sync, trade, with_service

from truetape import DataSyncService, SyncResult
from truetape.settings import Settings
from truetape.source.bell import Bell
from truetape.sync import chores, follow, tail
from truetape.sync.engine import open_engine

NEWEST = 1754400000
OUTSIDE = NEWEST - 7200
"""Two hours before the newest trade: that is not in the window any more."""

# Each retraction, with when the row was first missed.
AUDIT = """
CREATE TABLE retracted (trade_id text, missed_at timestamptz, at timestamptz);
CREATE FUNCTION note_retraction() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.retracted SELECT o.trade_id, o.first_missed_at, clock_timestamp() FROM gone o
    WHERE NOT EXISTS (SELECT FROM analytics.trades t WHERE t.trade_id = o.trade_id);
    RETURN NULL;
END $$;
CREATE TRIGGER note_retraction AFTER DELETE ON analytics.vanishing REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION note_retraction()
"""


def fill(source_url: str, trades: int, *, until: int = NEWEST, name: str = "i") -> None:
    """So many trades, one a second, the newest at ``until``."""
    execute(
        source_url,
        f"INSERT INTO order_book_trades SELECT '{name}' || i, {until} + 1 - i, 100 + i % 13, 1 + i % 7, "
        f"'{POOL}', CASE WHEN i % 2 = 0 THEN 'buy' ELSE 'sell' END, 't' FROM generate_series(1, {trades}) i",
    )


def vanish(source_url: str, where: str) -> None:
    """Trades go, but are not forgotten: see ``bring_back``."""
    execute(
        source_url,
        "CREATE TABLE IF NOT EXISTS hidden (LIKE order_book_trades); WITH d AS (DELETE FROM "
        f"order_book_trades WHERE {where} RETURNING *) INSERT INTO hidden SELECT * FROM d",
    )


def bring_back(source_url: str) -> None:
    execute(
        source_url,
        "WITH d AS (DELETE FROM hidden RETURNING *) INSERT INTO order_book_trades SELECT * FROM d",
    )


def kept(analytics_url: str) -> int:
    return int(execute(analytics_url, "SELECT count(*) FROM analytics.trades")[0][0])


def missed(analytics_url: str) -> int:
    """Trades that a look did not find, and that wait for another."""
    return int(execute(analytics_url, "SELECT count(*) FROM analytics.vanishing")[0][0])


def age(analytics_url: str, seconds: float) -> None:
    """As if what is missed had been missed for so much longer."""
    execute(
        analytics_url,
        f"UPDATE analytics.vanishing SET first_missed_at = first_missed_at - interval '{seconds} s'",
    )


def waits(analytics_url: str) -> list[float]:
    """Seconds from the first look that missed a trade to its retraction."""
    rows = execute(analytics_url, "SELECT extract(epoch FROM at - missed_at)::float FROM retracted")
    return [seconds for (seconds,) in rows]


async def becomes(what: str, true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)


def while_it_looks(
    source_url: str, analytics_url: str, happens: Callable[[], Awaitable[None]], count: int
) -> SyncResult:
    """A sync, and what happens in it once a first look has missed so many."""

    async def work(service: DataSyncService) -> SyncResult:
        running = asyncio.create_task(service.sync_missed_data())
        await becomes("missed", lambda: missed(analytics_url) == count)
        await happens()
        return await running

    return with_service(source_url, analytics_url, work)


# -- two looks -------------------------------------------------------------------------------


def test_inside_the_window_two_looks_a_second_apart_retract(
    source_url: str, analytics_url: str
) -> None:
    fill(source_url, 50)
    sync(source_url, analytics_url)
    execute(analytics_url, AUDIT)
    vanish(source_url, "id IN ('i1', 'i7', 'i50')")
    result = sync(source_url, analytics_url)
    assert (result.retracted, result.processed, result.total) == (3, 3, 3)
    assert len(waits(analytics_url)) == 3
    assert all(1 <= seconds < 5 for seconds in waits(analytics_url))
    assert differences(source_url, analytics_url) == []


def test_one_look_alone_never_retracts_but_counts_as_the_first(
    source_url: str, analytics_url: str
) -> None:
    fill(source_url, 50)
    sync(source_url, analytics_url)
    vanish(source_url, "id = 'i7'")

    async def look_once(service: DataSyncService) -> None:
        running = asyncio.create_task(service.sync_missed_data())
        await becomes("missed", lambda: missed(analytics_url) == 1)
        running.cancel()

    with_service(source_url, analytics_url, look_once)
    assert (kept(analytics_url), missed(analytics_url)) == (50, 1)
    # Whoever comes later, hours maybe, needs but one look more.
    execute(
        analytics_url,
        "UPDATE analytics.vanishing SET first_missed_at = first_missed_at - interval '1 hour'",
    )
    assert sync(source_url, analytics_url).retracted == 1
    assert differences(source_url, analytics_url) == []


def test_a_row_that_is_back_at_the_second_look_stays(source_url: str, analytics_url: str) -> None:
    fill(source_url, 50)
    fill(source_url, 50, until=OUTSIDE, name="o")
    sync(source_url, analytics_url)
    execute(analytics_url, AUDIT)
    vanish(source_url, "id IN ('i7', 'o7')")

    async def back() -> None:
        bring_back(source_url)
        age(analytics_url, 31)

    assert while_it_looks(source_url, analytics_url, back, 2).retracted == 0
    assert (kept(analytics_url), missed(analytics_url)) == (100, 0)
    # When it vanishes once more, the look of before is no first look any longer.
    vanish(source_url, "id = 'i7'")
    assert sync(source_url, analytics_url).retracted == 1
    [wait] = waits(analytics_url)
    assert 1 <= wait < 5
    assert differences(source_url, analytics_url) == []


def test_outside_the_window_two_looks_thirty_seconds_apart_retract(
    source_url: str, analytics_url: str
) -> None:
    fill(source_url, 50)
    fill(source_url, 50, until=OUTSIDE, name="o")
    sync(source_url, analytics_url)
    vanish(source_url, "id IN ('i7', 'o7')")

    async def wait() -> None:
        await becomes("the one in the window is gone", lambda: kept(analytics_url) == 99)
        age(analytics_url, 25)
        await asyncio.sleep(1.5)
        assert (kept(analytics_url), missed(analytics_url)) == (99, 1)
        age(analytics_url, 5)

    assert while_it_looks(source_url, analytics_url, wait, 2).retracted == 2
    assert differences(source_url, analytics_url) == []


# -- a source that is behind itself ----------------------------------------------------------


class Behind:
    """A source that lacks for now what it has had, in one of the ways in which that is visible."""

    def __init__(self, source_url: str) -> None:
        self._url = source_url

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class NotReady(Behind):
    def begin(self) -> None:
        ready(self._url, False)

    def end(self) -> None:
        ready(self._url, True)


class CheckpointWentBack(Behind):
    def begin(self) -> None:
        position(self._url, 900, NEWEST - 100, final=(800, NEWEST - 600))

    def end(self) -> None:
        position(self._url, 1001, NEWEST + 1, final=(800, NEWEST - 600))


class AnotherTable(Behind):
    def begin(self) -> None:
        execute(
            self._url,
            "ALTER TABLE order_book_trades RENAME TO former; CREATE TABLE order_book_trades (LIKE former); "
            "INSERT INTO order_book_trades SELECT * FROM former",
        )


class AnotherView(Behind):
    """As a redeployment makes it."""

    def begin(self) -> None:
        execute(
            self._url,
            "BEGIN; ALTER TABLE order_book_trades RENAME TO deployed; "
            "CREATE VIEW order_book_trades AS SELECT * FROM deployed; COMMIT",
        )


TELLS = pytest.mark.parametrize("tells", [True, False], ids=["with checkpoints", "without"])


def prepare(source_url: str, tells: bool) -> None:
    fill(source_url, 300)
    if tells:
        ready(source_url, True)
        position(source_url, 1000, NEWEST, final=(800, NEWEST - 600))


@pytest.mark.parametrize("how", [NotReady, CheckpointWentBack])
def test_while_the_source_is_behind_itself_nothing_goes_however_often_one_looks(
    how: type[Behind], source_url: str, analytics_url: str
) -> None:
    prepare(source_url, tells=True)
    behind = how(source_url)

    async def work(service: DataSyncService) -> None:
        await service.sync_missed_data()
        behind.begin()
        vanish(source_url, "id IN ('i1', 'i2', 'i3')")
        for _ in range(3):
            result = await service.sync_missed_data()
            assert (result.success, result.retracted) == (True, 0), result.message
            await asyncio.sleep(0.6)
        assert (kept(analytics_url), missed(analytics_url)) == (300, 3)
        # Caught up: what is still not there is gone, when two more looks agree.
        behind.end()
        execute(analytics_url, AUDIT)
        assert (await service.sync_missed_data()).retracted == 3
        assert all(seconds >= 1 for seconds in waits(analytics_url))

    with_service(source_url, analytics_url, work)
    assert differences(source_url, analytics_url) == []


@TELLS
@pytest.mark.parametrize("how", [AnotherTable, AnotherView])
def test_when_another_table_or_view_has_taken_its_place_nothing_goes(
    how: type[Behind], tells: bool, source_url: str, analytics_url: str
) -> None:
    prepare(source_url, tells)

    async def work(service: DataSyncService) -> None:
        await service.sync_missed_data()
        how(source_url).begin()
        vanish(source_url, "id IN ('i1', 'i2', 'i3')")
        for _ in range(3):
            result = await service.sync_missed_data()
            assert (result.success, result.retracted) == (True, 0), result.message
            await asyncio.sleep(0.6)
        assert kept(analytics_url) == 300
        bring_back(source_url)
        await service.sync_missed_data()
        assert (kept(analytics_url), missed(analytics_url)) == (300, 0)
        # Half a minute later it is a source like any other.
        execute(
            analytics_url,
            "UPDATE analytics.state SET replaced_at = replaced_at - interval '31 s'",
        )
        vanish(source_url, "id = 'i2'")
        assert (await service.sync_missed_data()).retracted == 1

    with_service(source_url, analytics_url, work)
    assert differences(source_url, analytics_url) == []


@TELLS
def test_another_view_is_noticed_by_a_process_that_comes_later(
    tells: bool, source_url: str, analytics_url: str
) -> None:
    prepare(source_url, tells)
    sync(source_url, analytics_url)
    AnotherView(source_url).begin()
    vanish(source_url, "id IN ('i1', 'i2', 'i3')")
    assert sync(source_url, analytics_url).retracted == 0
    assert kept(analytics_url) == 300


# -- much at once ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trades", "vanished", "are_held"),
    [(300, 100, False), (10_100, 101, False), (10_099, 101, True), (300, 101, True)],
    ids=["a hundred", "one percent", "more than both", "a third"],
)
def test_more_than_a_hundred_and_a_percent_at_once_are_held(
    trades: int, vanished: int, are_held: bool, source_url: str, analytics_url: str
) -> None:
    fill(source_url, trades)
    settings = {"SYNC_REORG_WINDOW_MINUTES": 300}
    sync(source_url, analytics_url)
    vanish(source_url, f"id IN (SELECT 'i' || 2 * i FROM generate_series(1, {vanished}) i)")
    assert sync(source_url, analytics_url, **settings).success
    left = trades if are_held else trades - vanished
    assert kept(analytics_url) == left
    assert (differences(source_url, analytics_url) == []) is not are_held


async def run_by_http(source_url: str, analytics_url: str) -> dict[str, Any]:
    async with api(source_url, analytics_url) as call:
        return dict(await call.post("/api/sync/run", {"acceptDeletions": True}))


def accept(how: str, source_url: str, analytics_url: str) -> dict[str, Any]:
    """Somebody's word that what is held may go."""
    if how == "by HTTP":
        return asyncio.run(run_by_http(source_url, analytics_url))
    done = truetape(
        "sync", "--accept-deletions", "--json",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("how", ["by HTTP", "by verb"])
def test_held_ones_show_in_health_and_go_when_somebody_says_so(
    how: str, source_url: str, analytics_url: str
) -> None:
    fill(source_url, 300)
    sync(source_url, analytics_url)
    began = datetime.now(UTC)
    vanish(source_url, "id IN (SELECT 'i' || i FROM generate_series(50, 199) i)")
    sync(source_url, analytics_url)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            health = await call.get("/api/sync/health")
            held = health["heldDeletions"]
            assert (health["status"], held["count"]) == ("degraded", 150)
            assert began <= datetime.fromisoformat(held["since"]) <= datetime.now(UTC)
            assert "150" in held["reason"]
            assert "--accept-deletions" in held["reason"]
            assert held["reason"] in health["message"]
            assert health["missedTrades"] == 0

    asyncio.run(look())
    done = accept(how, source_url, analytics_url)
    assert (done["success"], done["retracted"], done["total"]) == (True, 150, 150)
    assert differences(source_url, analytics_url) == []

    async def after() -> None:
        async with api(source_url, analytics_url) as call:
            health = await call.get("/api/sync/health")
            assert health["heldDeletions"] == {"count": 0, "since": None, "reason": None}
            assert health["status"] == "healthy"

    asyncio.run(after())


@pytest.mark.parametrize("how", [NotReady, CheckpointWentBack, AnotherView])
def test_nobodys_word_counts_while_the_source_is_behind_itself(
    how: type[Behind], source_url: str, analytics_url: str
) -> None:
    prepare(source_url, tells=True)
    sync(source_url, analytics_url)
    how(source_url).begin()
    vanish(source_url, "id IN (SELECT 'i' || i FROM generate_series(50, 199) i)")
    done = accept("by HTTP", source_url, analytics_url)
    assert (done["success"], done["retracted"]) == (True, 0)
    assert kept(analytics_url) == 300
    bring_back(source_url)
    assert sync(source_url, analytics_url).success
    assert differences(source_url, analytics_url) == []


@pytest.mark.parametrize("trades", [300, 30])
def test_a_source_that_is_emptied_does_not_empty_the_analytics(
    trades: int, source_url: str, analytics_url: str
) -> None:
    fill(source_url, trades)
    sync(source_url, analytics_url)
    execute(source_url, "TRUNCATE order_book_trades")
    assert sync(source_url, analytics_url).retracted == 0
    assert kept(analytics_url) == trades

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            health = await call.get("/api/sync/health")
            assert health["heldDeletions"]["count"] == trades
            assert "--accept-deletions" in health["heldDeletions"]["reason"]
            assert health["status"] == "degraded"

    asyncio.run(look())
    assert accept("by HTTP", source_url, analytics_url)["retracted"] == trades
    assert differences(source_url, analytics_url) == []


def test_repair_takes_out_what_was_never_in_the_source(source_url: str, analytics_url: str) -> None:
    fill(source_url, 50)
    sync(source_url, analytics_url)
    execute(
        analytics_url,
        "INSERT INTO analytics.trades (trade_id, time, chain_id, pool_id, side, price, quantity) "
        f"SELECT 'forged', to_timestamp({NEWEST}), 0, '{POOL}', 'buy', 7, 7",
    )

    async def repair() -> None:
        async with api(source_url, analytics_url) as call:
            assert not (await call.post("/api/sync/verify"))["complete"]
            await call.post("/api/sync/verify", {"repair": True})
            assert (await call.post("/api/sync/verify"))["complete"]

    asyncio.run(repair())
    assert differences(source_url, analytics_url) == []


def test_repair_makes_again_what_only_the_quarantine_tells_of(
    source_url: str, analytics_url: str
) -> None:
    """A digest that is deleted by hand where nothing but a set-aside trade stands (soak, seed 1866965553)."""
    execute(
        source_url,
        f"INSERT INTO order_book_trades VALUES ('bad', {NEWEST}, 'NaN', 1, '{POOL}', 'buy', 't')",
    )
    sync(source_url, analytics_url)
    execute(analytics_url, "DELETE FROM analytics.digests")

    async def repair() -> None:
        async with api(source_url, analytics_url) as call:
            assert not (await call.post("/api/sync/verify"))["complete"]
            await call.post("/api/sync/verify", {"repair": True})
            assert (await call.post("/api/sync/verify"))["complete"]
            health = await call.get("/api/sync/health")
            assert (health["missedTrades"], health["failedTrades"]) == (0, 1)

    asyncio.run(repair())


# -- while a service follows -----------------------------------------------------------------


FIGURES = """
SELECT (SELECT count(*) FROM analytics.trades), (SELECT sum(volume) FROM analytics.trades),
       (SELECT sum(trades) FROM analytics.candles_1m), (SELECT sum(base_volume) FROM analytics.candles_1m),
       (SELECT sum(trades) FROM analytics.hourly_aggregations),
       (SELECT sum(quote_volume) FROM analytics.hourly_aggregations),
       (SELECT sum(trades) FROM analytics.daily_summaries), (SELECT sum(high) FROM analytics.daily_summaries),
       (SELECT sum(trades) FROM analytics.symbol_metrics), (SELECT sum(quote_volume) FROM analytics.symbol_metrics)
"""


@contextmanager
def no_figure_falls(analytics_url: str) -> Iterator[None]:
    """While the block runs, whoever reads sees all that there was, at any time."""
    stop, falls = threading.Event(), []

    def watch() -> None:
        with psycopg.connect(analytics_url, autocommit=True) as conn:
            before = conn.execute(FIGURES).fetchone()
            while not stop.wait(0.02):
                now = conn.execute(FIGURES).fetchone()
                assert before is not None
                assert now is not None
                if any(new < old for old, new in zip(before, now, strict=True)):
                    falls.append((before, now))
                before = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    assert falls == []


@pytest.fixture
def served(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    service = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
        PONDER_SCHEMA="public",
    )  # fmt: skip
    yield service
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGKILL)


def test_trades_in_the_place_of_as_many_are_noticed_however_quiet_the_market_is(
    source_url: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing rings, all counts stay as they were, and whatever looks deeper rests for an hour."""
    monkeypatch.setattr(Bell, "ring", lambda *_, **__: 0)
    monkeypatch.setattr(tail, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(chores, "QUIET_FACTOR", 1800)
    monkeypatch.setattr(follow, "WINDOW_SECONDS", 3600.0)
    monkeypatch.setattr(follow, "SCRUB_SECONDS", 3600.0)
    now = int(time.time())
    add(source_url, *(trade(f"old{n}", now - n // 5) for n in range(50)))
    shown = "SELECT count(*), count(*) FILTER (WHERE trade_id LIKE 'old%') FROM analytics.trades"

    async def until(what: tuple[int, int]) -> None:
        async with asyncio.timeout(20):
            while execute(analytics_url, shown) != [what]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def run() -> None:
        async with open_engine(Settings.load(), source_url, analytics_url, follow=True) as engine:
            engine.start()
            await until((50, 50))
            await asyncio.sleep(3)  # The newest minutes are looked at for the last time.
            execute(source_url, "UPDATE order_book_trades SET id = 'new' || id, price = price + 1")
            await until((50, 0))

    asyncio.run(run())
    assert differences(source_url, analytics_url) == []


def test_of_much_that_vanishes_at_once_none_goes_however_it_is_spread(
    served: Served, source_url: str, analytics_url: str
) -> None:
    """A few in the newest minutes, which are looked at most often, the rest in all the weeks before."""
    now = int(time.time())
    execute(
        source_url,
        f"INSERT INTO order_book_trades SELECT 'i' || i, {now} - CASE WHEN i < 30 THEN i * 10 ELSE i * 3600 END, "
        f"100, 1, '{POOL}', 'buy', 't' FROM generate_series(1, 600) i",
    )
    served.start()
    served.until_complete()
    with no_figure_falls(analytics_url):
        vanish(source_url, "id IN (SELECT 'i' || i FROM generate_series(2, 600, 5) i)")
        served.until(lambda: served.health()["heldDeletions"]["count"] == 120, "held", 30)
        time.sleep(4)
    served.post("/api/sync/run?wait=false", {"acceptDeletions": True}, 202)
    old = "SELECT count(*) FROM analytics.vanishing WHERE time < now() - interval '1 hour'"
    served.until(lambda: execute(analytics_url, old) == [(114,)], "looked at", 20)
    age(analytics_url, 31)
    served.until(lambda: kept(analytics_url) == 480, "gone", 20)
    served.until_complete()
    assert differences(source_url, analytics_url) == []


DEPLOY = """
CREATE SCHEMA v{n};
CREATE TABLE v{n}.order_book_trades (LIKE {former}.order_book_trades);
INSERT INTO v{n}.order_book_trades SELECT * FROM {former}.order_book_trades
    WHERE "timestamp" < {until};
CREATE TABLE v{n}._ponder_checkpoint (LIKE {former}._ponder_checkpoint, UNIQUE (chain_name));
INSERT INTO v{n}._ponder_checkpoint SELECT * FROM {former}._ponder_checkpoint;
"""
SWAP = """
DROP {kind} public.order_book_trades, public._ponder_checkpoint;
CREATE VIEW public.order_book_trades AS SELECT * FROM v{n}.order_book_trades;
CREATE VIEW public._ponder_checkpoint AS SELECT * FROM v{n}._ponder_checkpoint;
"""


@TELLS
def test_a_redeployment_that_fills_its_tables_after_the_views_are_swapped_is_not_seen(
    tells: bool, served: Served, source_url: str, analytics_url: str
) -> None:
    now = int(time.time())
    final = (1000, now - 1800)
    fill(source_url, 400, until=now)
    execute(source_url, indexer.TABLES)
    if tells:
        position(source_url, 1400, now, final=final)
    execute(
        source_url,
        DEPLOY.format(n=1, former="public", until=now + 1) + SWAP.format(n=1, kind="TABLE"),
    )
    served.start()
    served.until_complete()
    with no_figure_falls(analytics_url), psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(DEPLOY.format(n=2, former="v1", until=now - 59))
        with conn.transaction():
            conn.execute(SWAP.format(n=2, kind="VIEW"))
            conn.execute("SET LOCAL search_path = v2")
            if tells:
                set_position(conn, 1340, now - 60, final=final)
        served.until(lambda: missed(analytics_url) >= 60, "looked at")
        for _ in range(3):
            time.sleep(2)
            age(analytics_url, 31)  # a long redeployment
        for block in range(1341, 1401):
            with conn.transaction():
                conn.execute("SET LOCAL search_path = v2")
                conn.execute(
                    "INSERT INTO order_book_trades SELECT * FROM v1.order_book_trades "
                    'WHERE "timestamp" = %s',
                    (now - 1400 + block,),
                )
                if tells:
                    set_position(conn, block, now - 1400 + block, final=final)
            time.sleep(0.02)
        fill(source_url, 1, until=now + 1, name="new")
        served.until(lambda: kept(analytics_url) == 401, "follows on")
        time.sleep(1)
    served.until_complete()
    assert differences(source_url, analytics_url) == []
