"""The demo market: believable enough that nobody's eye or index is fooled by toy data."""

from collections import Counter
from itertools import pairwise
from statistics import correlation, mean, median

import pytest

from truetape.embedded.market import BOOK_DEPTH, Market, daily_shape
from truetape.embedded.orders import COINS, Activity, Match, Order

DAY = 86_400
START = 1_790_000_000 // DAY * DAY
POOLS = 8


def trade_for_days(days: int, seed: int = 11, chain_id: int = 1) -> tuple[Market, Activity]:
    market, activity = Market(seed, chain_id, pools=POOLS, traders=300), Activity()
    for hour in range(24 * days):
        start = START + hour * 3600
        weight = daily_shape(start + 1800) / 24
        market.trade_span(activity, hour, start, start + 3600, 8_000 * weight, 1.0)
    return market, activity


@pytest.fixture(scope="module")
def traded() -> tuple[Market, Activity]:
    return trade_for_days(3)


@pytest.fixture(scope="module")
def market(traded: tuple[Market, Activity]) -> Market:
    return traded[0]


@pytest.fixture(scope="module")
def activity(traded: tuple[Market, Activity]) -> Activity:
    return traded[1]


def of_head_pool(market: Market, activity: Activity) -> list[Match]:
    return [m for m in activity.matches if m.pool_id == market.pools[0].id]


def test_the_same_seed_tells_the_same_story() -> None:
    assert trade_for_days(1)[1].matches == trade_for_days(1)[1].matches


def test_another_seed_or_chain_tells_another() -> None:
    first, seed, chain = (
        {m.id for m in trade_for_days(1, *who)[1].matches} for who in ((1, 1), (2, 1), (1, 2))
    )
    assert not first & seed and not first & chain


def test_a_block_does_not_depend_on_how_often_the_process_was_started() -> None:
    """Two markets that resume the same books make the same next block."""
    blocks = []
    for _ in range(2):
        market, activity = Market(5, 1, pools=2, traders=20), Activity()
        market.resume({market.pools[0].id: 3_000_000_000}, [])
        market.trade_block(activity, 77, START, 50)
        blocks.append(activity.matches)
    assert blocks[0] == blocks[1] != []


def test_amounts_are_positive_integers_on_the_grid_of_the_pool(
    market: Market, activity: Activity
) -> None:
    grids = {pool.id: (pool.tick, pool.lot) for pool in market.pools}
    for match in activity.matches:
        tick, lot = grids[match.pool_id]
        assert match.price > 0 and match.price % tick == 0
        assert match.quantity > 0 and match.quantity % lot == 0


def test_ids_look_like_those_of_a_chain(activity: Activity) -> None:
    for match in activity.matches[:500]:
        transaction, _, log_index = match.id.partition("-")
        assert transaction == match.transaction_id and len(transaction) == 66
        assert log_index.isdecimal() and match.pool_id == match.pool_id.lower()
        assert len(match.pool_id) == 42
    assert len({m.id for m in activity.matches}) == len(activity.matches)


