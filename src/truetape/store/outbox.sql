-- What goes out: events written with the data, numbered once it is committed, kept for a while.

-- name: setup
-- Candles as they were before a transaction that takes trades away, brings late ones, or rebuilds.
CREATE TEMP TABLE IF NOT EXISTS old_candles ON COMMIT DELETE ROWS
    AS SELECT * FROM analytics.candles_1m WITH NO DATA

-- name: note_old
-- {late}: whether what comes to a minute before the newest of its pool corrects it.
INSERT INTO old_candles (chain_id, pool_id, bucket, open, high, low, close, base_volume, quote_volume,
                         buy_base_volume, trades)
SELECT chain_id, pool_id, k.bucket, s.open, s.high, s.low, s.close, s.base_volume, s.quote_volume,
       s.buy_base_volume, s.trades
FROM (
    SELECT chain_id, pool_id, bucket FROM touched_candles_1m
    UNION
    SELECT chain_id, pool_id, bucket FROM delta_candles_1m d
    WHERE {late} AND EXISTS (SELECT FROM analytics.candles_1m later WHERE later.chain_id = d.chain_id
                               AND later.pool_id = d.pool_id AND later.bucket > d.bucket)
) k LEFT JOIN analytics.candles_1m s USING (chain_id, pool_id, bucket)

-- name: note_old_range
INSERT INTO old_candles SELECT * FROM analytics.{table} WHERE bucket >= %(from)s AND bucket < %(to)s

-- name: forget_old
DELETE FROM old_candles

-- name: candle
json_build_object(
    'time', extract(epoch FROM {c}.bucket)::bigint,
    'open', trim_scale({c}.open * {price})::text, 'high', trim_scale({c}.high * {price})::text,
    'low', trim_scale({c}.low * {price})::text, 'close', trim_scale({c}.close * {price})::text,
    'baseVolume', trim_scale({c}.base_volume * {quantity})::text,
    'quoteVolume', trim_scale({c}.quote_volume * {price} * {quantity})::text,
    'trades', {c}.trades,
    'buyBaseVolume', trim_scale({c}.buy_base_volume * {quantity})::text)

-- name: scales
-- By what a pool's raw amounts are multiplied to be shown: exact powers of ten, or 1 where unknown.
SELECT CASE WHEN known THEN 'human' ELSE 'raw' END AS units,
       CASE WHEN known THEN ('1e-' || quote_decimals)::numeric ELSE 1 END AS price,
       CASE WHEN known THEN ('1e-' || base_decimals)::numeric ELSE 1 END AS quantity
FROM (SELECT base_decimals IS NOT NULL AND quote_decimals IS NOT NULL AS known) k

-- name: head
'symbol', p.symbol, 'poolId', {of}.pool_id, 'chainId', {of}.chain_id, 'units', x.units,
'lastPrice', trim_scale(last.close * x.price)::text,
'lastTrade', extract(epoch FROM last.close_time)::bigint

-- name: about
-- The pool of an event, its scales, and its last price as of now.
LEFT JOIN analytics.pools p USING (chain_id, pool_id)
CROSS JOIN LATERAL ({scales}) x
LEFT JOIN LATERAL (SELECT close, close_time FROM analytics.days d
                   WHERE d.chain_id = {of}.chain_id AND d.pool_id = {of}.pool_id
                   ORDER BY d.bucket DESC LIMIT 1) last ON true

-- name: tell_updates
-- One event a pool: what its new trades have made of their minutes, the newest of them in figures.
WITH added AS ({delta}), pool AS (
    SELECT chain_id, pool_id, min(bucket) AS first, max(bucket) AS last, count(*) AS minutes,
           sum(trades)::bigint AS trades
    FROM added GROUP BY chain_id, pool_id
)
INSERT INTO analytics.outbox (kind, since, data)
SELECT 'update', e.first, json_build_object({head}, 'trades', e.trades, 'interval', '1m',
       'from', extract(epoch FROM e.first)::bigint, 'to', extract(epoch FROM e.last)::bigint + 60,
       'changed', e.minutes, 'buckets', b.candles)
FROM pool e {about}
LEFT JOIN LATERAL (
    SELECT json_agg({candle} ORDER BY c.bucket) AS candles FROM (
        SELECT c.* FROM analytics.candles_1m c
        JOIN added a ON a.chain_id = c.chain_id AND a.pool_id = c.pool_id AND a.bucket = c.bucket
        WHERE c.chain_id = e.chain_id AND c.pool_id = e.pool_id
        ORDER BY c.bucket DESC LIMIT %(buckets)s) c
) b ON true
ORDER BY e.chain_id, e.pool_id

-- name: added
-- What a transaction of ``apply`` has brought, corrected minutes aside.
SELECT chain_id, pool_id, bucket, trades FROM delta_candles_1m d
WHERE NOT EXISTS (SELECT FROM old_candles o WHERE o.chain_id = d.chain_id AND o.pool_id = d.pool_id
                    AND o.bucket = d.bucket)

