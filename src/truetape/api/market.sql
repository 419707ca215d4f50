-- What the market endpoints ask. Amounts leave as raw integers; the route makes them human.

-- name: pools
SELECT chain_id, pool_id, symbol, base_decimals, quote_decimals FROM analytics.pools
WHERE (%(symbol)s::text IS NULL OR symbol = %(symbol)s)
  AND (%(pool_id)s::text IS NULL OR pool_id = %(pool_id)s)
  AND (%(chain_id)s::bigint IS NULL OR chain_id = %(chain_id)s)
UNION
SELECT DISTINCT d.chain_id, d.pool_id, NULL::text, NULL::integer, NULL::integer
FROM analytics.days d
WHERE %(symbol)s::text IS NULL
  AND (%(pool_id)s::text IS NULL OR d.pool_id = %(pool_id)s)
  AND (%(chain_id)s::bigint IS NULL OR d.chain_id = %(chain_id)s)
  AND NOT EXISTS (SELECT FROM analytics.pools p
                  WHERE p.chain_id = d.chain_id AND p.pool_id = d.pool_id)
ORDER BY 3 NULLS LAST, 1, 2

-- name: candles
-- The newest {limit} buckets of {width} in a range, from a table whose buckets are finer or equal.
SELECT extract(epoch FROM bucket)::bigint, open, high, low, close, base_volume, quote_volume, trades,
       buy_base_volume
FROM (
    SELECT date_bin('{width}', bucket, 'epoch') AS bucket,
           (array_agg(open ORDER BY bucket))[1] AS open, max(high) AS high, min(low) AS low,
           (array_agg(close ORDER BY bucket DESC))[1] AS close,
           sum(base_volume) AS base_volume, sum(quote_volume) AS quote_volume,
           sum(trades)::bigint AS trades, sum(buy_base_volume) AS buy_base_volume
    FROM (SELECT * FROM analytics.{table}
          WHERE chain_id = %(chain_id)s AND pool_id = %(pool_id)s
            AND bucket >= %(from)s AND bucket < %(to)s
          ORDER BY bucket DESC LIMIT %(finer_limit)s) finer
    GROUP BY 1 ORDER BY 1 DESC LIMIT %(limit)s
) newest ORDER BY bucket

-- name: daily
SELECT * FROM (
    SELECT extract(epoch FROM bucket)::bigint AS second, open, high, low, close, base_volume,
           quote_volume, trades, buy_base_volume, unique_traders,
           CASE WHEN base_volume <> 0
                THEN trim_scale(round(quote_volume / base_volume, 18)) END AS vwap, largest_trade
    FROM analytics.daily_summaries
    WHERE chain_id = %(chain_id)s AND pool_id = %(pool_id)s
      AND bucket >= %(from)s AND bucket < %(to)s
    ORDER BY bucket DESC LIMIT %(limit)s
) newest ORDER BY second

-- name: symbols
-- Per pool, the 24 hours before a minute; distinct traders by all hours that the window touches. It touches two
-- days at most, of each its end or its beginning: whether a trader's hours of a day are among them its first
-- trade of that day and its last one tell.
SELECT p.chain_id, p.pool_id, f.open, w.high, w.low, l.close,
       CASE WHEN f.open <> 0 THEN round((l.close - f.open) / abs(f.open) * 100, 2) END,
       coalesce(w.base_volume, 0), coalesce(w.quote_volume, 0), coalesce(w.trades, 0),
       CASE WHEN EXISTS (SELECT FROM analytics.trader_days d
                         WHERE d.chain_id = p.chain_id AND d.pool_id = p.pool_id)
            -- Not count(DISTINCT …), which can only sort: of many they are hashed.
            THEN (SELECT count(*) FROM (
                      SELECT DISTINCT trader FROM analytics.trader_days d
                      WHERE d.chain_id = p.chain_id AND d.pool_id = p.pool_id
                        AND d.bucket >= date_bin('1 day', %(from)s, 'epoch') AND d.bucket < %(to)s
                        AND d.last_trade >= date_bin('1 hour', %(from)s, 'epoch')
                        AND date_bin('1 hour', d.first_trade, 'epoch') < %(to)s) traders) END
FROM unnest(%(chains)s::bigint[], %(pools)s::text[]) AS p (chain_id, pool_id)
LEFT JOIN LATERAL (
    SELECT max(high) AS high, min(low) AS low,
           sum(base_volume) AS base_volume, sum(quote_volume) AS quote_volume,
           sum(trades)::bigint AS trades
    FROM analytics.candles_1m c
    WHERE c.chain_id = p.chain_id AND c.pool_id = p.pool_id
      AND c.bucket >= %(from)s AND c.bucket < %(to)s
) w ON true
LEFT JOIN LATERAL (
    SELECT open FROM analytics.candles_1m c
    WHERE c.chain_id = p.chain_id AND c.pool_id = p.pool_id
      AND c.bucket >= %(from)s AND c.bucket < %(to)s
    ORDER BY bucket LIMIT 1
) f ON true
LEFT JOIN LATERAL (
    SELECT close FROM analytics.candles_1m c
    WHERE c.chain_id = p.chain_id AND c.pool_id = p.pool_id AND c.bucket < %(to)s
    ORDER BY bucket DESC LIMIT 1
) l ON true

