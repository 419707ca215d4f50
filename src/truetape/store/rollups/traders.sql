-- What a trader did in a pool in a bucket. A trader is credited with both sides it took part in:
-- a trade counts once for its buyer and once for its seller.

-- name: aggregate
-- From trades ({rows}: rows of the tape) to buckets of {width}: in one pass by buyer and by seller, then both
-- sides of a trader together. OFFSET 0: multiplied once, not once for each side. +quantity: a number as it is
-- reckoned with, not as it is stored, once for all that is made of it.
SELECT chain_id, pool_id, bucket, trader, sum(trades)::bigint AS trades,
       coalesce(sum(base_volume) FILTER (WHERE bought), 0) AS buy_base_volume,
       coalesce(sum(base_volume) FILTER (WHERE NOT bought), 0) AS sell_base_volume,
       coalesce(sum(quote_volume) FILTER (WHERE bought), 0) AS buy_quote_volume,
       sum(quote_volume) AS quote_volume,
       min(first_trade) AS first_trade, max(last_trade) AS last_trade
FROM (SELECT chain_id, pool_id, bucket, GROUPING(buyer) = 0 AS bought,
             CASE GROUPING(buyer) WHEN 0 THEN buyer ELSE seller END AS trader,
             count(*) AS trades, sum(quantity) AS base_volume, sum(quote) AS quote_volume,
             min(time) AS first_trade, max(time) AS last_trade
      FROM (SELECT chain_id, pool_id, date_bin('{width}', time, 'epoch') AS bucket, time,
                   +quantity AS quantity, price * quantity AS quote, buyer, seller FROM ({rows}) own OFFSET 0) trade
      GROUP BY GROUPING SETS ((chain_id, pool_id, bucket, buyer), (chain_id, pool_id, bucket, seller))
     ) side
WHERE trader IS NOT NULL
GROUP BY 1, 2, 3, 4

-- name: aggregate_few
-- The same, made for some hundred trades, of which hardly two are of one trader.
SELECT chain_id, pool_id, bucket, trader, count(*) AS trades,
       coalesce(sum(quantity) FILTER (WHERE bought), 0) AS buy_base_volume,
       coalesce(sum(quantity) FILTER (WHERE NOT bought), 0) AS sell_base_volume,
       coalesce(sum(quote) FILTER (WHERE bought), 0) AS buy_quote_volume,
       sum(quote) AS quote_volume, min(time) AS first_trade, max(time) AS last_trade
FROM (SELECT chain_id, pool_id, date_bin('{width}', time, 'epoch') AS bucket, time,
             +quantity AS quantity, price * quantity AS quote, buyer, seller FROM ({rows}) own OFFSET 0) trade,
     LATERAL (VALUES (buyer, true), (seller, false)) side (trader, bought)
WHERE trader IS NOT NULL
GROUP BY 1, 2, 3, 4

-- name: coarsen_few
-- The same as ``coarsen``; of one finer bucket, which is what few trades mostly fall into, there is nothing
-- to add up.
SELECT chain_id, pool_id, date_bin('{width}', bucket, 'epoch') AS bucket, trader, trades,
       buy_base_volume, sell_base_volume, buy_quote_volume, quote_volume, first_trade, last_trade
FROM ({rows}) finer WHERE (SELECT min(bucket) = max(bucket) FROM ({rows}) finer)
UNION ALL
SELECT * FROM ({coarsen}) coarser WHERE (SELECT min(bucket) < max(bucket) FROM ({rows}) finer)

-- name: coarsen
-- From finer buckets ({rows}) to buckets of {width}.
SELECT chain_id, pool_id, date_bin('{width}', bucket, 'epoch') AS bucket, trader,
       sum(trades)::bigint AS trades, sum(buy_base_volume) AS buy_base_volume,
       sum(sell_base_volume) AS sell_base_volume, sum(buy_quote_volume) AS buy_quote_volume,
       sum(quote_volume) AS quote_volume,
       min(first_trade) AS first_trade, max(last_trade) AS last_trade
FROM ({rows}) finer GROUP BY 1, 2, 3, 4

-- name: merge
-- What becomes of a stored bucket (s) when another part of it (excluded) arrives.
trades = s.trades + excluded.trades,
buy_base_volume = s.buy_base_volume + excluded.buy_base_volume,
sell_base_volume = s.sell_base_volume + excluded.sell_base_volume,
buy_quote_volume = s.buy_quote_volume + excluded.buy_quote_volume,
quote_volume = s.quote_volume + excluded.quote_volume,
first_trade = least(excluded.first_trade, s.first_trade),
last_trade = greatest(excluded.last_trade, s.last_trade)

