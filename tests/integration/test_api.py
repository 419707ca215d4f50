"""Every call of the contract, over the real application and a real database."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest

from truetape.api import create_app
from truetape.settings import Settings
from truetape.sync.engine import open_engine

DAY0 = 1754352000  # a UTC midnight
WETH, WBTC, OTHER = "0xweth", "0xwbtc", "0xother"

SOURCE = """
ALTER TABLE order_book_trades ADD chain_id integer, ADD buyer text, ADD seller text;
ALTER TABLE pools ADD chain_id integer, ADD base_decimals integer, ADD quote_decimals integer;
INSERT INTO pools VALUES ('0xweth', 'WETH/USDC', 1, 18, 6), ('0xwbtc', 'WBTC/USDC', 1, 8, 6),
    ('0xweth', 'WETH/USDC', 2, 18, 6), ('0xother', 'ARB/WETH', 1, 18, 18);
"""
TRADE = """
INSERT INTO order_book_trades (id, timestamp, price, quantity, pool_id, side, transaction_id,
                               chain_id, buyer, seller)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

Get = Callable[..., Awaitable[Any]]


class Api:
    """Calls the application as a user would."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, status: int = 200, **query: Any) -> Any:
        params = {key.rstrip("_"): value for key, value in query.items()}
        answer = await self.client.get(path, params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        answer = await self.client.post(path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()


@asynccontextmanager
async def api(source_url: str, analytics_url: str, **env: Any) -> AsyncIterator[Api]:
    settings = Settings.load(**env)
    async with open_engine(settings, source_url, analytics_url, follow=False) as engine:
        engine.start()
        transport = httpx.ASGITransport(create_app(engine, settings))
        base = "http://localhost:42091"
        async with httpx.AsyncClient(transport=transport, base_url=base, timeout=60) as client:
            yield Api(client)


def fill(source_url: str, *trades: tuple[Any, ...]) -> None:
    with psycopg.connect(source_url, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.execute(SOURCE)
        cursor.executemany(TRADE, trades)


def trade(
    number: int, second: int, price: int, quantity: int, pool: str = WETH, **other: Any
) -> tuple[Any, ...]:
    row = {"side": "buy", "chain": 1, "buyer": "alice", "seller": "bob"} | other
    return (f"t{number:03}", second, price, quantity, pool, row["side"], f"0x{number}",
            row["chain"], row["buyer"], row["seller"])  # fmt: skip


MARKET = (
    trade(1, DAY0 + 10, 2_000_000_000, 10**17),
    trade(2, DAY0 + 10, 2_100_000_000, 2 * 10**17, side="sell"),
    trade(3, DAY0 + 70, 1_900_000_000, 10**17, buyer="carol", seller="alice"),
    trade(4, DAY0 + 3600, 2_200_000_000, 10**17),
    trade(5, DAY0 + 86_400, 2_300_000_000, 10**17),
    trade(6, DAY0 + 20, 50_000_000_000, 10**8, WBTC),
    trade(7, DAY0 + 20, 7 * 10**14, 10**18, OTHER),
)


def run(work: Awaitable[None]) -> None:
    async def outer() -> None:
        await work

    asyncio.run(outer())


def test_the_market(source_url: str, analytics_url: str) -> None:
    fill(source_url, *MARKET)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            ran = await call.post("/api/sync/run")
            assert (ran["success"], ran["processed"], ran["total"], ran["errors"]) == (
                True, 7, 7, 0)  # fmt: skip
            where: dict[str, Any] = {"poolId": WETH, "chainId": 1}
            minutes = await call.get("/api/market/candles", **where, interval="1m")
            assert minutes["units"] == "human"
            assert minutes["candles"][0] == {
                "time": DAY0, "open": "2000", "high": "2100", "low": "2000", "close": "2100",
                "baseVolume": "0.3", "quoteVolume": "620", "trades": 2, "buyBaseVolume": "0.1",
            }  # fmt: skip
            assert [c["time"] - DAY0 for c in minutes["candles"]] == [0, 60, 3600, 86_400]
            raw = await call.get(
                "/api/market/candles", **where, interval="1h", units="raw", to=DAY0 + 3600
            )
            assert [c["quoteVolume"] for c in raw["candles"]] == [str(62 * 10**25 + 19 * 10**25)]
            newest = await call.get("/api/market/candles", **where, interval="4h", limit=1)
            assert [c["time"] for c in newest["candles"]] == [DAY0 + 86_400]
            five = await call.get("/api/market/candles", **where, interval="5m", to=DAY0 + 300)
            assert [(c["open"], c["close"], c["trades"]) for c in five["candles"]] == [
                ("2000", "1900", 3)]  # fmt: skip

            days = (await call.get("/api/market/daily", **where))["candles"]
            assert days[0]["vwap"] == "2060"  # 1030 / 0.5
            assert (days[0]["uniqueTraders"], days[0]["largestTrade"]) == (3, "420")

            symbols = await call.get("/api/market/symbols", at=DAY0 + 86_400)
            weth = next(s for s in symbols if s["poolId"] == WETH and s["chainId"] == 1)
            assert (weth["open24h"], weth["high24h"], weth["low24h"]) == ("2000", "2200", "1900")
            assert (weth["lastPrice"], weth["change24h"]) == ("2200", 10.0)
            assert (weth["baseVolume24h"], weth["trades24h"]) == ("0.5", 4)
            assert weth["uniqueTraders24h"] == 3
            assert {"symbol", "baseDecimals", "quoteDecimals", "quoteVolume24h"} <= set(weth)

    run(look())


def test_the_traders_of_a_day_are_those_of_the_hours_that_it_touches(
    source_url: str, analytics_url: str
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    seconds = sorted(DAY0 + 900 * chance.randrange(4 * 96) for _ in range(120))
    traded = [(t, f"u{chance.randrange(40)}") for t in seconds]
    fill(source_url, *(
        trade(n, t, 10**9, 10**17, buyer=user, seller=None) for n, (t, user) in enumerate(traded)
    ))  # fmt: skip
    asked = {0, 1800, 86_400, 86_460, 90_000, *(60 * chance.randrange(4 * 1440) for _ in range(40))}

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run")
            for at in sorted(DAY0 + after for after in asked):
                start = (at - 86_400) // 3600 * 3600
                there = {user for t, user in traded if start <= t // 3600 * 3600 < at}
                symbols = await call.get("/api/market/symbols", at=at)
                weth = next(s for s in symbols if s["poolId"] == WETH and s["chainId"] == 1)
                assert weth["uniqueTraders24h"] == len(there), (seed, at - DAY0)

    run(look())


def test_traders_and_the_tape(source_url: str, analytics_url: str) -> None:
    fill(source_url, *MARKET)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run")
            missing = await call.get("/api/traders/leaderboard", period="all", status=400)
            assert missing["details"] == ["USDC", "WETH"]
            board = await call.get("/api/traders/leaderboard", period="all", quote="USDC")
            first = board["traders"][0]
            assert (first["rank"], first["trader"], first["volume"]) == (1, "alice", "51260")
            assert (first["trades"], first["buyVolume"], first["sellVolume"]) == (6, "51070", "190")
            assert (first["firstTrade"], first["lastTrade"]) == (DAY0 + 10, DAY0 + 86_400)
            recent = await call.get(
                "/api/traders/leaderboard", quote="USDC", at=DAY0 + 86_400 + 60, by="trades")  # fmt: skip
            assert {t["trader"] for t in recent["traders"]} == {"alice", "bob", "carol"}
            carol = await call.get("/api/traders/carol", quote="USDC")
            assert (carol["rank"], carol["volume"], carol["trades"]) == (3, "190", 1)
            await call.get("/api/traders/nobody", quote="USDC", status=404)

            page = await call.get("/api/trades", limit=4)
            assert [t["tradeId"] for t in page["trades"]] == ["t005", "t004", "t003", "t007"]
            assert page["trades"][0]["volume"] == str(2_300_000_000 * 10**17)
            rest = await call.get("/api/trades", limit=4, cursor=page["nextCursor"])
            assert [t["tradeId"] for t in rest["trades"]] == ["t006", "t002", "t001"]
            assert rest["nextCursor"] is None
            hers = await call.get("/api/trades", trader="carol")
            assert [t["tradeId"] for t in hers["trades"]] == ["t003"]

    run(look())


def test_a_name_for_several_pools_is_never_guessed(source_url: str, analytics_url: str) -> None:
    fill(source_url, *MARKET, trade(8, DAY0 + 20, 1, 1, chain=2))

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run")
            for query in ({"symbol": "WETH/USDC"}, {"poolId": WETH}):
                refused = await call.get("/api/market/candles", status=409, **query)
                assert {d["chainId"] for d in refused["details"]} == {1, 2}
            await call.get("/api/market/candles", poolId=WETH, chainId=2)
            assert (await call.get("/api/market/candles", status=404, symbol="X/Y"))["error"]
            refused = await call.get(
                "/api/market/candles", status=404, symbol="ARB/WETH", chainId=7
            )
            assert "symbol ARB/WETH and chainId 7" in refused["error"]
            assert (await call.get("/api/market/candles", status=400))["error"]

    run(look())


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/market/candles", {"poolId": WETH, "interval": "2m"}),
        ("/api/market/candles", {"poolId": WETH, "from": "yesterday"}),
        ("/api/market/candles", {"poolId": WETH, "chainId": "1", "from": "10", "to": "5"}),
        ("/api/market/candles", {"poolId": WETH, "limit": "0"}),
        ("/api/market/symbols", {"at": "-1"}),
        ("/api/market/symbols", {"at": "+0.0"}),
        ("/api/market/symbols", {"at": "1_000"}),
        ("/api/traders/leaderboard", {"period": "1y"}),
        ("/api/trades", {"cursor": "%%%"}),
        ("/api/market/candles", {"poolId": WETH, "intervall": "1h"}),
        ("/api/traders/alice", {"qoute": "USDC"}),
        ("/api/market/candles?symbol=WETH%2FUSDC&symbol=ARB%2FWETH", {}),
    ],
)
def test_bad_questions_get_one_sentence(
    source_url: str, analytics_url: str, path: str, query: dict[str, str]
) -> None:
    fill(source_url, *MARKET)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run")
            answer = await call.client.get(path, params=query or None)
            assert answer.status_code == 400, answer.text
            assert set(answer.json()) == {"error", "details"}

    run(look())


@pytest.mark.parametrize("body", [{}, {"fromTimestamp": "x"}, {"fromTimestamp": -1},
                                  {"fromTimestamp": 1.5}, {"fromTimestamp": True},
                                  {"fromTimestamp": 1_754_400_000_000}])  # fmt: skip
def test_force_wants_a_unix_second(source_url: str, analytics_url: str, body: Any) -> None:
    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            refused = await call.post("/api/sync/force", body, status=400)
            assert "1754400000" in refused["error"]

    run(look())


def test_a_body_that_is_not_said_to_be_json_is_told_what_to_say(
    source_url: str, analytics_url: str
) -> None:
    """As curl sends it, unless told otherwise."""

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            refused = await call.client.post(
                "/api/sync/run", content='{"strategy": "standard"}', headers=form
            )
            assert refused.status_code == 400
            assert "Content-Type: application/json" in refused.json()["error"]

    run(look())


def test_force_and_its_dry_run(source_url: str, analytics_url: str) -> None:
    fill(source_url, *MARKET)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run")
            since = {"fromTimestamp": DAY0 + 3600}
            dry = await call.post("/api/sync/force", since | {"dryRun": True})
            assert (dry["trades"], dry["buckets"] > 0, "estimateMs" in dry) == (2, True, True)
            done = await call.post("/api/sync/force", since)
            assert (done["processed"], done["errors"], done["total"]) == (2, 0, 2)
            assert done["fromTimestamp"] == DAY0 + 3600
            assert done["fromDate"].startswith("2025-08-05T01:00:00")

    run(look())


def test_errors_retry_verify_gaps_and_runs(source_url: str, analytics_url: str) -> None:
    bad = ("bad", DAY0 + 5, "NaN", 1, WETH, "buy", "0x", 1, None, None)
    fill(source_url, *MARKET, bad)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            gaps = await call.get("/api/sync/gaps")
            assert [(g["missing"], g["extra"], g["kind"]) for g in gaps] == [(8, 0, "tail")]
            ran = await call.post("/api/sync/run")
            assert (ran["processed"], ran["errors"], ran["total"]) == (7, 1, 8)
            (error,) = await call.get("/api/sync/errors")
            assert (error["tradeId"], error["status"]) == ("bad", "error")
            assert error["attempts"] == 1
            assert "price" in error["errorMessage"]
            health = await call.get("/api/sync/health")
            assert (health["status"], health["isHealthy"], health["failedTrades"]) == (
                "degraded", True, 1)  # fmt: skip
            again = await call.post("/api/sync/retry")
            assert (again["requeued"], again["errors"]) == (1, 1)
            with psycopg.connect(source_url, autocommit=True) as conn:
                conn.execute("UPDATE order_book_trades SET price = 2000000000 WHERE id = 'bad'")
            again = await call.post("/api/sync/retry")
            assert (again["requeued"], again["processed"], again["errors"]) == (1, 1, 0)
            proof = await call.post("/api/sync/verify")
            assert (proof["complete"], proof["tradesChecked"], proof["failed"]) == (True, 8, 0)
            assert proof["bucketsChecked"] > 0
            assert await call.get("/api/sync/gaps") == []
            kinds = [r["kind"] for r in await call.get("/api/sync/runs")]
            assert kinds == ["verify", "retry", "retry", "standard"]
            assert (await call.get(f"/api/sync/runs/{ran['runId']}"))["state"] == "succeeded"
            await call.get("/api/sync/runs/999", status=404)
            assert (await call.get("/api/sync/health"))["verified"][
                "completeThrough"
            ] == DAY0 + 86_400
            assert (await call.get("/api/sync/stats"))["trades"] == 8
            assert (await call.get("/api/sync/status"))["status"] == "healthy"

    run(look())


def test_a_tape_altered_by_hand_is_found_and_rebuilt(source_url: str, analytics_url: str) -> None:
    fill(source_url, *MARKET)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run")
            with psycopg.connect(analytics_url, autocommit=True) as conn:
                conn.execute("DELETE FROM analytics.tape WHERE trade_id = 't003'")
                conn.execute("UPDATE analytics.tape SET price = 1 WHERE trade_id = 't006'")
                conn.execute("UPDATE analytics.days SET high = 9 WHERE pool_id = %s", (OTHER,))
            found = await call.post("/api/sync/verify")
            assert not found["complete"]
            kinds = {(m["kind"], m["from"]) for m in found["mismatches"]}
            assert kinds == {("missing", DAY0 + 70), ("changed", DAY0 + 20)}
            assert {w["rollup"] for w in found["rollupMismatches"]} >= {"daily_summaries"}
            assert (await call.get("/api/sync/health"))["verified"]["at"] is None
            await call.post("/api/sync/verify", {"repair": True})
            assert (await call.post("/api/sync/verify"))["complete"]

    run(look())


def test_leaving_does_not_cancel_and_a_second_call_joins(
    source_url: str, analytics_url: str
) -> None:
    fill(source_url, *MARKET)

    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            asked = await call.post("/api/sync/run?wait=false", status=202)
            joined = await call.post("/api/sync/run")
            assert joined["runId"] >= asked["runId"]
            assert (await call.get("/api/sync/runs"))[-1]["processed"] == 7

    run(look())


def test_the_token_guards_every_change(source_url: str, analytics_url: str) -> None:
    async def look() -> None:
        async with api(source_url, analytics_url, TRUETAPE_API_TOKEN="s3cret") as call:
            for path in ("run", "force", "retry", "verify", "runs/1/cancel"):
                await call.post(f"/api/sync/{path}", {}, status=401)
                await call.post(f"/api/sync/{path}", {}, status=401, Authorization="Bearer s3cre")
            ran = await call.post("/api/sync/run", Authorization="Bearer s3cret")
            assert ran["success"]
            await call.get("/api/sync/health")

    run(look())


def test_pages_of_other_sites_are_kept_out(source_url: str, analytics_url: str) -> None:
    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            await call.post("/api/sync/run", status=403, Origin="http://evil.example")
            rebound = await call.client.get("/api/sync/health", headers={"Host": "evil.example"})
            assert rebound.status_code == 403

    run(look())


def test_an_empty_source_is_healthy(source_url: str, analytics_url: str) -> None:
    async def look() -> None:
        async with api(source_url, analytics_url) as call:
            health = await call.get("/api/sync/health")
            assert (health["status"], health["lagMinutes"], health["missedTrades"]) == (
                "healthy", 0, 0)  # fmt: skip
            assert health["lastPonderTimestamp"] is None
            assert await call.get("/api/market/symbols") == []

    run(look())
