"""What an engineer worries about when the analytics were down: is every trade there, once?"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import pytest
from oracle import differences

from truetape import DataSyncService, SyncResult
from truetape.settings import Settings

T = TypeVar("T")

POOL = "0x00000000000000000000000000000000000000aa"
PRICE, QUANTITY = 2_000_000_000, 100_000_000_000_000_000


def with_service(
    source_url: str, analytics_url: str, work: Callable[[DataSyncService], Awaitable[T]], **env: Any
) -> T:
    async def run() -> T:
        settings = Settings.load(**env)
        async with DataSyncService(source_url, analytics_url, settings) as sync:
            return await work(sync)

    return asyncio.run(run())


def sync(source_url: str, analytics_url: str, **env: Any) -> SyncResult:
    return with_service(source_url, analytics_url, lambda s: s.sync_missed_data(), **env)


def add(source_url: str, *rows: tuple[Any, ...]) -> None:
    """Rows of (id, timestamp, price, quantity, pool_id, side, transaction_id)."""
    with psycopg.connect(source_url, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO order_book_trades VALUES (%s, %s, %s, %s, %s, %s, %s)", rows
        )


def trade(trade_id: str, second: int | None, **other: Any) -> tuple[Any, ...]:
    row = {"price": PRICE, "quantity": QUANTITY, "pool": POOL, "side": "buy", "tx": "0x1"} | other
    return (trade_id, second, row["price"], row["quantity"], row["pool"], row["side"], row["tx"])


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_the_worked_outage(source_url: str, analytics_url: str) -> None:
    execute(source_url, f"INSERT INTO pools VALUES ('{POOL}', 'WETH/USDC')")
    add(source_url, *(trade(f"t{i}", 1754400000 + 60 * (i - 1)) for i in (1, 2, 3)))
    assert sync(source_url, analytics_url).processed == 3
    for number, second in ((4, 300), (5, 360), (6, 600), (7, 660)):
        add(source_url, trade(f"t{number}", 1754400000 + second))
    # The service comes back an hour after the last snapshot that it applied.
    execute(
        analytics_url,
        "UPDATE analytics.state SET complete_at = complete_at - interval '1 hour'",
    )

    async def recover(service: DataSyncService) -> None:
        health = await service.check_sync_health()
        assert (health.is_healthy, health.missed_trades) == (False, 4)
        assert health.lag_minutes == pytest.approx(60, abs=0.5)
        assert health.recommendation == "IMMEDIATE_SYNC_REQUIRED"
        result = await service.sync_missed_data()
        assert (result.processed, result.errors, result.total) == (4, 0, 4)
        assert result.duration > 0
        health = await service.check_sync_health()
        assert (health.is_healthy, health.lag_minutes, health.missed_trades) == (True, 0, 0)
        assert health.recommendation == "HEALTHY"

    with_service(source_url, analytics_url, recover)
    assert differences(source_url, analytics_url) == []
    assert sync(source_url, analytics_url).total == 0


def test_volume_is_exact(source_url: str, analytics_url: str) -> None:
    add(source_url, trade("t", 1754400000))
    sync(source_url, analytics_url)
    volume = execute(analytics_url, "SELECT volume FROM analytics.trades")[0][0]
    assert volume == 200_000_000_000_000_000_000_000_000


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (trade("x", 1754400000, price=None), "price is null"),
        (trade("x", 1754400000, quantity=None), "quantity is null"),
        (trade("x", 1754400000, price="NaN"), "price is NaN"),
        (trade("x", 1754400000, quantity="Infinity"), "quantity is Infinity"),
        (trade("x", 1754400000, price="-Infinity"), "price is -Infinity"),
        (trade("x", None), "timestamp is null"),
        (trade("x", 0), "timestamp is not positive"),
        (trade("x", -5), "timestamp is not positive"),
        (trade("x", 1754400000000), "more than a day ahead"),
        (trade("x", 1754400000, pool=None), "pool_id is null"),
        ((None, *trade("x", 1754400000)[1:]), "id is null"),
    ],
)
def test_a_bad_row_is_set_aside_alone_and_comes_back_when_mended(
    source_url: str, analytics_url: str, row: tuple[Any, ...], reason: str
) -> None:
    execute(source_url, 'ALTER TABLE order_book_trades ALTER "timestamp" TYPE bigint')
    add(source_url, trade("before", 1754400000), row, trade("after", 1754400001))
    result = sync(source_url, analytics_url)
    assert (result.processed, result.errors, result.total) == (2, 1, 3)
    [(status, message)] = execute(
        analytics_url,
        "SELECT status, error_message FROM analytics.sync_log WHERE status <> 'processed'",
    )
    assert status == "error"
    assert reason in message
    assert sync(source_url, analytics_url).total == 0, "a known bad row is not found again"
    execute(
        source_url,
        f"UPDATE order_book_trades SET id = 'x', price = 3, quantity = 4, pool_id = '{POOL}', "
        "\"timestamp\" = 1754400000 WHERE id IS DISTINCT FROM 'before' AND id IS DISTINCT FROM 'after'",
    )
    assert sync(source_url, analytics_url).processed == 1
    assert (
        execute(analytics_url, "SELECT * FROM analytics.sync_log WHERE status <> 'processed'") == []
    )
    assert differences(source_url, analytics_url) == []


@pytest.mark.parametrize(
    "row",
    [
        trade("x", 1754400000, price=0),
        trade("x", 1754400000, price=-7, quantity="0.000000000000000000001"),
        trade("x", 1754400000, price="9" * 78, quantity="9" * 78),
        trade("x", 1754400000, side=None),
        trade("x", 1754400000, side="short"),
        trade("x", 1754400000, side="BUY"),
        trade("x", 1),
    ],
)
def test_a_strange_but_possible_row_counts(
    source_url: str, analytics_url: str, row: tuple[Any, ...]
) -> None:
    add(source_url, trade("before", 1754400000), row)
    result = sync(source_url, analytics_url)
    assert (result.processed, result.errors) == (2, 0)
    assert differences(source_url, analytics_url) == []


def test_a_quarantined_row_that_vanishes_leaves_the_quarantine(
    source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("x", 1754400000, price="NaN"), trade("y", None))
    assert sync(source_url, analytics_url).errors == 2
    execute(source_url, "DELETE FROM order_book_trades")
    sync(source_url, analytics_url)
    assert execute(analytics_url, "SELECT * FROM analytics.sync_log") == []


def test_the_operators_two_statements(source_url: str, analytics_url: str) -> None:
    add(source_url, trade("good", 1754400000), trade("bad", 1754400000, price="NaN"))
    sync(source_url, analytics_url)
    with psycopg.connect(
        analytics_url, options="-c search_path=analytics", autocommit=True
    ) as conn:
        assert len(conn.execute("SELECT * FROM sync_log WHERE status = 'error';").fetchall()) == 1
        conn.execute("UPDATE quarantine SET failed_at = failed_at - interval '2 hours'")
        done = conn.execute(
            "UPDATE sync_log SET status = 'pending', error_message = NULL "
            "WHERE status = 'error' AND processed_at < NOW() - INTERVAL '1 hour';"
        )
        assert done.rowcount == 1
        plan = conn.execute("EXPLAIN SELECT * FROM sync_log WHERE status = 'error'").fetchall()
        assert "tape" not in str(plan)
    assert sync(source_url, analytics_url).errors == 1, "tried again, and still bad"
    attempts = execute(analytics_url, "SELECT attempts FROM analytics.quarantine")
    assert attempts == [(2,)]


def test_a_row_that_the_database_refuses_stands_alone(source_url: str, analytics_url: str) -> None:
    sync(source_url, analytics_url)
    execute(analytics_url, "ALTER TABLE analytics.tape ADD CHECK (trade_id <> 't613')")
    add(source_url, *(trade(f"t{i}", 1754400000 + i % 7) for i in range(1000)))
    result = sync(source_url, analytics_url)
    assert (result.processed, result.errors, result.total) == (999, 1, 1000)
    assert execute(analytics_url, "SELECT row_key FROM analytics.quarantine") == [("t613",)]
    assert sync(source_url, analytics_url).total == 0
    execute(analytics_url, "ALTER TABLE analytics.tape DROP CONSTRAINT tape_trade_id_check")
    execute(
        analytics_url, "UPDATE analytics.sync_log SET status = 'pending' WHERE status = 'error'"
    )
    assert sync(source_url, analytics_url).processed == 1
    assert differences(source_url, analytics_url) == []


def test_many_in_one_second_and_tiny_batches_in_parallel(
    source_url: str, analytics_url: str
) -> None:
    execute(
        source_url,
        "INSERT INTO order_book_trades SELECT 'i' || i, 1754400000 + (i / 700) * 37, 100 + i % 13, "
        "1 + i % 7, 'p' || i % 3, 'Sell', 't' FROM generate_series(1, 7000) i",
    )
    result = sync(source_url, analytics_url, SYNC_BATCH_SIZE=100, SYNC_CONCURRENCY=4)
    assert (result.processed, result.errors) == (7000, 0)
    assert differences(source_url, analytics_url) == []


@pytest.mark.parametrize("index", [True, False], ids=["with an index", "without an index"])
def test_random_changes_of_the_source_are_followed_exactly(
    source_url: str, analytics_url: str, index: bool, request: pytest.FixtureRequest
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    if index:
        execute(source_url, 'CREATE INDEX ON order_book_trades ("timestamp")')

    def second() -> int:
        return (
            1754400000 + rng.choice([0, 1, 59, 60, 3599, 3600, 86399, 86400]) + rng.randrange(120)
        )

    def row(i: int) -> tuple[Any, ...]:
        return trade(
            f"id{i}", second(), price=rng.choice([1, 2, 3, "1.5", "NaN", None]),
            quantity=rng.randrange(5), pool=f"p{rng.randrange(3)}", side=rng.choice(["Buy", "sell", None]),
        )  # fmt: skip

    for step in range(5):
        add(source_url, *(row(step * 1000 + i) for i in range(rng.randrange(60))))
        some = "WHERE random() < 0.2"
        execute(source_url, f"SELECT setseed({rng.random()})")
        for statement in rng.sample(
            [
                f"UPDATE order_book_trades SET price = price + 1 {some}",
                f'UPDATE order_book_trades SET "timestamp" = "timestamp" + 61 {some}',
                f"UPDATE order_book_trades SET pool_id = 'p9' {some}",
                f'DELETE FROM order_book_trades {some} AND "timestamp" > 1754485000',
            ],
            2,
        ):
            execute(source_url, statement)
        result = sync(source_url, analytics_url, SYNC_BATCH_SIZE=20, SYNC_REORG_WINDOW_MINUTES=3000)
        if result.processed == 0 and result.errors == 0:
            assert result.total == 0
        sync(source_url, analytics_url, SYNC_REORG_WINDOW_MINUTES=3000)
        assert differences(source_url, analytics_url) == [], f"seed {seed}, step {step}"


def test_force_rebuilds_what_was_altered_by_hand(source_url: str, analytics_url: str) -> None:
    add(source_url, *(trade(f"t{i}", 1754400000 + i * 60) for i in range(200)))
    sync(source_url, analytics_url)
    for statement in (
        "UPDATE analytics.candles_1m SET high = high + 1 WHERE bucket > '2025-08-05 14:00Z'",
        "DELETE FROM analytics.hourly_aggregations",
        "DELETE FROM analytics.trades WHERE trade_id = 't150'",
        "UPDATE analytics.trades SET price = 1 WHERE trade_id = 't151'",
        "UPDATE analytics.days SET trades = 0",
        "INSERT INTO analytics.trades (trade_id, time, chain_id, pool_id, price, quantity) "
        "VALUES ('forged', '2025-08-05 14:00Z', 0, 'p', 1, 1)",
    ):
        execute(analytics_url, statement)
    result = with_service(source_url, analytics_url, lambda s: s.force_sync_from(1754400000))
    assert result.success
    assert result.processed >= 200
    assert differences(source_url, analytics_url) == []


def test_traders_are_paired_from_fills(source_url: str, analytics_url: str) -> None:
    execute(
        source_url,
        """CREATE TABLE trades (id text, transaction_id text, pool_id text, order_id text,
               price numeric, quantity numeric, "timestamp" integer);
           CREATE TABLE orders (id text, "user" text, side varchar);
           INSERT INTO orders VALUES ('b1', 'ann', 'Buy'), ('b2', 'bob', 'Buy'), ('s1', 'sue', 'Sell')""",
    )
    add(source_url, trade("t1", 1754400000, tx="a"), trade("t2", 1754400000, tx="a"),
        trade("t3", 1754400000, tx="b"))  # fmt: skip
    fills = [("f1", "a", "b1"), ("f2", "a", "b2"), ("f3", "a", "s1"), ("f4", "a", "s1"),
             ("f5", "b", "b1"), ("f6", "b", "b2")]  # fmt: skip
    for fill, tx, order in fills:
        execute(
            source_url,
            f"INSERT INTO trades VALUES ('{fill}', '{tx}', '{POOL}', '{order}', {PRICE}, {QUANTITY}, 1754400000)",
        )
    sync(source_url, analytics_url)
    rows = execute(analytics_url, "SELECT trade_id, buyer, seller FROM analytics.trades ORDER BY 1")
    assert rows == [("t1", "ann", "sue"), ("t2", "bob", "sue"), ("t3", None, None)]
    # The fill that was too many goes, one of the other side comes: now they can be paired.
    execute(source_url, "DELETE FROM trades WHERE id = 'f6'")
    execute(
        source_url,
        f"INSERT INTO trades VALUES ('f7', 'b', '{POOL}', 's1', {PRICE}, {QUANTITY}, 1754400000)",
    )
    sync(source_url, analytics_url)
    rows = execute(
        analytics_url, "SELECT trade_id, buyer, seller FROM analytics.trades WHERE trade_id = 't3'"
    )
    assert rows == [("t3", "ann", "sue")]
    stats = execute(
        analytics_url, "SELECT trader, trades FROM analytics.trader_stats ORDER BY trader"
    )
    assert stats == [("ann", 2), ("bob", 1), ("sue", 3)]


def test_select_is_all_the_right_that_is_needed(source_url: str, analytics_url: str) -> None:
    add(source_url, trade("t", 1754400000))
    role = f"reader_{random.randrange(10**9)}"
    execute(source_url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        execute(source_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        _, _, rest = source_url.partition("@")
        assert sync(f"postgresql://{role}:secret@{rest}", analytics_url).processed == 1
    finally:
        execute(source_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_two_services_at_once_double_nothing(source_url: str, analytics_url: str) -> None:
    execute(
        source_url,
        "INSERT INTO order_book_trades SELECT 'i' || i, 1754400000 + i, 100, 1, 'p', 'Sell', 't' "
        "FROM generate_series(1, 5000) i",
    )

    async def both() -> list[SyncResult]:
        settings = Settings.load(SYNC_BATCH_SIZE=200)
        async with (
            DataSyncService(source_url, analytics_url, settings) as one,
            DataSyncService(source_url, analytics_url, settings) as two,
        ):
            return list(await asyncio.gather(one.sync_missed_data(), two.sync_missed_data()))

    results = asyncio.run(both())
    assert {r.processed for r in results} == {5000}
    assert sorted(r.joined for r in results) == [False, True]
    assert differences(source_url, analytics_url) == []


def test_a_capped_catch_up_holds_no_transaction_for_longer_than_its_rows_take(
    source_url: str, analytics_url: str
) -> None:
    """The cap is waited for: batch by batch, not with all of them in one transaction."""
    add(source_url, *(trade(f"t{n}", 1754400000 + n) for n in range(900)))
    began = time.monotonic()
    assert sync(source_url, analytics_url, SYNC_MAX_ROWS_PER_SECOND=300).processed == 900
    assert time.monotonic() - began > 1.5
    batches = execute(analytics_url, "SELECT count(DISTINCT processed_at) FROM analytics.tape")
    assert batches[0][0] >= 3
    assert differences(source_url, analytics_url) == []


def test_a_minute_that_is_taken_in_by_pieces_is_known_to_be_whole(
    source_url: str, analytics_url: str
) -> None:
    add(source_url, *(trade(f"t{n}", 1754400000 + n) for n in range(600)))

    assert sync(source_url, analytics_url, SYNC_MAX_ROWS_PER_SECOND=250).processed == 600
    assert execute(analytics_url, "SELECT bucket FROM analytics.suspects") == []
    # Nothing is known to be open, so all is known to be complete.
    assert execute(analytics_url, "SELECT complete_at IS NOT NULL FROM analytics.state") == [
        (True,)
    ]


def test_what_we_hold_on_both_sides_of_an_outage_is_compared_by_rows(
    source_url: str, analytics_url: str
) -> None:
    """Whoever follows has the newest trades before the missed ones."""
    before, after = 1754400000, 1754400000 + 5 * 3600
    add(source_url, *(trade(f"t{s}", s) for s in (before, before + 120, after)))

    async def recover(service: DataSyncService) -> SyncResult:
        await service.sync_missed_data()
        async with await psycopg.AsyncConnection.connect(analytics_url, autocommit=True) as conn:
            await conn.execute("UPDATE analytics.state SET window_from = %s", (before,))
        add(source_url, *(trade(f"m{s}", s) for s in range(before + 180, after, 2)))
        execute(source_url, "UPDATE order_book_trades SET price = price + 1 WHERE id LIKE 't%'")
        return await service.sync_missed_data()

    result = with_service(source_url, analytics_url, recover)
    assert result.processed == (5 * 3600 - 180) / 2 + 3
    assert differences(source_url, analytics_url) == []


def test_a_run_whose_end_could_not_be_written_is_taken_up_again(
    source_url: str, analytics_url: str
) -> None:
    """The database was away just then, and came back under the same leader."""
    left_open = (
        "INSERT INTO analytics.runs (kind, state, epoch, started_at) "
        "SELECT 'standard', 'running', epoch, now() FROM analytics.lease RETURNING run_id"
    )
    add(source_url, *(trade(f"t{i}", 1754400000 + i) for i in range(3)))

    async def work(service: DataSyncService) -> str:
        await service.sync_missed_data()  # It leads.
        add(source_url, trade("t3", 1754400003))
        [(run_id,)] = execute(analytics_url, left_open)
        state = f"SELECT state FROM analytics.runs WHERE run_id = {run_id}"
        deadline = time.monotonic() + 20
        while (found := execute(analytics_url, state)) == [("running",)]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        return str(found[0][0])

    assert with_service(source_url, analytics_url, work) == "succeeded"
    assert differences(source_url, analytics_url) == []
