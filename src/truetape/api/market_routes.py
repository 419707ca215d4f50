"""``/api/market``, ``/api/traders``, ``/api/trades``: what the rollups say, over HTTP."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from truetape.api import market
from truetape.api.faults import ANYWHERE, ApiError, Told, problems
from truetape.api.known import KnownParameters
from truetape.api.market import LAST_SECOND, Range, TapeQuery
from truetape.api.numbers import IN_DIGITS
from truetape.api.pools import one_pool
from truetape.store.apply import Connection
from truetape.sync.engine import Engine

LIMIT = 10_000
BIGGEST_CHAIN = 2**63 - 1

Text = Annotated[str | None, Query(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
Second = Annotated[int | None, Query(ge=0, le=LAST_SECOND), IN_DIGITS]
Limit = Annotated[int, Query(ge=1), IN_DIGITS]
ChainId = Annotated[int | None, Query(alias="chainId", ge=0, le=BIGGEST_CHAIN), IN_DIGITS]
PoolId = Annotated[
    str | None, Query(alias="poolId", min_length=1, max_length=4096, pattern=r"^[^\x00]+$")
]
UnitsName = Annotated[Literal["raw", "human"] | None, Query()]

Amount = Annotated[str, Field(pattern=r"^-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?$")]
"""A canonical decimal: no exponent, no trailing zeros."""
Units = Literal["raw", "human"]


class SymbolShown(BaseModel):
    """A pool: its last price, and the 24 hours before a minute."""

    symbol: str | None
    poolId: str
    chainId: int
    baseDecimals: int | None
    quoteDecimals: int | None
    units: Units
    lastPrice: Amount | None
    open24h: Amount | None
    high24h: Amount | None
    low24h: Amount | None
    change24h: float | None
    baseVolume24h: Amount
    quoteVolume24h: Amount
    trades24h: int
    uniqueTraders24h: int | None


class Candle(BaseModel):
    """``time`` is the start of the bucket, in Unix seconds."""

    time: int
    open: Amount
    high: Amount
    low: Amount
    close: Amount
    baseVolume: Amount
    quoteVolume: Amount
    trades: int
    buyBaseVolume: Amount


class Candles(BaseModel):
    units: Units
    candles: list[Candle]


class Day(Candle):
    uniqueTraders: int | None
    vwap: Amount | None
    largestTrade: Amount


class Days(BaseModel):
    units: Units
    candles: list[Day]


class TraderRanked(BaseModel):
    """``firstTrade`` and ``lastTrade`` are Unix seconds."""

    rank: int
    trader: str
    volume: Amount
    trades: int
    buyVolume: Amount
    sellVolume: Amount
    firstTrade: int
    lastTrade: int


class Leaderboard(BaseModel):
    quote: str | None
    units: Units
    traders: list[TraderRanked]


class TraderShown(TraderRanked):
    quote: str | None
    units: Units


class TradeShown(BaseModel):
    """A row of the tape; amounts are raw, ``time`` is a Unix second."""

    tradeId: str
    time: int
    chainId: int
    poolId: str
    symbol: str | None
    side: str | None
    price: Amount
    quantity: Amount
    volume: Amount
    transactionId: str | None
    buyer: str | None
    seller: str | None
    processedAt: str


class TapePage(BaseModel):
    trades: list[TradeShown]
    nextCursor: str | None


def _within(start: int | None, end: int | None, limit: int) -> Range:
    first, last = start or 0, LAST_SECOND if end is None else end
    if first > last:
        raise ApiError(400, f"from ({first}) must not be after to ({last}).")
    return Range(first, last, min(limit, LIMIT))


def _now(at: int | None) -> int:
    return int(time.time()) if at is None else at


def market_routes(engine: Engine) -> APIRouter:
    """The routes that read the market."""
    api = APIRouter(
        tags=["market"], responses=ANYWHERE | problems(400), route_class=KnownParameters
    )

    @asynccontextmanager
    async def reading() -> AsyncIterator[Connection]:
        async with engine.readers.connection(timeout=1.8) as conn:
            yield conn

    @api.get("/api/market/symbols", response_model=Told[list[SymbolShown]])
    async def symbols(at: Second = None, units: UnitsName = None) -> list[dict[str, Any]]:
        """Every pool with its last price and its last 24 hours."""
        async with reading() as conn:
            return await market.symbols(conn, _now(at), units)

    @api.get("/api/market/candles", response_model=Told[Candles], responses=problems(404, 409))
    async def candles(
        symbol: Text = None,
        pool_id: PoolId = None,
        chain_id: ChainId = None,
        interval: Literal["1m", "5m", "15m", "30m", "1h", "4h", "1d"] = "1m",
        start: Annotated[int | None, Query(alias="from", ge=0, le=LAST_SECOND), IN_DIGITS] = None,
        end: Annotated[int | None, Query(alias="to", ge=0, le=LAST_SECOND), IN_DIGITS] = None,
        limit: Limit = 500,
        units: UnitsName = None,
    ) -> dict[str, Any]:
        """Candles, ascending; empty buckets are left out, the newest ``limit`` are kept."""
        async with reading() as conn:
            pool = await one_pool(conn, symbol, pool_id, chain_id)
            return await market.candles(conn, pool, interval, _within(start, end, limit), units)

    @api.get("/api/market/daily", response_model=Told[Days], responses=problems(404, 409))
    async def daily(
        symbol: Text = None,
        pool_id: PoolId = None,
        chain_id: ChainId = None,
        start: Annotated[int | None, Query(alias="from", ge=0, le=LAST_SECOND), IN_DIGITS] = None,
        end: Annotated[int | None, Query(alias="to", ge=0, le=LAST_SECOND), IN_DIGITS] = None,
        limit: Limit = 500,
        units: UnitsName = None,
    ) -> dict[str, Any]:
        """UTC days, ascending."""
        async with reading() as conn:
            pool = await one_pool(conn, symbol, pool_id, chain_id)
            return await market.daily(conn, pool, _within(start, end, limit), units)

    @api.get("/api/traders/leaderboard", response_model=Told[Leaderboard], responses=problems(404))
    async def leaderboard(
        period: Literal["24h", "7d", "30d", "all"] = "24h",
        by: Literal["volume", "trades"] = "volume",
        quote: Text = None,
        limit: Limit = 500,
        at: Second = None,
    ) -> dict[str, Any]:
        """Traders by volume in a quote currency, or by trades."""
        async with reading() as conn:
            chosen = await market.choose_quote(conn, quote)
            end = _now(at) if at is not None or period != "all" else LAST_SECOND
            return await market.leaderboard(conn, period, by, chosen, end, min(limit, LIMIT))

    @api.get("/api/traders/{address}", response_model=Told[TraderShown], responses=problems(404))
    async def trader(address: str, quote: Text = None) -> dict[str, Any]:
        """What one trader did, all time, in a quote currency; the rank is by volume."""
        if "\x00" in address:
            raise ApiError(400, "An address holds no NUL.")
        async with reading() as conn:
            chosen = await market.choose_quote(conn, quote)
            found = await market.one_trader(conn, address, chosen)
        if found is None:
            within = f" with trades in {chosen}" if chosen else ""
            raise ApiError(404, f"No trader {address!r}{within} is known.")
        return found

    @api.get("/api/trades", response_model=Told[TapePage], responses=problems(404, 409))
    async def trades(
        symbol: Text = None,
        pool_id: PoolId = None,
        chain_id: ChainId = None,
        trader: Text = None,
        start: Annotated[int | None, Query(alias="from", ge=0, le=LAST_SECOND), IN_DIGITS] = None,
        end: Annotated[int | None, Query(alias="to", ge=0, le=LAST_SECOND), IN_DIGITS] = None,
        limit: Limit = 500,
        cursor: Text = None,
    ) -> dict[str, Any]:
        """The tape, newest first; amounts are raw. ``nextCursor`` leads on."""
        async with reading() as conn:
            named = symbol is not None or pool_id is not None
            pool = await one_pool(conn, symbol, pool_id, chain_id) if named else None
            asked = TapeQuery(_within(start, end, limit), pool, trader, cursor)
            return await market.trades(conn, asked)

    return api
