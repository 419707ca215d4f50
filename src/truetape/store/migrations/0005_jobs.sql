-- What has become of the slices that workers take from the queue.

CREATE TABLE analytics.job_results (
    job_id      bigint PRIMARY KEY,
    run_id      bigint,
    kind        text NOT NULL,
    slice_from  bigint NOT NULL,
    slice_to    bigint NOT NULL,
    rows        bigint NOT NULL,
    inserted    bigint NOT NULL DEFAULT 0,
    changed     bigint NOT NULL DEFAULT 0,
    retracted   bigint NOT NULL DEFAULT 0,
    errors      bigint NOT NULL DEFAULT 0,
    checked     bigint NOT NULL DEFAULT 0,
    reprocessed bigint NOT NULL DEFAULT 0,
    result      jsonb,
    failure     text,
    done_at     timestamptz
);
COMMENT ON TABLE analytics.job_results IS
    'What a slice of a run has brought so far, moved by the very transactions that moved the tape.';
COMMENT ON COLUMN analytics.job_results.run_id IS 'For what run; null: for the scrub.';
COMMENT ON COLUMN analytics.job_results.slice_from IS 'Where to look, [from, to) in Unix seconds.';
COMMENT ON COLUMN analytics.job_results.rows IS 'How many trades it was thought to be about.';
COMMENT ON COLUMN analytics.job_results.failure IS 'Why it could not be done.';
COMMENT ON COLUMN analytics.job_results.done_at IS 'When it was done; null: a part of it is.';
CREATE INDEX job_results_run ON analytics.job_results (run_id);
