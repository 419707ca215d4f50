-- Open, high, low and close of a bucket, its volumes and its count; amounts in raw units of the source.
-- Within a second trades are ordered by id, byte by byte, so open and close carry their (time, id).

-- name: seconds
-- From trades ({rows}: rows of the tape) to those of each pool in each second, {more} about them included.
-- OFFSET 0: multiplied once, not once for each figure.
SELECT chain_id, pool_id, time, max(price) AS high, min(price) AS low,
       sum(quantity) AS base_volume, sum(volume) AS quote_volume,
       sum(quantity) FILTER (WHERE lower(side) = 'buy') AS buy_base_volume,
       count(*) AS trades, max(volume) AS largest_trade,
       min(trade_id) AS first_id, max(trade_id) AS last_id{more}
FROM (SELECT t.*, price * quantity AS volume FROM ({rows}) t OFFSET 0) trade
GROUP BY chain_id, pool_id, time

-- name: aggregate
-- From {second} to buckets of {width}; the prices of the first trade and the last are looked up by their keys
-- in {tape}; {each}: one by one, where that is much more than these trades.
SELECT b.chain_id, b.pool_id, b.bucket, o.price AS open, b.high, b.low, c.price AS close,
       b.base_volume, b.quote_volume, b.buy_base_volume, b.trades, b.largest_trade,
       b.open_time, b.open_id, b.close_time, b.close_id
FROM (
    SELECT chain_id, pool_id, date_bin('{width}', time, 'epoch') AS bucket,
           max(high) AS high, min(low) AS low, sum(base_volume) AS base_volume,
           sum(quote_volume) AS quote_volume, coalesce(sum(buy_base_volume), 0) AS buy_base_volume,
           sum(trades)::bigint AS trades, max(largest_trade) AS largest_trade,
           min(time) AS open_time, (array_agg(first_id ORDER BY time))[1] AS open_id,
           max(time) AS close_time, (array_agg(last_id ORDER BY time DESC))[1] AS close_id
    FROM {second} second GROUP BY 1, 2, 3
) b
JOIN LATERAL (SELECT price FROM {tape} t WHERE (t.time, t.trade_id) = (b.open_time, b.open_id) {each}) o ON true
JOIN LATERAL (SELECT price FROM {tape} t WHERE (t.time, t.trade_id) = (b.close_time, b.close_id) {each}) c ON true

-- name: coarsen
-- From finer buckets ({rows}) to buckets of {width}. A pool has one row a finer bucket.
SELECT chain_id, pool_id, date_bin('{width}', bucket, 'epoch') AS bucket,
       (array_agg(open ORDER BY bucket))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY bucket DESC))[1] AS close,
       sum(base_volume) AS base_volume, sum(quote_volume) AS quote_volume,
       sum(buy_base_volume) AS buy_base_volume, sum(trades)::bigint AS trades,
       max(largest_trade) AS largest_trade, min(open_time) AS open_time,
       (array_agg(open_id ORDER BY bucket))[1] AS open_id, max(close_time) AS close_time,
       (array_agg(close_id ORDER BY bucket DESC))[1] AS close_id
FROM ({rows}) finer GROUP BY 1, 2, 3

-- name: merge
-- What becomes of a stored bucket (s) when another part of it (excluded) arrives.
open = CASE WHEN (excluded.open_time, excluded.open_id) < (s.open_time, s.open_id)
            THEN excluded.open ELSE s.open END,
open_id = CASE WHEN (excluded.open_time, excluded.open_id) < (s.open_time, s.open_id)
               THEN excluded.open_id ELSE s.open_id END,
open_time = least(excluded.open_time, s.open_time),
close = CASE WHEN (excluded.close_time, excluded.close_id) > (s.close_time, s.close_id)
             THEN excluded.close ELSE s.close END,
close_id = CASE WHEN (excluded.close_time, excluded.close_id) > (s.close_time, s.close_id)
                THEN excluded.close_id ELSE s.close_id END,
close_time = greatest(excluded.close_time, s.close_time),
high = greatest(excluded.high, s.high),
low = least(excluded.low, s.low),
base_volume = s.base_volume + excluded.base_volume,
quote_volume = s.quote_volume + excluded.quote_volume,
buy_base_volume = s.buy_base_volume + excluded.buy_base_volume,
trades = s.trades + excluded.trades,
largest_trade = greatest(excluded.largest_trade, s.largest_trade)
