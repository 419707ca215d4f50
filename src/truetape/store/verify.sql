-- Proof: rows against rows, rollups against the tape.

-- name: setup
-- What a first look found to differ, for later looks to confirm.
CREATE TEMP TABLE IF NOT EXISTS doubted (
    key text COLLATE "C", time timestamptz, kind text, theirs numeric, source_trades bigint,
    analytics_trades bigint
);
TRUNCATE doubted

-- name: differing
-- How the rows of a range (the source's in `batch`) differ: by id, one of missing, extra, changed.
WITH theirs AS (
    SELECT CASE WHEN trade_id IS NULL THEN 'no id, row ' || to_hex(row_hash)
                WHEN octet_length(trade_id) > 1000 AND reason IS NOT NULL
                THEN 'long id, md5 ' || md5(trade_id) ELSE trade_id END AS key,
           min(time) AS time, sum(row_hash) AS hash, count(*) AS copies
    FROM batch GROUP BY 1
), ours AS (
    SELECT trade_id AS key, min(time) AS time, sum({hash}) AS hash, count(*) AS copies
    FROM analytics.tape WHERE time >= %(from)s AND time < %(to)s GROUP BY 1
    UNION ALL
    SELECT row_key, time, copies * row_hash::numeric, copies FROM analytics.quarantine
    WHERE resolved_at IS NULL AND {scope}
)
SELECT coalesce(t.key, o.key) AS key, coalesce(t.time, o.time) AS time,
       CASE WHEN o.key IS NULL THEN 'missing' WHEN t.key IS NULL THEN 'extra' ELSE 'changed' END
           AS kind, t.hash AS theirs,
       (SELECT coalesce(sum(copies), 0) FROM theirs)::bigint AS source_trades,
       (SELECT coalesce(sum(copies), 0) FROM ours)::bigint AS analytics_trades
FROM theirs t FULL JOIN ours o USING (key)
WHERE (t.hash, t.copies) IS DISTINCT FROM (o.hash, o.copies)

-- name: doubt
INSERT INTO doubted {differing}

-- name: confirm
-- Of a range's doubts, only those stay that this look finds unchanged.
WITH now (key, at, kind, theirs, source_trades, analytics_trades) AS MATERIALIZED ({differing}), kept AS (
    DELETE FROM doubted USING now WHERE {doubted_scope}
      AND doubted.key = now.key AND doubted.kind = now.kind
      AND doubted.theirs IS NOT DISTINCT FROM now.theirs
    RETURNING now.*
), dropped AS (
    DELETE FROM doubted d WHERE {doubted_scope}
      AND NOT EXISTS (SELECT FROM now WHERE now.key = d.key AND now.kind = d.kind
                      AND now.theirs IS NOT DISTINCT FROM d.theirs)
)
INSERT INTO doubted SELECT * FROM kept

-- name: doubts
SELECT kind, coalesce(extract(epoch FROM min(time))::bigint, 0) AS first,
       coalesce(extract(epoch FROM max(time))::bigint, 0) AS last, count(*) AS trades,
       max(source_trades) AS source_trades, max(analytics_trades) AS analytics_trades
FROM doubted WHERE {doubted_scope} GROUP BY kind ORDER BY kind

-- name: scope_of_range
(time >= %(from)s AND time < %(to)s)

-- name: scope_of_impossible
time IS NULL

-- name: wrong_digests
SELECT DISTINCT extract(epoch FROM bucket)::bigint
FROM ({actual}) a FULL JOIN (
    SELECT bucket, chain_id, trades, hash_sum, unpaired FROM analytics.digests
    WHERE bucket >= %(from)s AND bucket < %(to)s) d USING (bucket, chain_id)
WHERE (coalesce(a.trades, 0), coalesce(a.hash_sum, 0), coalesce(a.unpaired, 0))
      IS DISTINCT FROM (coalesce(d.trades, 0), coalesce(d.hash_sum, 0), coalesce(d.unpaired, 0))
ORDER BY 1

-- name: hours_held
-- The hours of a range in which there is anything of ours at all. What is set aside feeds a digest and
-- nothing else: where that digest is gone, only the quarantine tells of the hour.
SELECT DISTINCT extract(epoch FROM bucket)::bigint FROM (
    SELECT date_bin('1 hour', time, 'epoch') AS bucket FROM analytics.quarantine
    WHERE resolved_at IS NULL AND time >= %(from)s AND time < %(to)s
    UNION ALL
    SELECT date_bin('1 hour', bucket, 'epoch') FROM analytics.digests
    WHERE bucket >= %(from)s AND bucket < %(to)s
    UNION ALL
    SELECT date_bin('1 hour', bucket, 'epoch') FROM analytics.candles_1m
    WHERE bucket >= %(from)s AND bucket < %(to)s
    UNION ALL
    SELECT bucket FROM analytics.hourly_aggregations WHERE bucket >= %(from)s AND bucket < %(to)s
    UNION ALL
    SELECT bucket FROM analytics.trader_hours WHERE bucket >= %(from)s AND bucket < %(to)s
    UNION ALL
    SELECT bucket FROM analytics.days WHERE bucket >= %(from)s AND bucket < %(to)s
    UNION ALL
    SELECT bucket FROM analytics.trader_days WHERE bucket >= %(from)s AND bucket < %(to)s
) b ORDER BY 1
