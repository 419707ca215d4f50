"""What the market did: candles, days, symbols, traders and the tape, out of the rollups."""

import base64
import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from truetape.api.faults import ApiError
from truetape.api.pools import SQL, Pool, all_pools, units_of
from truetape.present import EXACT, amount, iso
from truetape.store.apply import Connection
from truetape.trade import DAY, HOUR, MINUTE

LAST_SECOND = 32_503_680_000
"""The year 3000: beyond it no bound of ours needs to go."""

INTERVALS = {
    "1m": ("candles_1m", MINUTE, 1),
    "5m": ("candles_1m", 5 * MINUTE, 5),
    "15m": ("candles_1m", 15 * MINUTE, 15),
    "30m": ("candles_1m", 30 * MINUTE, 30),
    "1h": ("hourly_aggregations", HOUR, 1),
    "4h": ("hourly_aggregations", 4 * HOUR, 4),
    "1d": ("days", DAY, 1),
}

PERIODS = {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "all": None}

FIRST_SPANS = 4


@dataclass(frozen=True)
class Range:
    """[start, end) in Unix seconds, and how many rows at the most."""

    start: int
    end: int
    limit: int

    @property
    def values(self) -> dict[str, Any]:
        return {"from": _at(self.start), "to": _at(self.end), "limit": self.limit}


def _at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


