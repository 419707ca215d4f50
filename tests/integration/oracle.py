"""The analytics recomputed from scratch, in SQL of its own, from the source's rows.

Nothing here shares a statement with the program: it is what the program is measured against.
"""

import psycopg

GOOD = """
    id IS NOT NULL AND pool_id IS NOT NULL AND "timestamp" > 0
    AND "timestamp" <= extract(epoch FROM now()) + 86400
    AND price IS NOT NULL AND price NOT IN ('NaN', 'Infinity', '-Infinity')
    AND quantity IS NOT NULL AND quantity NOT IN ('NaN', 'Infinity', '-Infinity')
"""

CANDLES = """
SELECT chain_id, pool_id, date_trunc('{width}', time, 'UTC') AS bucket,
       (array_agg(price ORDER BY time, id COLLATE "C"))[1] AS open, max(price) AS high,
       min(price) AS low, (array_agg(price ORDER BY time DESC, id COLLATE "C" DESC))[1] AS close,
       sum(quantity) AS base_volume, sum(price * quantity) AS quote_volume,
       coalesce(sum(CASE WHEN upper(side) = 'BUY' THEN quantity END), 0) AS buy_base_volume,
       count(*) AS trades
FROM truth GROUP BY 1, 2, 3
"""

DAYS = """
SELECT c.*, (SELECT count(DISTINCT who) FROM (
                 SELECT buyer AS who, chain_id, pool_id, time FROM truth
                 UNION ALL SELECT seller, chain_id, pool_id, time FROM truth) s
             WHERE who IS NOT NULL AND s.chain_id = c.chain_id AND s.pool_id = c.pool_id
               AND date_trunc('day', s.time, 'UTC') = c.bucket) AS unique_traders,
       (SELECT max(price * quantity) FROM truth t WHERE t.chain_id = c.chain_id
          AND t.pool_id = c.pool_id AND date_trunc('day', t.time, 'UTC') = c.bucket) AS largest_trade
FROM ({candles}) c
"""

TRADERS = """
SELECT who AS trader, chain_id, pool_id, count(*) AS trades,
       coalesce(sum(quantity) FILTER (WHERE bought), 0) AS buy_base_volume,
       coalesce(sum(quantity) FILTER (WHERE NOT bought), 0) AS sell_base_volume,
       sum(price * quantity) AS quote_volume, min(time) AS first_trade, max(time) AS last_trade
FROM (SELECT buyer AS who, true AS bought, t.* FROM truth t
      UNION ALL SELECT seller, false, t.* FROM truth t) s
WHERE who IS NOT NULL GROUP BY 1, 2, 3
"""

METRICS = """
SELECT chain_id, pool_id, (array_agg(price ORDER BY time DESC, id COLLATE "C" DESC))[1] AS last_price,
       max(time) AS last_trade, count(*) AS trades, sum(quantity) AS base_volume,
       sum(price * quantity) AS quote_volume, max(price) AS high, min(price) AS low
FROM truth GROUP BY 1, 2
"""

TRUTH = """
CREATE TEMP TABLE truth (id text, time timestamptz, chain_id bigint, pool_id text, side text,
    price numeric, quantity numeric, transaction_id text, buyer text, seller text)
"""

TAPE = """
SELECT id AS trade_id, time, chain_id, pool_id, side, price, quantity,
       price * quantity AS volume, transaction_id, buyer, seller FROM truth
"""


def expectations() -> dict[str, tuple[str, str]]:
    """Relation → (SELECT on ours, SELECT on the truth), column for column."""
    columns = (
        "chain_id, pool_id, bucket, open, high, low, close, base_volume, quote_volume, "
        "buy_base_volume, trades"
    )
    return {
        "trades": (
            "SELECT trade_id, time, chain_id, pool_id, side, price, quantity, volume, "
            "transaction_id, buyer, seller FROM analytics.trades",
            TAPE,
        ),
        "candles_1m": (
            f"SELECT {columns} FROM analytics.candles_1m",
            CANDLES.format(width="minute"),
        ),
        "hourly_aggregations": (
            f"SELECT {columns} FROM analytics.hourly_aggregations",
            CANDLES.format(width="hour"),
        ),
        "daily_summaries": (
            f"SELECT {columns}, unique_traders, largest_trade FROM analytics.daily_summaries",
            DAYS.format(candles=CANDLES.format(width="day")),
        ),
        "trader_stats": (
            "SELECT trader, chain_id, pool_id, trades, buy_base_volume, sell_base_volume, "
            "quote_volume, first_trade, last_trade FROM analytics.trader_stats",
            TRADERS,
        ),
        "symbol_metrics": (
            "SELECT chain_id, pool_id, last_price, last_trade, trades, base_volume, quote_volume, "
            "high, low FROM analytics.symbol_metrics",
            METRICS,
        ),
    }


def differences(source_url: str, analytics_url: str, traders: str = "NULL, NULL") -> list[str]:
    """What the analytics have wrong, in words; empty when they are true, digit by digit.

    ``traders``: SQL for buyer and seller of a source row ``t``.
    """
    with psycopg.connect(source_url) as source, psycopg.connect(analytics_url) as ours:
        with source.cursor() as cursor:
            columns = {
                c.name for c in cursor.execute("SELECT * FROM order_book_trades").description or ()
            }
        chain = "coalesce(t.chain_id, 0)" if "chain_id" in columns else "0"
        ours.execute(TRUTH)
        query = (
            f'COPY (SELECT id, to_timestamp("timestamp"), {chain}, pool_id, side, price, quantity, '
            f"transaction_id, {traders} FROM order_book_trades t WHERE {GOOD}) TO STDOUT"
        )
        with (
            source.cursor().copy(query) as rows,
            ours.cursor().copy("COPY truth FROM STDIN") as into,
        ):
            for row in rows:
                into.write(row)
        return _compare(ours)


def differences_within(analytics_url: str) -> list[str]:
    """What the analytics say that does not follow from their own tape."""
    with psycopg.connect(analytics_url) as ours:
        ours.execute(TRUTH)
        ours.execute(
            "INSERT INTO truth SELECT trade_id, time, chain_id, pool_id, side, price, quantity, "
            "transaction_id, buyer, seller FROM analytics.trades"
        )
        return _compare(ours)


def _compare(ours: psycopg.Connection) -> list[str]:
    ours.execute("ANALYZE truth")
    return [
        f"{relation}: {row}"
        for relation, (stored, expected) in expectations().items()
        for row in ours.execute(
            f"(({stored}) EXCEPT ALL ({expected})) UNION ALL (({expected}) EXCEPT ALL ({stored})) "
            "LIMIT 3"
        ).fetchall()
    ]
