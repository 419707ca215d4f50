"""A service follows, and nobody asks it for anything: does it find by itself whatever happens?"""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oracle import differences
from served import Served
from test_deletions import age
from test_sync import execute

CHAINS = """
ALTER TABLE order_book_trades ADD chain_id integer;
ALTER TABLE pools ADD chain_id integer;
INSERT INTO pools VALUES ('0xaa', 'WETH/USDC', 1), ('0xaa', 'WBTC/USDC', 2), ('0xbb', 'ARB/WETH', 1)
"""
HISTORY_HOURS = 20


class Exchange:
    """A source with two chains, the same order book on both, and trades from days ago until now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = int(time.time()) - 5
        self.do(CHAINS)
        self.do(
            f"INSERT INTO order_book_trades SELECT 'h' || i, {self.now} - i * 1800, 100 + i % 7, 1 + i, "
            f"CASE WHEN i % 3 = 0 THEN '0xbb' ELSE '0xaa' END, 'Sell', 't', 1 + i % 2 "
            f"FROM generate_series(0, {2 * HISTORY_HOURS}) i"
        )
        self.do(
            f"INSERT INTO order_book_trades SELECT 'n' || i, {self.now} - i, 200 + i % 7, 1 + i, "
            f"'0xaa', 'buy', 't', 1 + i % 2 FROM generate_series(1, 150) i"
        )

    def do(self, statement: str) -> None:
        execute(self.url, statement)

    def trade(self, trade_id: str, seconds_ago: int, **other: Any) -> None:
        row = {"price": 300, "pool": "0xaa", "chain": 1} | other
        self.do(
            f"INSERT INTO order_book_trades VALUES ('{trade_id}', {self.now} - {seconds_ago}, "
            f"{row['price']}, 5, '{row['pool']}', 'BUY', 't', {row['chain']})"
        )

    def change(self, trade_id: str, what: str) -> None:
        self.do(f"UPDATE order_book_trades SET {what} WHERE id = '{trade_id}'")

    def move(self, trade_id: str, seconds: int) -> None:
        self.change(trade_id, f'"timestamp" = "timestamp" + {seconds}')

    def remove(self, trade_id: str) -> None:
        self.do(f"DELETE FROM order_book_trades WHERE id = '{trade_id}'")


@pytest.fixture
def exchange(source_url: str) -> Exchange:
    return Exchange(source_url)


@pytest.fixture
def served(exchange: Exchange, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    """A service that has caught up and follows."""
    service = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=exchange.url, ANALYTICS_DATABASE_URL=analytics_url,
    )  # fmt: skip
    service.start()
    service.until_complete()
    yield service
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGKILL)


def becomes_true(
    served: Served, exchange: Exchange, analytics_url: str, seconds: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Every figure, without being asked."""
    found: list[str] = []

    def is_true() -> bool:
        meanwhile()
        found[:] = differences(exchange.url, analytics_url)
        return not found

    try:
        served.until(is_true, "true", seconds)
    except AssertionError as error:
        raise AssertionError(f"{found}\n{error}") from None


def symbols(analytics_url: str) -> set[tuple[Any, ...]]:
    return set(
        execute(analytics_url, "SELECT chain_id, pool_id, symbol FROM analytics.symbol_metrics")
    )


def test_what_happens_in_the_newest_minutes_is_there_within_seconds(
    served: Served, exchange: Exchange, analytics_url: str
) -> None:
    exchange.trade("z same second", 0)
    becomes_true(served, exchange, analytics_url, 10)
    exchange.trade("a same second", 0)
    exchange.trade("late", 100, chain=2)
    exchange.change("n7", "price = 1, side = 'sell', pool_id = '0xbb'")
    exchange.change("n8", "chain_id = 3 - chain_id")
    exchange.remove("n9")
    exchange.move("n10", -1)
    exchange.move("n11", -70)
    exchange.move("n12", +60)
    exchange.trade("before its pool", 1, pool="0xcc")
    becomes_true(served, exchange, analytics_url, 45)
    exchange.do("INSERT INTO pools VALUES ('0xcc', 'A/B/C', 1)")
    exchange.do("UPDATE pools SET coin = 'ARB2/WETH' WHERE order_book = '0xbb'")
    wanted = {
        (1, "0xaa", "WETH/USDC"), (2, "0xaa", "WBTC/USDC"), (1, "0xbb", "ARB2/WETH"),
        (1, "0xcc", "A/B/C"), (2, "0xbb", None),
    }  # fmt: skip
    served.until(lambda: symbols(analytics_url) == wanted, f"pools: {wanted}", 45)
    assert differences(exchange.url, analytics_url) == []


def aside(analytics_url: str) -> set[str]:
    query = "SELECT trade_id FROM analytics.sync_log WHERE status <> 'processed'"
    return {str(key) for (key,) in execute(analytics_url, query)}


