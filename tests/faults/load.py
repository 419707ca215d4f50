"""A market that goes on whatever happens to those who watch it."""

import random
import threading
import time
from types import TracebackType
from typing import Self

import psycopg
from test_sync import POOL, execute

TICK_SECONDS = 0.03
FIRST_SECONDS = 1800
"""How far back the history begins: all of it can still change."""

TRADE = """
INSERT INTO order_book_trades VALUES (%(id)s, extract(epoch FROM now())::int - %(age)s, %(price)s,
    %(quantity)s, %(pool)s, %(side)s, '0x' || %(id)s)
"""
CHANGE = "UPDATE order_book_trades SET price = %(price)s WHERE id = %(id)s"
VANISH = "DELETE FROM order_book_trades WHERE id = %(id)s"
MEND = "UPDATE order_book_trades SET price = 9 WHERE price = 'NaN'"


def add_history(source_url: str, trades: int) -> None:
    """So many trades of the last half hour, and their pools."""
    execute(
        source_url,
        f"INSERT INTO pools VALUES ('{POOL}', 'WETH/USDC'); INSERT INTO order_book_trades "
        f"SELECT 'h' || i, extract(epoch FROM now())::int - 1 - i * {FIRST_SECONDS} / {trades}, "
        f"100 + i % 17, 1 + i % 7, CASE WHEN i % 3 = 0 THEN 'other' ELSE '{POOL}' END, "
        f"CASE WHEN i % 2 = 0 THEN 'buy' ELSE 'Sell' END, 'h' FROM generate_series(1, {trades}) i",
    )


class Load:
    """Trades that come, change, vanish, come late, or cannot be processed at first."""

    def __init__(self, source_url: str) -> None:
        self.seed = random.randrange(2**32)
        print(f"load seed {self.seed}")
        self._random = random.Random(self.seed)
        self._url = source_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self._ids: list[str] = []

    @property
    def trades(self) -> int:
        """How many have come so far, at least."""
        return len(self._ids)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            execute(self._url, MEND)

    def grow(self, trades: int, seconds: float = 30) -> None:
        """Waits until so many more have come."""
        wanted, deadline = self.trades + trades, time.monotonic() + seconds
        while self.trades < wanted:
            assert time.monotonic() < deadline, "the market stands still"
            time.sleep(TICK_SECONDS)

    def _go_on(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=2) as conn:
                    while not self._stop.wait(TICK_SECONDS):
                        self._tick(conn)
            except psycopg.Error:
                self._stop.wait(TICK_SECONDS)  # its server is away

    def _tick(self, conn: psycopg.Connection) -> None:
        draw = self._random
        with conn.transaction():
            conn.execute(MEND)
            for _ in range(draw.randrange(1, 6)):
                self._ids.append(f"{self.seed}-{len(self._ids)}")
                age = draw.randrange(100) if draw.random() < 0.05 else draw.randrange(2)
                price = "NaN" if draw.random() < 0.01 else draw.randrange(1, 10**9)
                values = {
                    "id": self._ids[-1], "age": age, "price": price, "pool": POOL,
                    "quantity": draw.randrange(1, 10**18), "side": draw.choice(("buy", "Sell")),
                }  # fmt: skip
                conn.execute(TRADE, values)
        if draw.random() < 0.2:
            conn.execute(CHANGE, {"id": self._recent(), "price": draw.randrange(1, 10**9)})
        # Not many at once while nobody follows: those would be held for a person to accept.
        if draw.random() < 0.03:
            conn.execute(VANISH, {"id": self._recent()})

    def _recent(self) -> str:
        return self._random.choice(self._ids[-500:])
