"""The demo market: an order book a pool, moved by a random walk and by takers who sweep it.

No database in here. All that happens in a block follows from the seed, the chain, the block number
and the books before it.
"""

import math
from bisect import bisect, insort
from collections.abc import Iterable, Mapping
from itertools import accumulate
from random import Random

from truetape.embedded.orders import COINS, Activity, Coin, Match, Order, address

HALF_SPREAD = 1.5e-4
STEP = 2e-4
"""Mean distance of a quote behind the half spread, as a share of the price."""
IMPACT = 1e-5
"""How far a fill pushes the price."""
BOOK_DEPTH = 12
FILLS_MAX = 8
FILLS_PER_TAKER = 1.75
"""About what a taker order fills; paces a span, and need not be exact."""
TWINS = 0.04
"""Share of new quotes that are two alike: same price and quantity, filled in one transaction."""
CLUSTER_SECONDS = 2700.0
CLUSTER_STRENGTH = 0.5
SECONDS_PER_YEAR = 31_557_600.0
MEDIAN_TRADE = {"USDC": 60.0, "WETH": 0.018}
"""In whole coins of the quote currency."""


def daily_shape(second: int) -> float:
    """Intensity over the day, mean 1: three times as lively at midnight UTC as at noon."""
    from_noon = (second % 86_400) / 43_200 - 1
    return 0.6 + 1.2 * from_noon * from_noon


class Pool:
    """A coin's price and its two books, best order first."""

    def __init__(self, coin: Coin, price: float) -> None:
        self.coin = coin
        self.id = address(f"order book {coin.symbol}")
        raw = coin.price * 10**coin.quote_decimals
        median = MEDIAN_TRADE[coin.quote]
        self.tick: int = 10 ** max(0, math.floor(math.log10(raw)) - 4)
        base_units = median / coin.price * 10**coin.base_decimals
        self.lot: int = 10 ** max(0, math.floor(math.log10(base_units)) - 3)
        self.median_lots: float = base_units / self.lot
        self.price: float = price * 10**coin.quote_decimals
        self.moved_at = 0.0
        self.heat = 0.0
        self.books: dict[str, list[Order]] = {"Buy": [], "Sell": []}

    def drift(self, at: float, random: Random) -> None:
        """Random walk whose volatility is itself a slow (Ornstein-Uhlenbeck) walk: it clusters."""
        elapsed = max(0.0, at - self.moved_at) if self.moved_at else 0.0
        self.moved_at = at
        keep = math.exp(-elapsed / CLUSTER_SECONDS)
        noise = CLUSTER_STRENGTH * math.sqrt(1 - keep * keep)
        self.heat = keep * self.heat + noise * random.gauss()
        deviation = self.coin.volatility * math.sqrt(elapsed / SECONDS_PER_YEAR)
        self.price *= math.exp(deviation * math.exp(self.heat) * random.gauss())

    def ticks(self, share: float) -> int:
        """The price this share away from the present one, on the tick and away from the middle."""
        raw = self.price * (1 + share) / self.tick
        return max(1, math.ceil(raw) if share > 0 else math.floor(raw)) * self.tick