async def candles(
    conn: Connection, pool: Pool, interval: str, within: Range, wanted: str | None
) -> dict[str, Any]:
    table, seconds, finer = INTERVALS[interval]
    start = -(-within.start // seconds) * seconds
    end = -(-within.end // seconds) * seconds
    query = SQL["candles"].format(table=table, width=f"{seconds} seconds", limit="limit")
    # Each wider bucket holds at most ``finer`` of the table's, and the newest may be cut short.
    values = Range(start, end, within.limit).values | {
        "chain_id": pool.chain_id, "pool_id": pool.pool_id,
        "finer_limit": (within.limit + 1) * finer,
    }  # fmt: skip
    units = units_of(pool, wanted)
    rows = await (await conn.execute(query, values)).fetchall() if start < end else []
    return {"units": units.name, "candles": [
        {"time": r[0], "open": units.price(r[1]), "high": units.price(r[2]), "low": units.price(r[3]),
         "close": units.price(r[4]), "baseVolume": units.quantity(r[5]),
         "quoteVolume": units.volume(r[6]), "trades": r[7], "buyBaseVolume": units.quantity(r[8])}
        for r in rows
    ]}  # fmt: skip


async def daily(conn: Connection, pool: Pool, within: Range, wanted: str | None) -> dict[str, Any]:
    """Days, with distinct traders, the volume-weighted average price (18 places) and the largest
    trade by quote value."""
    units = units_of(pool, wanted)
    start = -(-within.start // DAY) * DAY
    values = Range(start, max(within.end, start), within.limit).values
    values |= {"chain_id": pool.chain_id, "pool_id": pool.pool_id}
    rows = await (await conn.execute(SQL["daily"], values)).fetchall()
    return {"units": units.name, "candles": [
        {"time": r[0], "open": units.price(r[1]), "high": units.price(r[2]), "low": units.price(r[3]),
         "close": units.price(r[4]), "baseVolume": units.quantity(r[5]),
         "quoteVolume": units.volume(r[6]), "trades": r[7], "buyBaseVolume": units.quantity(r[8]),
         "uniqueTraders": r[9], "vwap": units.price(r[10]), "largestTrade": units.volume(r[11])}
        for r in rows
    ]}  # fmt: skip


async def symbols(conn: Connection, at: int, wanted: str | None) -> list[dict[str, Any]]:
    """Every pool over the 24 hours before ``at``, which is floored to the minute."""
    end = _at(at // MINUTE * MINUTE)
    pools = await all_pools(conn)
    rows = await (await conn.execute(SQL["symbols"], {
        "from": end - timedelta(days=1), "to": end,
        "chains": [p.chain_id for p in pools], "pools": [p.pool_id for p in pools],
    })).fetchall()  # fmt: skip
    found = {(r[0], r[1]): r[2:] for r in rows}
    listed = []
    for pool in pools:
        opened, high, low, last, change, base, quote, trades, traders = found[
            pool.chain_id, pool.pool_id
        ]
        units = units_of(pool, wanted)
        listed.append(pool.named | {
            "baseDecimals": pool.base_decimals, "quoteDecimals": pool.quote_decimals,
            "units": units.name, "lastPrice": units.price(last), "open24h": units.price(opened),
            "high24h": units.price(high), "low24h": units.price(low),
            "change24h": None if change is None else float(change),
            "baseVolume24h": units.quantity(base), "quoteVolume24h": units.volume(quote),
            "trades24h": trades, "uniqueTraders24h": traders,
        })  # fmt: skip
    return listed


async def choose_quote(conn: Connection, quote: str | None) -> str | None:
    """The quote currency that is meant; None where no symbol is known."""
    there = [r[0] for r in await (await conn.execute(SQL["quotes"], {})).fetchall()]
    if quote is None and len(there) > 1:
        raise ApiError(
            400, "Volumes are per quote currency: say quote=, one of those listed.", there
        )
    if quote is not None and quote not in there:
        raise ApiError(404, f"No symbol is quoted in {quote!r}.", there)
    return quote or (there[0] if there else None)


async def leaderboard(
    conn: Connection, period: str, by: str, quote: str | None, at: int, limit: int,
    trader: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Traders by volume or trades. Periods are counted by the whole hours (24h) or UTC days (7d, 30d)
    that they touch; volumes are in one quote currency, human where all its decimals are known."""
    seconds = PERIODS[period]
    table, step = ("trader_hours", HOUR) if seconds == DAY else ("trader_days", DAY)
    start = None if seconds is None else _at((at - seconds) // step * step)
    human = False
    if quote is not None:
        row = await (await conn.execute(SQL["decimals_known"], {"quote": quote})).fetchone()
        human = bool(row and row[0])
    scale = " * ('1e-' || (p.base_decimals + p.quote_decimals))::numeric" if human else ""
    block = "leaderboard" if quote is not None else "leaderboard_without_symbols"
    query = SQL[block].format(
        table=table, by="volume" if by == "volume" else "trades",
        volume=f"sum(quote_volume{scale})", buys=f"sum(buy_quote_volume{scale})",
    )  # fmt: skip
    rows = await (await conn.execute(query, {
        "quote": quote, "trader": trader, "from": start, "to": _at(at), "limit": limit,
    })).fetchall()  # fmt: skip
    return {"quote": quote, "units": "human" if human else "raw", "traders": [
        {"rank": r[0], "trader": r[1], "volume": amount(r[2]), "trades": r[3],
         "buyVolume": amount(r[4]), "sellVolume": amount(EXACT.subtract(r[2], r[4])),
         "firstTrade": r[5], "lastTrade": r[6]}
        for r in rows
    ]}  # fmt: skip


async def one_trader(conn: Connection, address: str, quote: str | None) -> dict[str, Any] | None:
    """A trader's all-time figures in one quote currency, with its rank among all by volume; None
    where it has none."""
    board = await leaderboard(conn, "all", "volume", quote, LAST_SECOND, 1, trader=address)
    if not board["traders"]:
        return None
    ahead = await (
        await conn.execute(SQL["traders_ahead"], {"quote": quote, "trader": address})
    ).fetchone()
    rank = int(ahead[0]) + 1 if ahead else None
    found: dict[str, Any] = board["traders"][0]
    return found | {"rank": rank, "quote": quote, "units": board["units"]}


@dataclass(frozen=True)
class TapeQuery:
    """Which trades are asked for."""

    within: Range
    pool: Pool | None
    trader: str | None
    cursor: str | None


def _read_cursor(cursor: str | None) -> tuple[datetime | None, str | None]:
    if cursor is None:
        return None, None
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"===").decode()
        second, _, trade_id = text.partition(":")
        if not re.fullmatch("[0-9]{1,11}", second) or int(second) > LAST_SECOND:
            raise ValueError(f"{second!r} is no time of a trade")
        return _at(int(second)), trade_id
    except (ValueError, binascii.Error) as error:
        raise ApiError(400, "cursor is not one of ours; leave it out to start again.") from error


async def trades(conn: Connection, asked: TapeQuery) -> dict[str, Any]:
    """The tape, newest first. Where a pool or a trader is asked for, the rollups tell in which
    minutes or hours to look, so that no index of the tape is needed."""
    after_time, after_id = _read_cursor(asked.cursor)
    pool = asked.pool
    values = asked.within.values | {
        "after_time": after_time, "after_id": after_id, "trader": asked.trader,
        "pool_id": pool.pool_id if pool else None, "chain_id": pool.chain_id if pool else None,
    }  # fmt: skip
    if after_time is not None:
        values["to"] = min(values["to"], after_time + timedelta(seconds=1))
    found: list[Any] = []
    async for low, high in _spans(conn, asked, values):
        spanned = values | {"low": low, "high": high, "limit": asked.within.limit - len(found)}
        found += await (await conn.execute(SQL["trades"], spanned)).fetchall()
        if len(found) >= asked.within.limit:
            break
    following = None
    if len(found) >= asked.within.limit:
        key = f"{found[-1][1]}:{found[-1][0]}".encode()
        following = base64.urlsafe_b64encode(key).decode().rstrip("=")
    return {"trades": [_trade_json(row) for row in found], "nextCursor": following}


async def _spans(
    conn: Connection, asked: TapeQuery, values: dict[str, Any]
) -> AsyncIterator[tuple[datetime, datetime]]:
    """Where to look on the tape, newest first."""
    if asked.trader is None and asked.pool is None:
        yield values["from"], values["to"]
        return
    block, width = ("trader_hours", HOUR) if asked.trader else ("pool_minutes", MINUTE)
    to, spans = values["to"], FIRST_SPANS
    while True:
        rows = await (
            await conn.execute(SQL[block], values | {"to": to, "spans": spans})
        ).fetchall()
        for (bucket,) in rows:
            yield bucket, bucket + timedelta(seconds=width)
        if len(rows) < spans:
            return
        to, spans = rows[-1][0], spans * 2


def _trade_json(row: Any) -> dict[str, Any]:
    return {
        "tradeId": row[0], "time": row[1], "chainId": row[2], "poolId": row[3], "symbol": row[4],
        "side": row[5], "price": amount(row[6]), "quantity": amount(row[7]),
        "volume": amount(row[8]), "transactionId": row[9], "buyer": row[10], "seller": row[11],
        "processedAt": iso(row[12]),
    }  # fmt: skip
