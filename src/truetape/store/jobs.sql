-- What has become of the slices of a run.

-- name: note
-- In the transaction of the data: what it brought, and whether the job is done with it.
INSERT INTO analytics.job_results AS j
    (job_id, run_id, kind, slice_from, slice_to, rows, inserted, changed, retracted, errors, checked,
     reprocessed, done_at)
VALUES (%(job_id)s, %(run_id)s, %(kind)s, %(start)s, %(end)s, %(rows)s, %(inserted)s, %(changed)s,
        %(retracted)s, %(errors)s, %(checked)s, %(reprocessed)s,
        CASE WHEN %(ends)s THEN clock_timestamp() END)
ON CONFLICT (job_id) DO UPDATE
SET inserted = j.inserted + excluded.inserted, changed = j.changed + excluded.changed,
    retracted = j.retracted + excluded.retracted, errors = j.errors + excluded.errors,
    checked = j.checked + excluded.checked, reprocessed = j.reprocessed + excluded.reprocessed,
    done_at = coalesce(j.done_at, excluded.done_at)

-- name: forget_others
-- What another job of the run has brought to these hours, which a fault has had done twice, is counted by
-- who rebuilds them last.
UPDATE analytics.job_results SET inserted = 0, changed = 0, reprocessed = 0
WHERE run_id = %(run_id)s AND kind = %(kind)s AND job_id <> %(job_id)s
  AND slice_from < %(end)s AND slice_to > %(start)s

-- name: note_rebuilt
-- All that stands in rebuilt hours counts, but what the job itself has brought only once.
INSERT INTO analytics.job_results AS j
    (job_id, run_id, kind, slice_from, slice_to, rows, reprocessed, done_at)
SELECT %(job_id)s, %(run_id)s, %(kind)s, %(start)s, %(end)s, %(rows)s,
       greatest(count(*) - coalesce((SELECT inserted + changed FROM analytics.job_results
                                     WHERE job_id = %(job_id)s), 0), 0),
       clock_timestamp()
FROM analytics.tape WHERE time >= to_timestamp(%(since)s) AND time < to_timestamp(%(end)s)
ON CONFLICT (job_id) DO UPDATE
SET reprocessed = excluded.reprocessed, done_at = coalesce(j.done_at, excluded.done_at)

-- name: note_result
INSERT INTO analytics.job_results AS j
    (job_id, run_id, kind, slice_from, slice_to, rows, result, failure, done_at)
VALUES (%(job_id)s, %(run_id)s, %(kind)s, %(start)s, %(end)s, %(rows)s, %(result)s, %(failure)s,
        CASE WHEN %(ends)s THEN clock_timestamp() END)
ON CONFLICT (job_id) DO UPDATE
SET result = excluded.result, failure = excluded.failure,
    done_at = coalesce(j.done_at, excluded.done_at)

-- name: is_wanted
-- Its leader leads, its run goes on, and it is not done: a job can be given out twice. And whether the
-- leader is there just now.
SELECT EXISTS (SELECT FROM analytics.lease WHERE name = 'leader' AND epoch = %(epoch)s)
   AND (%(run_id)s::bigint IS NULL OR EXISTS (
        SELECT FROM analytics.runs
        WHERE run_id = %(run_id)s AND state = 'running' AND epoch = %(epoch)s))
   AND NOT EXISTS (SELECT FROM analytics.job_results
                   WHERE job_id = %(job_id)s AND done_at IS NOT NULL) AS wanted,
       EXISTS (SELECT FROM analytics.lease
               WHERE name = 'leader' AND expires_at > clock_timestamp()) AS led

-- name: standing
-- Done by now, of those from `first` on, and what all jobs of the run have brought.
SELECT count(*) FILTER (WHERE job_id >= %(first)s AND done_at IS NOT NULL) AS done,
       coalesce(sum(rows) FILTER (WHERE job_id >= %(first)s AND done_at IS NOT NULL), 0)::bigint AS rows,
       coalesce(sum(inserted), 0)::bigint AS inserted, coalesce(sum(changed), 0)::bigint AS changed,
       coalesce(sum(retracted), 0)::bigint AS retracted, coalesce(sum(errors), 0)::bigint AS errors,
       coalesce(sum(checked), 0)::bigint AS checked,
       coalesce(sum(reprocessed), 0)::bigint AS reprocessed,
       min(failure) FILTER (WHERE job_id >= %(first)s) AS failure,
       (SELECT epoch FROM analytics.lease WHERE name = 'leader') AS epoch
FROM analytics.job_results
WHERE run_id = %(run_id)s OR (%(run_id)s::bigint IS NULL AND run_id IS NULL AND job_id >= %(first)s)

-- name: results
SELECT result FROM analytics.job_results
WHERE (run_id = %(run_id)s OR (%(run_id)s::bigint IS NULL AND run_id IS NULL))
  AND job_id >= %(first)s AND result IS NOT NULL
ORDER BY slice_from

-- name: stretches_done
SELECT slice_from, slice_to FROM analytics.job_results
WHERE run_id = %(run_id)s AND kind = %(kind)s AND done_at IS NOT NULL ORDER BY slice_from

-- name: workforce
SELECT (SELECT count(*) FROM analytics.procrastinate_workers
        WHERE last_heartbeat > now() - %(silent)s * interval '1 second') AS workers,
       count(*) FILTER (WHERE status = 'doing') AS in_hand,
       count(*) FILTER (WHERE status = 'todo') AS waiting
FROM analytics.procrastinate_jobs

-- name: forget_scrubs
DELETE FROM analytics.job_results WHERE run_id IS NULL AND job_id <= %(last)s

-- name: done_of
SELECT job_id FROM analytics.job_results WHERE job_id = ANY(%(jobs)s) AND done_at IS NOT NULL