def test_candles_are_plausible(market: Market, activity: Activity) -> None:
    hours: dict[int, list[int]] = {}
    for match in of_head_pool(market, activity):
        hours.setdefault(match.timestamp // 3600, []).append(match.price)
    assert len(hours) == 72
    for prices in hours.values():
        assert 1 < max(prices) / min(prices) < 1.2
    for before, after in pairwise(hours[h] for h in sorted(hours)):
        assert abs(after[0] / before[-1] - 1) < 0.05
    start = COINS[0].price * 10 ** COINS[0].quote_decimals
    assert all(0.5 * start < p < 2 * start for prices in hours.values() for p in prices)


def test_volatility_comes_in_clusters() -> None:
    market, activity = trade_for_days(6)
    closes = {m.timestamp // 900: m.price for m in of_head_pool(market, activity)}
    moves = [abs(b / a - 1) for a, b in pairwise(closes[q] for q in sorted(closes))]
    assert correlation(moves[:-1], moves[1:]) > 0.1


def test_a_day_is_livelier_at_its_ends_than_at_noon(activity: Activity) -> None:
    assert mean(daily_shape(s) for s in range(0, DAY, 60)) == pytest.approx(1, abs=0.01)
    hours = Counter(m.timestamp % DAY // 3600 for m in activity.matches)
    assert hours[23] + hours[0] > 2 * (hours[11] + hours[12])


def test_a_few_pools_and_traders_make_most_of_it(market: Market, activity: Activity) -> None:
    pools = Counter(m.pool_id for m in activity.matches)
    ranked = [pools[pool.id] for pool in market.pools]
    assert ranked[0] > 0.3 * len(activity.matches) and ranked[-1] > 100
    users = Counter(
        activity.placed[order].user
        for m in activity.matches
        for order in (m.buy_order, m.sell_order)
    )
    counts = sorted(users.values(), reverse=True)
    assert len(counts) > 250
    assert counts[0] > 20 * median(counts)
    assert sum(counts[:30]) > 0.5 * sum(counts)


def test_trade_sizes_have_a_long_tail(market: Market, activity: Activity) -> None:
    sizes = sorted(m.quantity for m in of_head_pool(market, activity))
    assert mean(sizes) > 1.3 * median(sizes)
    assert sizes[-1] > 20 * median(sizes)


def test_one_taker_may_fill_several_makers(activity: Activity) -> None:
    fills = Counter(m.transaction_id for m in activity.matches)
    assert 0.2 < sum(n > 1 for n in fills.values()) / len(fills) < 0.6


def test_matches_that_differ_by_id_alone_do_occur(activity: Activity) -> None:
    keys = Counter((m.transaction_id, m.pool_id, m.price, m.quantity) for m in activity.matches)
    assert 0.005 < sum(n > 1 for n in keys.values()) / len(activity.matches) < 0.1


def test_now_and_then_somebody_trades_with_himself(activity: Activity) -> None:
    orders = activity.placed
    own = sum(orders[m.buy_order].user == orders[m.sell_order].user for m in activity.matches)
    assert 0 < own < 0.02 * len(activity.matches)


def test_orders_agree_with_their_fills(activity: Activity) -> None:
    filled: Counter[str] = Counter()
    for match in activity.matches:
        filled.update({match.buy_order: match.quantity, match.sell_order: match.quantity})
        buy, sell = activity.placed[match.buy_order], activity.placed[match.sell_order]
        assert (buy.side, sell.side) == ("Buy", "Sell")
        assert sell.price <= match.price <= buy.price
    for order in activity.placed.values():
        assert order.filled == filled[order.id] <= order.quantity
        assert (order.status == "FILLED") == (order.filled == order.quantity)


def test_books_are_bounded_and_sorted_and_hold_only_open_orders(market: Market) -> None:
    for pool in market.pools:
        bids, asks = pool.books["Buy"], pool.books["Sell"]
        assert [o.price for o in bids] == sorted((o.price for o in bids), reverse=True)
        assert [o.price for o in asks] == sorted(o.price for o in asks)
        for order in bids + asks:
            assert order.left > 0 and order.status in ("OPEN", "PARTIALLY_FILLED")
        assert max(len(bids), len(asks)) <= BOOK_DEPTH


def test_the_rate_is_held_in_the_long_run() -> None:
    market, activity = Market(3, 1, pools=POOLS, traders=300), Activity()
    for block in range(500):
        market.trade_block(activity, block, START + block, 20.0)
    assert len(activity.matches) == pytest.approx(10_000, rel=0.03)


def test_a_rate_below_one_a_block_leaves_blocks_empty_but_is_held() -> None:
    market, activity = Market(3, 1, pools=POOLS, traders=300), Activity()
    for block in range(20_000):
        market.trade_block(activity, block, START + block, 0.1)
    assert len(activity.matches) == pytest.approx(2_000, rel=0.05)


def test_trades_of_slow_blocks_share_the_second_of_their_block() -> None:
    market, activity = Market(3, 1, pools=2, traders=20, block_time=12.0), Activity()
    market.trade_span(activity, 1, START, START + 3600, 500, 1.0)
    assert {(m.timestamp - START) % 12 for m in activity.matches} == {0}


def test_an_order_that_changes_later_is_told_apart_from_a_new_one() -> None:
    market, first, second = Market(3, 1, pools=1, traders=20), Activity(), Activity()
    market.trade_span(first, 1, START, START + 60, 100, 1.0)
    resting = {o.id for book in market.pools[0].books.values() for o in book}
    market.trade_span(second, 61, START + 60, START + 120, 200, 1.0)
    assert second.changed and set(second.changed) <= resting
    assert not set(second.changed) & set(second.placed)


def test_a_clock_that_goes_back_stops_nothing() -> None:
    market, activity = Market(3, 1, pools=1, traders=20), Activity()
    market.trade_block(activity, 1, START, 10)
    market.trade_block(activity, 2, START - 100, 10)
    assert all(isinstance(o, Order) and o.price > 0 for o in activity.placed.values())