-- name: added_now
-- What this transaction has brought, by the time at which it began.
SELECT chain_id, pool_id, date_bin('1 minute', time, 'epoch') AS bucket, count(*) AS trades
FROM analytics.tape WHERE time >= %(from)s AND time < %(to)s AND processed_at = now()
GROUP BY 1, 2, 3

-- name: tell_corrections
-- One event a pool: published candles that are others now, the newest of them old and new.
-- {now}: the candles that stand now where ``old_candles`` stood.
WITH changed AS (
    SELECT chain_id, pool_id, bucket, o AS old, n AS new
    FROM old_candles o FULL JOIN ({now}) n USING (chain_id, pool_id, bucket)
    WHERE (o.open, o.high, o.low, o.close, o.base_volume, o.quote_volume, o.buy_base_volume, o.trades)
          IS DISTINCT FROM
          (n.open, n.high, n.low, n.close, n.base_volume, n.quote_volume, n.buy_base_volume, n.trades)
), pool AS (
    SELECT chain_id, pool_id, min(bucket) AS first, max(bucket) AS last, count(*) AS buckets,
           sum(coalesce((new).trades, 0) - coalesce((old).trades, 0))::bigint AS trades
    FROM changed GROUP BY chain_id, pool_id
)
INSERT INTO analytics.outbox (kind, since, data)
SELECT 'correction', e.first, json_build_object({head}, 'trades', e.trades, 'interval', '{interval}',
       'from', extract(epoch FROM e.first)::bigint,
       'to', extract(epoch FROM e.last)::bigint + {seconds},
       'changed', e.buckets, 'buckets', b.candles)
FROM pool e {about}
CROSS JOIN LATERAL (
    SELECT json_agg(json_build_object(
               'time', extract(epoch FROM c.bucket)::bigint,
               'old', CASE WHEN (c.old).trades IS NOT NULL THEN {old} END,
               'new', CASE WHEN (c.new).trades IS NOT NULL THEN {new} END) ORDER BY c.bucket) AS candles
    FROM (SELECT * FROM changed c WHERE c.chain_id = e.chain_id AND c.pool_id = e.pool_id
          ORDER BY c.bucket DESC LIMIT %(buckets)s) c
) b
ORDER BY e.chain_id, e.pool_id

-- name: now_of_old
SELECT s.* FROM old_candles JOIN analytics.candles_1m s USING (chain_id, pool_id, bucket)

-- name: now_of_range
SELECT * FROM analytics.{table} WHERE bucket >= %(from)s AND bucket < %(to)s

-- name: number
-- Numbers what is committed, in the order of writing, while the lease is ours; nobody else does.
WITH leads AS MATERIALIZED (
    SELECT FROM analytics.lease WHERE name = 'leader' AND holder = %(holder)s AND epoch = %(epoch)s
      AND expires_at > clock_timestamp() FOR KEY SHARE
), taken AS (
    DELETE FROM analytics.outbox WHERE outbox_id IN (
        SELECT outbox_id FROM analytics.outbox WHERE EXISTS (SELECT FROM leads)
        ORDER BY outbox_id LIMIT %(limit)s)
    RETURNING outbox_id, kind, since, data
), last AS (
    UPDATE analytics.stream
    SET sequence = sequence + (SELECT count(*) FROM taken),
        in_redis = greatest(in_redis, %(in_redis)s)
    WHERE EXISTS (SELECT FROM taken)
    RETURNING sequence - (SELECT count(*) FROM taken) AS sequence
)
INSERT INTO analytics.published (sequence, kind, since, data)
SELECT last.sequence + row_number() OVER (ORDER BY outbox_id), kind, since, data FROM taken, last
RETURNING sequence, kind, data::text

-- name: put
INSERT INTO analytics.outbox (kind, data) VALUES (%(kind)s, %(data)s)

-- name: read_after
SELECT sequence, kind, data::text FROM analytics.published WHERE sequence > %(after)s
ORDER BY sequence LIMIT %(limit)s

-- name: position
SELECT sequence, in_redis FROM analytics.stream

-- name: raise_position
UPDATE analytics.stream SET sequence = greatest(sequence, %(sequence)s)

-- name: first_unseen
-- The first bucket of which events after some number, not kept any more, told; null: any bucket.
SELECT CASE WHEN count(*) < %(kept)s OR min(through) <= %(after)s
            THEN extract(epoch FROM min(since) FILTER (WHERE through > %(after)s))::bigint END
FROM analytics.unpublished

-- name: forget_events
-- Keeps the newest events; of the others, per call, the first bucket that they were about.
WITH gone AS (
    DELETE FROM analytics.published
    WHERE sequence <= (SELECT sequence FROM analytics.stream) - %(kept)s
    RETURNING sequence, since
)
INSERT INTO analytics.unpublished
SELECT max(sequence), min(since) FROM gone HAVING count(*) > 0

-- name: forget_forgotten
DELETE FROM analytics.unpublished WHERE through IN (
    SELECT through FROM analytics.unpublished ORDER BY through DESC OFFSET %(kept)s)