-- name: quotes
-- The quote currencies there are: what follows the last slash of a symbol.
SELECT DISTINCT regexp_replace(symbol, '^.*/', '') FROM analytics.pools
WHERE symbol LIKE '%%/%%' ORDER BY 1

-- name: leaderboard
SELECT row_number() OVER (ORDER BY {by} DESC, trader) AS rank, s.* FROM (
    SELECT trader, {volume} AS volume, sum(t.trades)::bigint AS trades, {buys} AS buys,
           extract(epoch FROM min(first_trade))::bigint AS first_trade,
           extract(epoch FROM max(last_trade))::bigint AS last_trade
    FROM analytics.{table} t JOIN analytics.pools p USING (chain_id, pool_id)
    WHERE (%(quote)s::text IS NULL OR regexp_replace(p.symbol, '^.*/', '') = %(quote)s)
      AND (%(trader)s::text IS NULL OR t.trader = %(trader)s)
      AND (%(from)s::timestamptz IS NULL OR t.bucket >= %(from)s) AND t.bucket < %(to)s
    GROUP BY trader
) s ORDER BY rank LIMIT %(limit)s

-- name: leaderboard_without_symbols
SELECT row_number() OVER (ORDER BY {by} DESC, trader) AS rank, s.* FROM (
    SELECT trader, sum(quote_volume) AS volume, sum(t.trades)::bigint AS trades,
           sum(buy_quote_volume) AS buys,
           extract(epoch FROM min(first_trade))::bigint AS first_trade,
           extract(epoch FROM max(last_trade))::bigint AS last_trade
    FROM analytics.{table} t
    WHERE (%(trader)s::text IS NULL OR t.trader = %(trader)s)
      AND (%(from)s::timestamptz IS NULL OR t.bucket >= %(from)s) AND t.bucket < %(to)s
    GROUP BY trader
) s ORDER BY rank LIMIT %(limit)s

-- name: traders_ahead
-- How many traded more of a quote currency (raw, all time) than one trader.
WITH totals AS (
    SELECT t.trader, sum(t.quote_volume * coalesce(
               ('1e-' || (p.base_decimals + p.quote_decimals))::numeric, 1)) AS volume
    FROM analytics.trader_days t LEFT JOIN analytics.pools p USING (chain_id, pool_id)
    WHERE %(quote)s::text IS NULL OR regexp_replace(p.symbol, '^.*/', '') = %(quote)s
    GROUP BY t.trader
)
SELECT count(*) FROM totals a, totals b
WHERE b.trader = %(trader)s AND (a.volume, b.trader) > (b.volume, a.trader)

-- name: decimals_known
SELECT coalesce(bool_and(base_decimals IS NOT NULL AND quote_decimals IS NOT NULL), false)
FROM analytics.pools WHERE regexp_replace(symbol, '^.*/', '') = %(quote)s

-- name: trader_hours
-- The hours, newest first, in which a trader traded: the tape has no index by trader.
SELECT DISTINCT h.bucket FROM analytics.trader_days d
JOIN analytics.trader_hours h
  ON h.chain_id = d.chain_id AND h.pool_id = d.pool_id AND h.trader = d.trader
 AND h.bucket >= d.bucket AND h.bucket < d.bucket + interval '1 day'
WHERE d.trader = %(trader)s AND h.bucket < %(to)s AND h.bucket > %(from)s - interval '1 hour'
  AND (%(pool_id)s::text IS NULL OR (d.chain_id = %(chain_id)s AND d.pool_id = %(pool_id)s))
ORDER BY h.bucket DESC LIMIT %(spans)s

-- name: pool_minutes
-- The minutes, newest first, in which a pool traded: the tape has no index by pool.
SELECT bucket FROM analytics.candles_1m
WHERE chain_id = %(chain_id)s AND pool_id = %(pool_id)s
  AND bucket < %(to)s AND bucket > %(from)s - interval '1 minute'
ORDER BY bucket DESC LIMIT %(spans)s

-- name: trades
SELECT t.trade_id, extract(epoch FROM t.time)::bigint, t.chain_id, t.pool_id, p.symbol, t.side,
       t.price, t.quantity, t.price * t.quantity, t.transaction_id, t.buyer, t.seller, t.processed_at
FROM analytics.tape t LEFT JOIN analytics.pools p USING (chain_id, pool_id)
WHERE t.time >= %(low)s AND t.time < %(high)s AND t.time >= %(from)s AND t.time < %(to)s
  AND (%(after_time)s::timestamptz IS NULL OR (t.time, t.trade_id) < (%(after_time)s, %(after_id)s::text COLLATE "C"))
  AND (%(pool_id)s::text IS NULL OR (t.chain_id = %(chain_id)s AND t.pool_id = %(pool_id)s))
  AND (%(trader)s::text IS NULL OR t.buyer = %(trader)s OR t.seller = %(trader)s)
ORDER BY t.time DESC, t.trade_id DESC LIMIT %(limit)s
