"""How long answers over HTTP take while `truetape serve` follows, on tables as they are when autovacuum has been
at what a catch-up has left."""

import http.client
import time
from typing import Any

import psycopg

from bench.processes import served
from bench.source import settle
from bench.watching import percentile

TIMES = 100
SETTLE_SECONDS = 5


def answers(source_url: str, analytics_url: str) -> dict[str, Any]:
    """Milliseconds (p50, p99) for each call, asked one after the other."""
    settle(analytics_url)
    with psycopg.connect(analytics_url) as conn:
        row = conn.execute(
            "SELECT pool_id, extract(epoch FROM max(bucket))::bigint FROM analytics.days GROUP BY 1 LIMIT 1"
        ).fetchone()
    assert row is not None
    pool, day = row
    calls = {
        "health": "/api/sync/health",
        "candles": f"/api/market/candles?poolId={pool}&interval=1m&limit=500",
        "symbols": f"/api/market/symbols?at={day + 3600}",
        "leaderboard": "/api/traders/leaderboard?period=all&quote=USDC&limit=50",
    }
    with served(source_url, analytics_url, "") as (port, _):
        time.sleep(SETTLE_SECONDS)
        return {name: _time(port, path) for name, path in calls.items()}


def _time(port: int, path: str) -> dict[str, float | None]:
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    took: list[float] = []
    for _ in range(TIMES):
        began = time.monotonic()
        conn.request("GET", path)
        answer = conn.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        took.append((time.monotonic() - began) * 1000)
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}
