"""Rollups by themselves: traders reckoned up for many trades and for few, side by side; candles whose plan does
not depend on what is known of the tape."""

from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetape.store.rollups import MINUTES, TRADER_DAYS, TRADER_HOURS

BASE = 1754400000 // 86_400 * 86_400
TRADERS = st.sampled_from((None, "a", "b", "Ünï"))
AMOUNTS = st.one_of(
    st.integers(0, 10**30).map(Decimal), st.decimals(0, 10**12, places=9, allow_nan=False)
)
TRADE = st.tuples(
    # The first and last seconds of hours and days.
    st.sampled_from((0, 1, 3599, 3600, 7200, 86_399, 86_400)),
    st.sampled_from((1, 137)),
    st.sampled_from(("p", "q")),
    AMOUNTS,
    AMOUNTS,
    TRADERS,
    TRADERS,
)
MAKE = """
CREATE TEMP TABLE few (id integer, time timestamptz, chain_id bigint, pool_id text COLLATE "C", price numeric,
    quantity numeric, buyer text COLLATE "C", seller text COLLATE "C")
"""
ADD = "INSERT INTO few VALUES (%s, to_timestamp(%s), %s, %s, %s, %s, %s, %s)"


def rows(conn: psycopg.Connection, query: str) -> list[str]:
    """As text: numbers that are equal and have other digits are told apart, as digests of them would be."""
    return [row[0] for row in conn.execute(f"SELECT r::text FROM ({query}) r ORDER BY 1".encode())]


@pytest.fixture
def conn(analytics_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(analytics_url, autocommit=True) as conn:
        conn.execute(MAKE)
        yield conn


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trades=st.lists(TRADE, max_size=12))
def test_few_trades_come_out_as_many_would(
    conn: psycopg.Connection, trades: list[tuple[int, int, str, Decimal, Decimal, str, str]]
) -> None:
    conn.execute("TRUNCATE few")
    with conn.cursor() as cursor:
        cursor.executemany(
            ADD, [(n, BASE + second, *more) for n, (second, *more) in enumerate(trades)]
        )
    few = "SELECT * FROM few"
    hours = TRADER_HOURS.compute(few)
    assert rows(conn, TRADER_HOURS.compute_few(few)) == rows(conn, hours)
    assert rows(conn, TRADER_DAYS.compute_few(hours)) == rows(conn, TRADER_DAYS.compute(hours))
    assert bool(rows(conn, hours)) == any(buyer or seller for *_, buyer, seller in trades)


def test_the_prices_of_a_candle_are_looked_up_by_key_whatever_else_would_look_cheaper(
    conn: psycopg.Connection,
) -> None:
    """Of a large tape that was never analyzed each slice read all of it, so a catch-up was quadratic."""
    conn.execute(  # A hypertable without a chunk needs no plan.
        "INSERT INTO analytics.tape (trade_id, time, chain_id, pool_id, price, quantity) "
        "VALUES ('t', '2025-08-05 00:30Z', 1, 'p', 1, 1)"
    )
    for other in ("nestloop", "seqscan", "bitmapscan"):
        conn.execute(f"SET enable_{other} = off".encode())
    range_ = {"from": "2025-08-05 00:00Z", "to": "2025-08-05 01:00Z"}
    plan = "\n".join(
        row[0] for row in conn.execute(b"EXPLAIN " + MINUTES.of_range.encode(), range_)
    )
    assert plan.count('Index Cond: (("time" = ') == 2, plan
