-- The one transaction: a batch of source rows and all that it feeds.
-- `batch` holds what the source showed; `fresh` and `gone` what really entered and left the tape
-- (by RETURNING, so that two workers on one range cannot count a trade twice); `set_aside` what
-- entered (copies > 0) and left (copies < 0) the quarantine.

-- name: setup_batch
CREATE TEMP TABLE IF NOT EXISTS batch (
    trade_id text COLLATE "C", time timestamptz, chain_id bigint, pool_id text COLLATE "C",
    side text COLLATE "C", price numeric, quantity numeric, transaction_id text COLLATE "C",
    buyer text COLLATE "C", seller text COLLATE "C", reason text, row_hash bigint
) ON COMMIT DELETE ROWS

-- name: setup
CREATE TEMP TABLE IF NOT EXISTS fresh (LIKE analytics.tape) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS gone (LIKE analytics.tape) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS set_aside (
    row_key text COLLATE "C", trade_id text COLLATE "C", bucket timestamptz, chain_id bigint,
    copies bigint, row_hash bigint
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS bad (
    row_key text COLLATE "C", trade_id text COLLATE "C", chain_id bigint, time timestamptz,
    copies bigint, row_hash bigint, reason text
) ON COMMIT DELETE ROWS;

-- name: not_durable
SET LOCAL synchronous_commit TO off

-- name: fence
-- Nobody writes for a leader that leads no more; the lock keeps it the leader until the commit.
SELECT 1 FROM analytics.lease
WHERE name = 'leader' AND epoch = %(epoch)s AND expires_at > clock_timestamp()
FOR KEY SHARE

-- name: lock_hours
-- Whoever may take something away, or rebuilds, has an hour to itself; whoever only adds shares it,
-- since what is added can be added in any order. Hours are taken in order: no waiting in a circle.
-- Who has lost the lease takes none, and stands in nobody's way.
SELECT count({lock}(20054, hour)) FROM (
    SELECT generate_series(%(first_hour)s::integer, %(last_hour)s::integer) AS hour
    FROM analytics.lease WHERE name = 'leader' AND epoch = %(epoch)s ORDER BY hour OFFSET 0
) hours

-- name: sealed_before
SELECT sealed_before FROM analytics.state

-- name: lock_days
-- Days come after all hours, and are held only while the commit is near.
SELECT count(pg_advisory_xact_lock(20055, day)) FROM (
    SELECT DISTINCT floor(extract(epoch FROM bucket) / 86400)::integer AS day FROM (
        SELECT bucket FROM delta_hourly_aggregations
        UNION ALL SELECT bucket FROM touched_hourly_aggregations
    ) b ORDER BY day OFFSET 0
) days

-- name: lock_day_range
SELECT count(pg_advisory_xact_lock(20055, day)) FROM (
    SELECT generate_series(%(first_day)s::integer, %(last_day)s::integer) AS day OFFSET 0
) days

-- name: is_empty
SELECT NOT EXISTS (SELECT FROM analytics.tape WHERE time >= %(from)s AND time < %(to)s)

-- name: keep_refused_aside
-- A row that the database refused stays aside until it changes or somebody asks for a retry.
UPDATE batch b SET reason = q.reason FROM analytics.quarantine q
WHERE b.reason IS NULL AND q.row_key = b.trade_id AND q.row_hash = b.row_hash
  AND q.resolved_at IS NULL AND q.status = 'error'

-- name: delete_changed
WITH deleted AS (
    DELETE FROM analytics.tape t USING batch b
    WHERE t.time >= %(from)s AND t.time < %(to)s AND t.time = b.time AND t.trade_id = b.trade_id
      AND (b.reason IS NOT NULL OR
           (t.chain_id, t.pool_id, t.side, t.price, t.quantity, t.transaction_id, t.buyer, t.seller)
           IS DISTINCT FROM
           (b.chain_id, b.pool_id, b.side, b.price, b.quantity, b.transaction_id, b.buyer, b.seller))
    RETURNING t.*
)
INSERT INTO gone SELECT * FROM deleted

-- name: delete_moved
-- An id is unique in the source: standing there at another time, it no longer stands here.
WITH deleted AS (
    DELETE FROM analytics.tape t USING batch b
    WHERE t.time >= %(from)s AND t.time < %(to)s
      AND t.trade_id = b.trade_id AND t.time IS DISTINCT FROM b.time
    RETURNING t.*
)
INSERT INTO gone SELECT * FROM deleted

-- name: note_vanished
INSERT INTO analytics.vanishing (trade_id, time, first_missed_at)
SELECT t.trade_id, t.time, %(look_at)s FROM analytics.tape t
WHERE t.time >= %(from)s AND t.time < %(to)s
  AND NOT EXISTS (SELECT FROM batch b WHERE b.time = t.time AND b.trade_id = t.trade_id)
ORDER BY t.time, t.trade_id
-- Both looks have to be at a source that is not behind itself: until it is not, time starts anew.
ON CONFLICT (time, trade_id) DO UPDATE SET first_missed_at = excluded.first_missed_at
WHERE %(behind)s

-- name: forget_returned
DELETE FROM analytics.vanishing v
WHERE v.time >= %(from)s AND v.time < %(to)s
  AND (EXISTS (SELECT FROM batch b WHERE b.time = v.time AND b.trade_id = v.trade_id)
       OR NOT EXISTS (SELECT FROM analytics.tape t WHERE t.time = v.time AND t.trade_id = v.trade_id
                        AND t.time >= %(from)s AND t.time < %(to)s))

-- name: delete_vanished
-- What its own chain has not finalized yet is in the window, however far that chain is behind.
WITH ripe AS (
    DELETE FROM analytics.vanishing v USING analytics.tape t
    LEFT JOIN analytics.chains c ON c.chain_id = t.chain_id
    WHERE v.time >= %(from)s AND v.time < %(to)s AND t.time = v.time AND t.trade_id = v.trade_id
      AND t.time >= %(from)s AND t.time < %(to)s
      AND v.first_missed_at <= %(look_at)s::timestamptz
          - CASE WHEN v.time >= least(%(window_from)s::timestamptz, to_timestamp(c.finalized_time))
                 THEN interval '1 second' ELSE interval '30 seconds' END
    RETURNING v.time, v.trade_id
), deleted AS (
    DELETE FROM analytics.tape t USING ripe
    WHERE t.time = ripe.time AND t.trade_id = ripe.trade_id
      AND t.time >= %(from)s AND t.time < %(to)s
    RETURNING t.*
)
INSERT INTO gone SELECT * FROM deleted

-- name: insert_fresh
WITH inserted AS (
    INSERT INTO analytics.tape (trade_id, time, chain_id, pool_id, side, price, quantity,
                                transaction_id, buyer, seller)
    SELECT trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id, buyer, seller
    FROM batch b
    WHERE reason IS NULL
      AND NOT EXISTS (SELECT FROM analytics.tape t WHERE t.time = b.time AND t.trade_id = b.trade_id
                        AND t.time >= %(from)s AND t.time < %(to)s)
    ORDER BY time, trade_id
    ON CONFLICT (time, trade_id) DO NOTHING
    RETURNING *
)
INSERT INTO fresh SELECT * FROM inserted

-- name: copy_to_batch
COPY batch (trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id, buyer, seller,
            reason, row_hash) FROM STDIN (FORMAT binary)

-- name: copy_to_tape
COPY analytics.tape (trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id, buyer,
                     seller) FROM STDIN (FORMAT binary)

-- name: has_gone
SELECT EXISTS (SELECT FROM gone)

-- name: gather_bad
-- The key of a row without an id is its hash; an id too long for an index is named by its md5.
INSERT INTO bad
SELECT CASE WHEN trade_id IS NULL THEN 'no id, row ' || to_hex(row_hash)
            WHEN octet_length(trade_id) > 1000 THEN 'long id, md5 ' || md5(trade_id)
            ELSE trade_id END,
       min(trade_id), min(chain_id), min(time), count(*), row_hash, min(reason)
FROM batch WHERE reason IS NOT NULL GROUP BY 1, row_hash

-- name: resolve
-- What leaves the quarantine: rows that are good now, are bad in another way, are gone, or wait for
-- a retry (those that are still bad enter again, with one attempt more).
WITH resolved AS (
    UPDATE analytics.quarantine q SET resolved_at = clock_timestamp()
    WHERE q.resolved_at IS NULL
      AND NOT EXISTS (SELECT FROM bad WHERE bad.row_key = q.row_key AND bad.row_hash = q.row_hash
                      AND bad.copies = q.copies AND q.status = 'error')
      AND ({scope} OR EXISTS (SELECT FROM batch b WHERE b.trade_id = q.trade_id))
    RETURNING q.*
)
INSERT INTO set_aside
SELECT row_key, trade_id, coalesce(date_bin('1 minute', time, 'epoch'), '-infinity'), chain_id,
       -copies, row_hash
FROM resolved

-- name: scope_of_range
(q.time >= %(from)s AND q.time < %(to)s)

-- name: scope_of_impossible
q.time IS NULL

-- name: quarantine
WITH entered AS (
    INSERT INTO analytics.quarantine AS q
        (row_key, trade_id, chain_id, time, copies, row_hash, status, reason, attempts, failed_at)
    SELECT DISTINCT ON (row_key) row_key, trade_id, chain_id, time, copies, row_hash, 'error', reason,
           1, clock_timestamp()
    FROM bad ORDER BY row_key, row_hash
    ON CONFLICT (row_key) DO UPDATE
    SET trade_id = excluded.trade_id, chain_id = excluded.chain_id, time = excluded.time,
        copies = excluded.copies, row_hash = excluded.row_hash, status = 'error',
        reason = excluded.reason, attempts = q.attempts + excluded.attempts,
        failed_at = excluded.failed_at, resolved_at = NULL
    WHERE q.resolved_at IS NOT NULL
    RETURNING q.*
)
INSERT INTO set_aside
SELECT row_key, trade_id, coalesce(date_bin('1 minute', time, 'epoch'), '-infinity'), chain_id,
       copies, row_hash
FROM entered

-- name: strays
-- Rows that left the quarantine without being seen by this look: where are they now?
SELECT trade_id FROM set_aside a
WHERE copies < 0 AND trade_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM batch b WHERE b.trade_id = a.trade_id)

