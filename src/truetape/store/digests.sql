-- Digests: for each minute and chain the count of the rows, those that are set aside included, and the
-- order-free sum of their hashes. {hash}: of a row as it is stored here, which is what a digest vouches for.

-- name: setup
CREATE TEMP TABLE IF NOT EXISTS delta_digests (LIKE analytics.digests) ON COMMIT DELETE ROWS;

-- name: of_second
-- Further columns of the trades of a pool in a second.
sum({hash}) AS hash_sum, count(*) FILTER (WHERE buyer IS NULL AND seller IS NULL) AS unpaired

-- name: of_seconds
-- From the trades of each pool in each `second`.
SELECT date_bin('1 minute', time, 'epoch') AS bucket, chain_id, sum(trades)::bigint AS trades,
       sum(hash_sum) AS hash_sum, sum(unpaired)::bigint AS unpaired
FROM second GROUP BY 1, 2

-- name: of_range
-- What the digests of a range ought to be.
SELECT bucket, chain_id, sum(trades)::bigint AS trades, sum(hash) AS hash_sum,
       sum(unpaired)::bigint AS unpaired
FROM (
    SELECT date_bin('1 minute', time, 'epoch') AS bucket, chain_id, count(*) AS trades,
           sum({hash}) AS hash, count(*) FILTER (WHERE buyer IS NULL AND seller IS NULL) AS unpaired
    FROM analytics.tape WHERE time >= %(from)s AND time < %(to)s GROUP BY 1, 2
    UNION ALL
    SELECT date_bin('1 minute', time, 'epoch'), chain_id, copies, copies * row_hash::numeric, 0
    FROM analytics.quarantine
    WHERE time >= %(from)s AND time < %(to)s AND resolved_at IS NULL
) part
GROUP BY bucket, chain_id

-- name: add
ON CONFLICT (bucket, chain_id) DO UPDATE
SET trades = d.trades + excluded.trades, hash_sum = d.hash_sum + excluded.hash_sum,
    unpaired = d.unpaired + excluded.unpaired

-- name: move
-- What came to the tape, what went from it, and what entered and left the quarantine.
INSERT INTO analytics.digests AS d (bucket, chain_id, trades, hash_sum, unpaired)
SELECT bucket, chain_id, sum(trades), sum(hash_sum), sum(unpaired) FROM (
    SELECT bucket, chain_id, trades, hash_sum, unpaired FROM delta_digests
    UNION ALL
    SELECT date_bin('1 minute', time, 'epoch'), chain_id, -count(*), -sum({hash}),
           -count(*) FILTER (WHERE buyer IS NULL AND seller IS NULL)
    FROM gone GROUP BY 1, 2
    UNION ALL
    SELECT bucket, chain_id, copies, copies * row_hash::numeric, 0 FROM set_aside
) part
GROUP BY bucket, chain_id ORDER BY bucket, chain_id
{add}

-- name: clear_range
DELETE FROM analytics.digests WHERE bucket >= %(from)s AND bucket < %(to)s

-- name: fill_range
INSERT INTO analytics.digests (bucket, chain_id, trades, hash_sum, unpaired) {of_range}
