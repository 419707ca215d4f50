-- Trades that are new, and nothing else: they and all that they feed, in one statement.

-- name: add
-- {second}, {rollups}: further members of WITH, each waiting for the one before, so that whoever else
-- adds takes the same locks in the same order. Where `batch` (the rows) holds anything but new trades and those
-- that are on the tape already, nothing is written.
WITH batch AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS rows (
        trade_id text COLLATE "C", time timestamptz, chain_id bigint, pool_id text COLLATE "C",
        side text COLLATE "C", price numeric, quantity numeric, transaction_id text COLLATE "C",
        buyer text COLLATE "C", seller text COLLATE "C", reason text)
), seen AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM batch WHERE reason IS NOT NULL)
       AND NOT EXISTS (
           SELECT FROM analytics.tape t WHERE t.time >= %(from)s AND t.time < %(to)s
             AND NOT EXISTS (
                 SELECT FROM batch b WHERE b.time = t.time AND b.trade_id = t.trade_id
                   AND (t.chain_id, t.pool_id, t.side, t.price, t.quantity, t.transaction_id, t.buyer,
                        t.seller)
                       IS NOT DISTINCT FROM
                       (b.chain_id, b.pool_id, b.side, b.price, b.quantity, b.transaction_id, b.buyer,
                        b.seller)))
       AND NOT EXISTS (SELECT FROM analytics.vanishing WHERE time >= %(from)s AND time < %(to)s)
       AND NOT EXISTS (
           SELECT FROM analytics.quarantine q WHERE resolved_at IS NULL
             AND ((time >= %(from)s AND time < %(to)s)
                  OR EXISTS (SELECT FROM batch b WHERE b.trade_id = q.trade_id)))
       AND NOT EXISTS (
           -- Asked pool by pool: joined, all candles that there are would be read.
           SELECT FROM (SELECT chain_id, pool_id, date_bin('1 minute', min(time), 'epoch') AS bucket
                        FROM batch GROUP BY chain_id, pool_id) b
           WHERE (SELECT max(bucket) FROM analytics.candles_1m later
                  WHERE later.chain_id = b.chain_id AND later.pool_id = b.pool_id) > b.bucket) AS all_new
), fresh AS (
    INSERT INTO analytics.tape (trade_id, time, chain_id, pool_id, side, price, quantity,
                                transaction_id, buyer, seller)
    SELECT trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id, buyer, seller
    FROM batch WHERE (SELECT all_new FROM seen) ORDER BY time, trade_id
    ON CONFLICT (time, trade_id) DO NOTHING
    RETURNING *
), {second}, {rollups}
SELECT (SELECT all_new FROM seen), (SELECT count(*) FROM fresh), (SELECT count(*) FROM batch)

-- name: lock_days
-- As in ``apply``: after all hours, and only while the commit is near.
SELECT pg_advisory_xact_lock(20055, day) FROM (
    SELECT DISTINCT floor(extract(epoch FROM bucket) / 86400)::integer AS day FROM ({hours}) h
    ORDER BY day OFFSET 0
) days