def test_what_the_operators_put_back_is_tried_again_within_seconds(
    served: Served, exchange: Exchange, analytics_url: str
) -> None:
    """By their own statement; nothing else is said."""
    execute(
        analytics_url, "ALTER TABLE analytics.tape ADD CONSTRAINT no CHECK (trade_id <> 'refused')"
    )
    exchange.trade("refused", 3)
    served.until(lambda: aside(analytics_url) == {"refused"}, "set aside", 30)
    execute(analytics_url, "ALTER TABLE analytics.tape DROP CONSTRAINT no")
    execute(
        analytics_url,
        "SET search_path = analytics; UPDATE quarantine SET failed_at = failed_at - interval '2 hours'; "
        "UPDATE sync_log SET status = 'pending', error_message = NULL "
        "WHERE status = 'error' AND processed_at < NOW() - INTERVAL '1 hour';",
    )
    served.until(lambda: not aside(analytics_url), "tried again", 30)
    becomes_true(served, exchange, analytics_url, 30)


def trade_below(exchange: Exchange) -> None:
    """All that can happen hours and days below the newest trade."""
    hour = 3600
    exchange.trade("hours late", 5 * hour + 7, chain=2)
    exchange.trade("before all others", 50 * hour)
    exchange.trade("below the newest minutes", 600)
    exchange.change("h30", "price = 1")
    exchange.change("h35", "quantity = 1000, side = NULL")
    exchange.remove("h36")
    exchange.remove("h2")
    exchange.move("h33", +20)
    exchange.move("h38", +12 * hour)
    exchange.move("n5", -15 * hour)


BY_HAND = (
    "UPDATE analytics.trades SET price = 1 WHERE trade_id IN ('h30', 'n30')",
    "DELETE FROM analytics.trades WHERE trade_id IN ('h35', 'n50')",
    "INSERT INTO analytics.trades (trade_id, time, chain_id, pool_id, side, price, quantity) "
    "SELECT 'forged ' || i, now() - i * interval '5 hours', 1, '0xaa', 'buy', 1, 1 FROM generate_series(1, 3) i",
    "INSERT INTO analytics.trades (trade_id, time, chain_id, pool_id, side, price, quantity) "
    "VALUES ('forged long ago', '2001-01-01Z', 1, '0xaa', 'buy', 1, 1)",
    "UPDATE analytics.candles_1m SET high = high + 1 WHERE bucket < now() - interval '12 hours'",
    "DELETE FROM analytics.candles_1m WHERE bucket > now() - interval '2 hours'",
    "UPDATE analytics.hourly_aggregations SET trades = 0 WHERE bucket < now() - interval '15 hours'",
    "DELETE FROM analytics.hourly_aggregations WHERE bucket > now() - interval '7 hours'",
    "UPDATE analytics.days SET quote_volume = 7 WHERE chain_id = 2",
    "DELETE FROM analytics.days WHERE chain_id = 1",
    "INSERT INTO analytics.days SELECT chain_id, pool_id, '1999-01-01Z', open, high, low, close, base_volume, "
    "quote_volume, buy_base_volume, trades, largest_trade, open_time, open_id, close_time, close_id "
    "FROM analytics.hourly_aggregations LIMIT 1",
    "DELETE FROM analytics.digests WHERE bucket < now() - interval '18 hours'",
)


def test_what_somebody_has_done_to_the_analytics_by_hand_is_healed_by_the_scrub(
    served: Served, exchange: Exchange, analytics_url: str
) -> None:
    for statement in BY_HAND:
        execute(analytics_url, statement)
    assert differences(exchange.url, analytics_url)
    becomes_true(served, exchange, analytics_url, 90, lambda: age(analytics_url, 31))
    assert served.post("/api/sync/verify")["complete"]


def test_what_happens_below_the_newest_trades_and_to_what_was_set_aside_is_found(
    served: Served, exchange: Exchange, analytics_url: str
) -> None:
    names = {f"{n}{w}" for n in ("mended", "gone") for w in ("", " old", " without a time")}
    for name in names:
        ago = 20 * 1800 if "old" in name else exchange.now if "without" in name else 2
        exchange.trade(name, ago, price="'NaN'")
    served.post("/api/sync/run")
    served.until(lambda: aside(analytics_url) == names, "set aside")
    for name in names:
        if name.startswith("gone"):
            exchange.remove(name)
        else:
            exchange.change(
                name, f'price = 9, "timestamp" = greatest("timestamp", {exchange.now} - 1)'
            )
    trade_below(exchange)
    becomes_true(served, exchange, analytics_url, 90, lambda: age(analytics_url, 31))
    served.until(lambda: not aside(analytics_url), "nothing is set aside any more")
    health = served.health()
    assert (health["missedTrades"], health["failedTrades"]) == (0, 0)
