"""Naming a pool over HTTP: by symbol, or by pool and chain; never a guess between several."""

from dataclasses import dataclass
from decimal import Decimal

from truetape.api.faults import ApiError
from truetape.present import amount
from truetape.store.apply import Connection
from truetape.store.sqlfile import load

SQL = load("truetape.api", "market.sql")


@dataclass(frozen=True)
class Pool:
    """A pool; decimals are None where the source does not tell them."""

    chain_id: int
    pool_id: str
    symbol: str | None
    base_decimals: int | None
    quote_decimals: int | None

    @property
    def named(self) -> dict[str, object]:
        return {"symbol": self.symbol, "poolId": self.pool_id, "chainId": self.chain_id}


@dataclass(frozen=True)
class Units:
    """How amounts of a pool are written: the source's integers, or divided by its decimals."""

    name: str
    base: int = 0
    quote: int = 0

    def price(self, value: Decimal | None) -> str | None:
        return amount(value, self.quote)

    def quantity(self, value: Decimal | None) -> str | None:
        return amount(value, self.base)

    def volume(self, value: Decimal | None) -> str | None:
        return amount(value, self.base + self.quote)


def units_of(pool: Pool, wanted: str | None) -> Units:
    """``raw``, ``human``, or what can be had: human where the decimals are known."""
    known = pool.base_decimals is not None and pool.quote_decimals is not None
    if wanted == "human" and not known:
        raise ApiError(
            400, f"The decimals of pool {pool.pool_id} are not known; ask for units=raw."
        )
    if wanted == "raw" or not known:
        return Units("raw")
    return Units("human", pool.base_decimals or 0, pool.quote_decimals or 0)


async def all_pools(
    conn: Connection,
    *,
    symbol: str | None = None,
    pool_id: str | None = None,
    chain_id: int | None = None,
) -> list[Pool]:
    values = {"symbol": symbol, "pool_id": pool_id, "chain_id": chain_id}
    return [Pool(*row) for row in await (await conn.execute(SQL["pools"], values)).fetchall()]


async def one_pool(
    conn: Connection, symbol: str | None, pool_id: str | None, chain_id: int | None
) -> Pool:
    """The one pool that is meant. 400 when none is named, 404 when unknown, 409 when several are."""
    if symbol is None and pool_id is None:
        raise ApiError(400, "Name a pool: symbol=WETH/USDC, or poolId=0x… (and chainId=1).")
    found = await all_pools(conn, symbol=symbol, pool_id=pool_id, chain_id=chain_id)
    said = {"symbol": symbol, "poolId": pool_id, "chainId": chain_id}
    named = " and ".join(f"{name} {value}" for name, value in said.items() if value is not None)
    if not found:
        raise ApiError(404, f"No pool of {named} is known; GET /api/market/symbols lists them.")
    if len(found) > 1:
        raise ApiError(
            409, f"{len(found)} pools are meant by {named}; say poolId and chainId.",
            [pool.named for pool in found],
        )  # fmt: skip
    return found[0]
