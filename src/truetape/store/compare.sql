-- Where do the two sides differ? The source's survey against our digests, minute by minute.

-- name: setup
CREATE TEMP TABLE IF NOT EXISTS survey (
    bucket timestamptz, chain_id bigint, trades bigint, hash_sum numeric,
    first_page bigint, last_page bigint
) ON COMMIT DELETE ROWS;

-- name: holds_any
SELECT EXISTS (SELECT FROM analytics.digests WHERE bucket >= %(from)s AND bucket < %(to)s)
    OR EXISTS (SELECT FROM analytics.tape WHERE time >= %(from)s AND time < %(to)s)
    OR EXISTS (SELECT FROM analytics.vanishing WHERE time >= %(from)s AND time < %(to)s)
    OR EXISTS (SELECT FROM analytics.quarantine
               WHERE resolved_at IS NULL AND time >= %(from)s AND time < %(to)s)

-- name: forget_survey
DELETE FROM survey

-- name: copy_survey
COPY survey FROM STDIN (FORMAT binary)

-- name: stored
SELECT bucket, chain_id, trades, hash_sum, unpaired FROM analytics.digests
WHERE bucket >= %(from)s AND bucket < %(to)s

-- name: in_one
-- Ours ({ours}), all chains in one.
SELECT bucket, 0::bigint AS chain_id, sum(trades) AS trades, sum(hash_sum) AS hash_sum,
       sum(unpaired) AS unpaired
FROM ({ours}) o GROUP BY bucket

-- name: compare
-- Minute by minute what the two sides hold; {noted}: what is written down about it.
WITH compared AS MATERIALIZED (
    -- One row a minute and chain that either side knows.
    SELECT bucket, chain_id, coalesce(s.trades, 0) AS theirs, coalesce(o.trades, 0) AS ours,
           coalesce(s.trades, 0) <> coalesce(o.trades, 0)
               OR ({hashed} AND coalesce(s.hash_sum, 0) <> coalesce(o.hash_sum, 0)) AS differs,
           coalesce(o.unpaired, 0) > 0 AS unpaired, s.first_page, s.last_page
    FROM (SELECT bucket, chain_id, sum(trades) AS trades, sum(hash_sum) AS hash_sum,
                 min(first_page) AS first_page, max(last_page) AS last_page
          FROM survey GROUP BY 1, 2) s
    FULL JOIN ({ours}) o USING (bucket, chain_id)
){noted}
SELECT extract(epoch FROM bucket)::bigint AS minute, sum(theirs)::bigint AS theirs,
       sum(ours)::bigint AS ours, bool_or(differs OR (%(repair_unpaired)s AND unpaired)) AS differs,
       min(first_page) AS first_page, max(last_page) AS last_page
FROM compared WHERE bucket > '-infinity' GROUP BY bucket ORDER BY bucket

-- name: note
, cleared AS (
    DELETE FROM analytics.suspects s WHERE bucket >= %(from)s AND bucket < %(to)s
      AND NOT EXISTS (SELECT FROM compared c WHERE c.differs AND c.bucket = s.bucket
                        AND c.chain_id = s.chain_id)
), noted AS (
    INSERT INTO analytics.suspects (bucket, chain_id, missing, extra, seen_at)
    SELECT bucket, chain_id, greatest(theirs - ours, 0), greatest(ours - theirs, 0),
           clock_timestamp()
    FROM compared WHERE differs ORDER BY bucket, chain_id
    ON CONFLICT (bucket, chain_id) DO UPDATE
    SET missing = excluded.missing, extra = excluded.extra, seen_at = excluded.seen_at
)

-- name: forget_returned
-- Where the two sides are alike, nothing is missing (any more).
, returned AS (
    DELETE FROM analytics.vanishing v
    WHERE v.time >= %(from)s AND v.time < %(to)s
      AND NOT EXISTS (SELECT FROM compared c WHERE c.differs
                      AND c.bucket = date_bin('1 minute', v.time, 'epoch'))
)

-- name: note_impossible
-- The rows with impossible timestamps, all in one bucket.
INSERT INTO analytics.suspects (bucket, chain_id, missing, extra, seen_at)
SELECT '-infinity', chain_id, greatest(coalesce(s.trades, 0) - coalesce(o.trades, 0), 0),
       greatest(coalesce(o.trades, 0) - coalesce(s.trades, 0), 0), clock_timestamp()
FROM (SELECT chain_id, sum(trades) AS trades, sum(hash_sum) AS hash_sum FROM survey GROUP BY 1) s
FULL JOIN (SELECT * FROM analytics.digests WHERE bucket = '-infinity') o USING (chain_id)
WHERE (coalesce(s.trades, 0), coalesce(s.hash_sum, 0))
      IS DISTINCT FROM (coalesce(o.trades, 0), coalesce(o.hash_sum, 0))
-- Two looks at once may both find it.
ON CONFLICT (bucket, chain_id) DO UPDATE
SET missing = excluded.missing, extra = excluded.extra, seen_at = excluded.seen_at

-- name: clear_impossible
DELETE FROM analytics.suspects WHERE bucket = '-infinity'

-- name: count_ours
SELECT coalesce(sum(trades), 0)::bigint FROM analytics.digests
WHERE bucket >= %(from)s AND bucket < %(to)s