-- name: setup
-- Stored hours whose first or last trade may be one that is gone; where to look for it.
CREATE TEMP TABLE IF NOT EXISTS loose (
    chain_id bigint, pool_id text COLLATE "C", bucket timestamptz, trader text COLLATE "C",
    first_from timestamptz, last_to timestamptz
) ON COMMIT DELETE ROWS

-- name: subtract
-- {gone}: what the retracted trades had added.
UPDATE analytics.trader_hours s
SET trades = s.trades - g.trades,
    buy_base_volume = s.buy_base_volume - g.buy_base_volume,
    sell_base_volume = s.sell_base_volume - g.sell_base_volume,
    buy_quote_volume = s.buy_quote_volume - g.buy_quote_volume,
    quote_volume = s.quote_volume - g.quote_volume
FROM ({gone}) g
WHERE (s.chain_id, s.pool_id, s.bucket, s.trader) = (g.chain_id, g.pool_id, g.bucket, g.trader)

-- name: drop_empty
DELETE FROM analytics.trader_hours s USING ({gone}) g
WHERE (s.chain_id, s.pool_id, s.bucket, s.trader) = (g.chain_id, g.pool_id, g.bucket, g.trader)
  AND s.trades = 0

-- name: loosen
INSERT INTO loose
SELECT s.chain_id, s.pool_id, s.bucket, s.trader,
       CASE WHEN g.first_trade = s.first_trade THEN s.first_trade END,
       CASE WHEN g.last_trade = s.last_trade THEN s.last_trade END
FROM analytics.trader_hours s JOIN ({gone}) g
  ON (s.chain_id, s.pool_id, s.bucket, s.trader) = (g.chain_id, g.pool_id, g.bucket, g.trader)
WHERE g.first_trade = s.first_trade OR g.last_trade = s.last_trade

-- name: tighten_first
-- In each hour the tape is read once, from the earliest place where a first trade may be; then whoever was
-- met there is looked for among the loose, not each of these among all trades.
WITH span AS (
    SELECT bucket, min(first_from) AS low, min(first_from) + %(span)s AS high
    FROM loose WHERE first_from IS NOT NULL GROUP BY bucket
), met AS MATERIALIZED (
    SELECT t.chain_id, t.pool_id, s.bucket, side_of.trader, min(t.time) AS time
    FROM span s,
         LATERAL (SELECT * FROM analytics.tape t WHERE t.time >= s.low AND t.time < s.high
                  AND t.time < s.bucket + interval '1 hour' OFFSET 0) t,
         LATERAL (VALUES (t.buyer), (t.seller)) side_of (trader)
    GROUP BY 1, 2, 3, 4
), found AS (
    SELECT m.* FROM met m JOIN loose l USING (chain_id, pool_id, bucket, trader)
    WHERE l.first_from IS NOT NULL
), settled AS (
    UPDATE loose l SET first_from = NULL FROM found f
    WHERE (l.chain_id, l.pool_id, l.bucket, l.trader) = (f.chain_id, f.pool_id, f.bucket, f.trader)
)
UPDATE analytics.trader_hours s SET first_trade = f.time FROM found f
WHERE (s.chain_id, s.pool_id, s.bucket, s.trader) = (f.chain_id, f.pool_id, f.bucket, f.trader)

-- name: tighten_last
WITH span AS (
    SELECT bucket, max(last_to) - %(span)s AS low, max(last_to) AS high
    FROM loose WHERE last_to IS NOT NULL GROUP BY bucket
), met AS MATERIALIZED (
    SELECT t.chain_id, t.pool_id, s.bucket, side_of.trader, max(t.time) AS time
    FROM span s,
         LATERAL (SELECT * FROM analytics.tape t WHERE t.time >= s.low AND t.time <= s.high
                  AND t.time >= s.bucket OFFSET 0) t,
         LATERAL (VALUES (t.buyer), (t.seller)) side_of (trader)
    GROUP BY 1, 2, 3, 4
), found AS (
    SELECT m.* FROM met m JOIN loose l USING (chain_id, pool_id, bucket, trader)
    WHERE l.last_to IS NOT NULL
), settled AS (
    UPDATE loose l SET last_to = NULL FROM found f
    WHERE (l.chain_id, l.pool_id, l.bucket, l.trader) = (f.chain_id, f.pool_id, f.bucket, f.trader)
)
UPDATE analytics.trader_hours s SET last_trade = f.time FROM found f
WHERE (s.chain_id, s.pool_id, s.bucket, s.trader) = (f.chain_id, f.pool_id, f.bucket, f.trader)