-- name: counts
SELECT f.trades, f.newest, (SELECT count(*) FROM gone) AS gone,
       (SELECT count(*) FROM gone g WHERE EXISTS
           (SELECT FROM ({fresh}) f WHERE f.trade_id = g.trade_id)) AS changed,
       (SELECT count(*) FROM gone g WHERE EXISTS
           (SELECT FROM bad b WHERE b.trade_id = g.trade_id)) AS spoiled,
       (SELECT coalesce(sum(copies), 0) FROM set_aside WHERE copies > 0) AS errors,
       (SELECT count(*) FROM batch) AS seen
FROM (SELECT coalesce(sum(trades), 0)::bigint AS trades,
             extract(epoch FROM max(close_time))::bigint AS newest
      FROM delta_candles_1m) f

-- name: clear_suspects
-- Whole minutes only: of one that was cut, the last piece tells.
DELETE FROM analytics.suspects
WHERE CASE WHEN %(impossible)s THEN bucket = '-infinity'
           ELSE bucket >= %(from)s AND bucket + interval '1 minute' <= %(to)s END

-- name: see_chain
-- How far the source has been; what of it is complete is another question.
INSERT INTO analytics.chains AS c VALUES
    (%(chain_id)s, 0, 0, %(finalized_block)s, %(finalized_time)s, %(block)s)
ON CONFLICT (chain_id) DO UPDATE
SET highest_block = excluded.highest_block,
    finalized_block = greatest(c.finalized_block, excluded.finalized_block),
    finalized_time = greatest(c.finalized_time, excluded.finalized_time)
WHERE c.highest_block < excluded.highest_block

-- name: is_behind
SELECT EXISTS (
    SELECT FROM analytics.chains c
    JOIN unnest(%(chains)s::bigint[], %(blocks)s::bigint[]) AS p (chain_id, block) USING (chain_id)
    WHERE p.block < c.highest_block
) OR EXISTS (
    SELECT FROM analytics.state
    WHERE source_table <> %(table)s OR replaced_at > clock_timestamp() - interval '30 seconds'
)

-- name: see_table
-- One that takes the place of another may not be filled yet: nobody tells when it is.
UPDATE analytics.state
SET replaced_at = CASE WHEN source_table IS NOT NULL THEN clock_timestamp() END,
    source_table = %(table)s
WHERE source_table IS DISTINCT FROM %(table)s
