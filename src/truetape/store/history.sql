-- All history by cells of time: what both sides hold, as far as we know without asking the source.

-- name: cells
WITH ours AS (
    SELECT date_bin(%(width)s, bucket, 'epoch') AS cell, sum(trades)::bigint AS trades
    FROM analytics.{table} WHERE bucket >= %(from)s AND bucket < %(to)s GROUP BY 1
), aside AS (
    SELECT date_bin(%(width)s, time, 'epoch') AS cell, sum(copies)::bigint AS aside
    FROM analytics.quarantine
    WHERE resolved_at IS NULL AND time >= %(from)s AND time < %(to)s GROUP BY 1
), open AS (
    SELECT date_bin(%(width)s, bucket, 'epoch') AS cell, sum(missing)::bigint AS missing,
           sum(extra)::bigint AS extra, count(*) AS minutes
    FROM analytics.suspects WHERE bucket >= %(from)s AND bucket < %(to)s GROUP BY 1
), gone AS (
    SELECT date_bin(%(width)s, time, 'epoch') AS cell, count(*) AS vanished
    FROM analytics.vanishing WHERE time >= %(from)s AND time < %(to)s GROUP BY 1
)
SELECT extract(epoch FROM cell)::bigint, coalesce(trades, 0), coalesce(aside, 0), coalesce(missing, 0),
       coalesce(extra, 0), coalesce(minutes, 0), coalesce(vanished, 0)
FROM ours FULL JOIN aside USING (cell) FULL JOIN open USING (cell) FULL JOIN gone USING (cell)
ORDER BY cell
