-- What a trader did in a pool in a bucket. A trader is credited with both sides it took part in:
-- a trade counts once for its buyer and once for its seller.

-- name: aggregate
-- From trades ({rows}: rows of the tape) to buckets of {width}; {only} narrows to some traders.
SELECT chain_id, pool_id, date_bin('{width}', time, 'epoch') AS bucket, trader,
       count(*) AS trades,
       coalesce(sum(quantity) FILTER (WHERE bought), 0) AS buy_base_volume,
       coalesce(sum(quantity) FILTER (WHERE NOT bought), 0) AS sell_base_volume,
       coalesce(sum(price * quantity) FILTER (WHERE bought), 0) AS buy_quote_volume,
       sum(price * quantity) AS quote_volume,
       min(time) AS first_trade, max(time) AS last_trade
FROM ({rows}) trade, LATERAL (VALUES (buyer, true), (seller, false)) side_of (trader, bought)
WHERE trader IS NOT NULL {only}
GROUP BY 1, 2, 3, 4

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
