-- What is dropped with age, and the tape as a hypertable where TimescaleDB is there.

ALTER TABLE analytics.state
    ADD COLUMN sealed_before bigint NOT NULL DEFAULT 0,
    ADD COLUMN counted_before bigint NOT NULL DEFAULT 0,
    ADD COLUMN tidied_at timestamptz;
COMMENT ON COLUMN analytics.state.sealed_before IS
    'Unix second, on the hour: raw trades before it are dropped, what they fed stays as it is.';
COMMENT ON COLUMN analytics.state.counted_before IS
    'Sealed digests before this second were hashed in another way: of them only the counts compare.';
COMMENT ON COLUMN analytics.state.tidied_at IS 'When what has aged was last dropped.';

CREATE INDEX quarantine_resolved ON analytics.quarantine (resolved_at) WHERE resolved_at IS NOT NULL;

DO $$
DECLARE place text;
BEGIN
    SELECT extnamespace::regnamespace::text INTO place FROM pg_extension WHERE extname = 'timescaledb';
    IF place IS NOT NULL THEN
        EXECUTE format('SELECT %s.create_hypertable(''analytics.tape'', ''time'', '
            'chunk_time_interval => interval ''7 days'', create_default_indexes => false, '
            'migrate_data => true)', place);
    END IF;
END $$;
