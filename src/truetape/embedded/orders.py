"""What the demo exchange deals in: coins, orders, matches, and what happened in a block.

Amounts are raw integers as on chain: a price is in units of 10^-quote_decimals a whole base coin, a
quantity in units of 10^-base_decimals.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple


class Coin(NamedTuple):
    """What a pool trades. ``price`` in whole coins, ``volatility`` a year."""

    symbol: str
    base_decimals: int
    quote_decimals: int
    price: float
    volatility: float

    @property
    def base(self) -> str:
        return self.symbol.partition("/")[0]

    @property
    def quote(self) -> str:
        return self.symbol.partition("/")[2]


COINS = (
    Coin("WETH/USDC", 18, 6, 3_450.0, 0.7),
    Coin("WBTC/USDC", 8, 6, 97_000.0, 0.5),
    Coin("SOL/USDC", 9, 6, 182.0, 0.9),
    Coin("WBTC/WETH", 8, 18, 28.1, 0.4),
    Coin("LINK/USDC", 18, 6, 18.4, 0.9),
    Coin("ARB/USDC", 18, 6, 0.74, 1.1),
    Coin("UNI/WETH", 18, 18, 0.0031, 0.8),
    Coin("DOGE/USDC", 8, 6, 0.38, 1.2),
    Coin("AAVE/USDC", 18, 6, 305.0, 0.9),
    Coin("LDO/USDC", 18, 6, 1.62, 1.1),
    Coin("CRV/USDC", 18, 6, 0.81, 1.3),
    Coin("LINK/WETH", 18, 18, 0.0053, 0.7),
    Coin("OP/USDC", 18, 6, 1.71, 1.1),
    Coin("GMX/USDC", 18, 6, 24.9, 1.0),
    Coin("AAVE/WETH", 18, 18, 0.088, 0.7),
    Coin("MKR/USDC", 18, 6, 1_480.0, 0.8),
)


def address(name: str) -> str:
    """A lower-case address that stays the same over restarts and seeds."""
    return "0x" + blake2b(name.encode(), digest_size=20).hexdigest()


@dataclass(slots=True, eq=False)
class Order:
    """An order, resting or taking. ``status`` is as Ponder projects spell it."""

    id: str
    user: str
    side: str
    pool_id: str
    price: int
    quantity: int
    timestamp: int
    filled: int = 0
    status: str = "OPEN"

    @property
    def left(self) -> int:
        return self.quantity - self.filled

    def fill(self, quantity: int) -> None:
        self.filled += quantity
        self.status = "FILLED" if self.filled == self.quantity else "PARTIALLY_FILLED"


class Match(NamedTuple):
    """A trade between two orders; ``side`` is the taker's."""

    id: str
    transaction_id: str
    pool_id: str
    price: int
    quantity: int
    side: str
    timestamp: int
    buy_order: str
    sell_order: str


@dataclass
class Activity:
    """What happened in a block or a range of them: matches, new orders, older orders changed."""

    matches: list[Match] = field(default_factory=list)
    placed: dict[str, Order] = field(default_factory=dict)
    changed: dict[str, Order] = field(default_factory=dict)

    def touch(self, order: Order) -> None:
        if order.id not in self.placed:
            self.changed[order.id] = order