class Market:
    """The pools of one chain and those who trade there, both by a power law."""

    def __init__(
        self, seed: int, chain_id: int, *, pools: int, traders: int, block_time: float = 1.0
    ) -> None:
        self._seed = f"{seed}:{chain_id}"
        self._random = Random(self._seed)
        self.pools = [
            Pool(coin, coin.price * math.exp(self._random.gauss(0, 0.03))) for coin in COINS[:pools]
        ]
        self._pool_weights = _power_law(pools, 1.2)
        self._users = [address(f"trader {n}") for n in range(traders)]
        self._user_weights = _power_law(traders, 1.1)
        self._block_time = block_time
        self._owed = 0.0
        self._size = 1.0

    def resume(self, prices: Mapping[str, int], resting: Iterable[Order]) -> None:
        """Takes up the state of another run: last price of each pool, orders still open."""
        by_id = {pool.id: pool for pool in self.pools}
        for pool_id, price in prices.items():
            if pool_id in by_id:
                by_id[pool_id].price = float(price)
        for order in resting:
            if order.pool_id in by_id:
                self._rest(by_id[order.pool_id], order)

    def trade_block(self, into: Activity, block: int, second: int, matches: float) -> None:
        """A block in real time, about ``matches`` in the long run: some blocks are livelier."""
        self._random.seed(f"{self._seed}:{block}")
        self._trade(into, second, second + 1, matches * self._random.gammavariate(16, 1 / 16))

    def trade_span(
        self, into: Activity, block: int, start: int, end: int, matches: float, size: float
    ) -> None:
        """Trades through [start, end) Unix seconds at once; ``block`` is the first of the span.

        ``size`` scales the amounts: fewer but larger trades make the same volume.
        """
        self._random.seed(f"{self._seed}:{block}")
        self._size = size
        self._trade(into, start, end, matches)
        self._size = 1.0

    def _trade(self, into: Activity, start: int, end: int, matches: float) -> None:
        """What does not fit into the time is owed to the next, and what is too much taken off."""
        self._owed += matches
        at = float(start)
        while self._owed > 0:
            pace = min(1.0, FILLS_PER_TAKER / self._owed)
            at += self._random.expovariate(1) * (end - at) * pace
            if at >= end:
                break
            blocks = int((at - start) / self._block_time)
            self._owed -= self._take(into, at, start + int(blocks * self._block_time))

    def _take(self, into: Activity, at: float, second: int) -> int:
        """One taker order, in the block of ``second``; the number of orders it filled."""
        random = self._random
        pool = self.pools[self._draw(self._pool_weights)]
        pool.drift(at, random)
        side, sign = ("Buy", 1) if random.random() < 0.5 else ("Sell", -1)
        user = self._users[self._draw(self._user_weights)]
        limit, quantity = pool.ticks(sign * 0.005), self._quantity(pool)
        taker = self._place(into, pool, side, user, limit, quantity, second)
        fills = self._sweep(into, pool, taker)
        pool.price *= 1 + sign * IMPACT * fills
        if random.random() < 0.3:
            self._quote(into, pool, random.choice(("Buy", "Sell")), second)
        for book in pool.books.values():
            while len(book) > BOOK_DEPTH:
                self._cancel(into, book.pop())
        return fills

    def _sweep(self, into: Activity, pool: Pool, taker: Order) -> int:
        """Fills the taker from the best maker on, in one transaction; the rest is cancelled."""
        buying = taker.side == "Buy"
        transaction, log_index = self._hash(), self._random.randrange(300)
        fills, price = 0, pool.ticks(HALF_SPREAD if buying else -HALF_SPREAD)
        while taker.left and fills < FILLS_MAX:
            maker = self._best_maker(into, pool, taker, price)
            if (maker.price > taker.price) if buying else (maker.price < taker.price):
                break
            price, amount = maker.price, min(taker.left, maker.left)
            for order in (taker, maker):
                order.fill(amount)
                into.touch(order)
            if not maker.left:
                pool.books[maker.side].pop(0)
            buy, sell = (taker.id, maker.id) if buying else (maker.id, taker.id)
            key = (f"{transaction}-{log_index}", transaction, pool.id)
            into.matches.append(Match(*key, price, amount, taker.side, taker.timestamp, buy, sell))
            log_index += self._random.randrange(3, 7)
            fills += 1
        if taker.left:
            self._cancel(into, taker)
        return fills

    def _best_maker(self, into: Activity, pool: Pool, taker: Order, reached: int) -> Order:
        """The best order against the taker: one that rests, or a new one quoted before it.

        ``reached``: a sweep only gets worse, so no new quote is better than this price.
        """
        side, sign = ("Sell", 1) if taker.side == "Buy" else ("Buy", -1)
        book = pool.books[side]
        while book and sign * (book[0].price - pool.price) < 0:
            self._cancel(into, book.pop(0))  # the price has passed it
        price = pool.ticks(sign * (HALF_SPREAD + STEP * self._random.expovariate(1)))
        price = sign * max(sign * price, sign * reached)
        if book and sign * book[0].price <= sign * price:
            return book[0]
        half = taker.left // 2 // pool.lot * pool.lot
        twins = half > 0 and self._random.random() < TWINS
        for _ in range(2 if twins else 1):
            quantity = half if twins else self._quantity(pool, 1.5)
            order = self._place(into, pool, side, self._maker(), price, quantity, taker.timestamp)
            self._rest(pool, order)
        return book[0]

    def _quote(self, into: Activity, pool: Pool, side: str, second: int) -> None:
        """A maker adds depth."""
        sign = 1 if side == "Sell" else -1
        price = pool.ticks(sign * (HALF_SPREAD + 5 * STEP * self._random.expovariate(1)))
        quantity = self._quantity(pool, 1.5)
        self._rest(pool, self._place(into, pool, side, self._maker(), price, quantity, second))

    def _place(
        self, into: Activity, pool: Pool, side: str, user: str, price: int, quantity: int, at: int
    ) -> Order:
        order = Order(self._hash(), user, side, pool.id, price, quantity, at)
        into.placed[order.id] = order
        return order

    def _rest(self, pool: Pool, order: Order) -> None:
        """Into the book by price, then by time."""
        sign = 1 if order.side == "Sell" else -1
        insort(pool.books[order.side], order, key=lambda resting: sign * resting.price)

    def _cancel(self, into: Activity, order: Order) -> None:
        order.status = "CANCELLED"
        into.touch(order)

    def _quantity(self, pool: Pool, times: float = 1.0) -> int:
        """Log-normal, in whole lots."""
        lots = pool.median_lots * times * self._size * self._random.lognormvariate(0, 1.1)
        return max(1, round(lots)) * pool.lot

    def _maker(self) -> str:
        # The busiest makers are not the busiest takers: trades with oneself are rare, not absent.
        users = self._users
        return users[(self._draw(self._user_weights) + len(users) // 2) % len(users)]

    def _draw(self, weights: list[float]) -> int:
        return bisect(weights, self._random.random())

    def _hash(self) -> str:
        return f"0x{self._random.getrandbits(256):064x}"


def _power_law(count: int, exponent: float) -> list[float]:
    """Cumulated shares of ranks 1 to ``count``; the last is unbounded, so every draw hits."""
    shares = list(accumulate((rank + 1) ** -exponent for rank in range(count)))
    return [share / shares[-1] for share in shares[:-1]] + [math.inf]
