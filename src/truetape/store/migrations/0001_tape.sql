-- The tape, what is set aside, and what both feed. Amounts are raw integers of the source (numeric);
-- times are UTC; text that is compared or ordered is COLLATE "C", so that no server's locale matters.

CREATE TABLE analytics.tape (
    trade_id       text COLLATE "C" NOT NULL,
    time           timestamptz NOT NULL,
    chain_id       bigint NOT NULL,
    pool_id        text COLLATE "C" NOT NULL,
    side           text COLLATE "C",
    price          numeric NOT NULL,
    quantity       numeric NOT NULL,
    transaction_id text COLLATE "C",
    buyer          text COLLATE "C",
    seller         text COLLATE "C",
    processed_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (time, trade_id)
);
COMMENT ON TABLE analytics.tape IS
    'Every processed trade. That a trade is processed is the fact that its row is here.';

CREATE VIEW analytics.trades AS
SELECT trade_id, time, chain_id, pool_id, side, price, quantity, price * quantity AS volume,
       transaction_id, buyer, seller, processed_at
FROM analytics.tape;

CREATE TABLE analytics.pools (
    chain_id       bigint NOT NULL,
    pool_id        text COLLATE "C" NOT NULL,
    symbol         text COLLATE "C",
    base_decimals  integer,
    quote_decimals integer,
    PRIMARY KEY (chain_id, pool_id)
);

CREATE TABLE analytics.quarantine (
    row_key        text COLLATE "C" PRIMARY KEY,
    trade_id       text COLLATE "C",
    chain_id       bigint NOT NULL,
    time           timestamptz,
    copies         integer NOT NULL,
    row_hash       bigint NOT NULL,
    status         text NOT NULL CHECK (status IN ('error', 'pending')),
    reason         text NOT NULL,
    attempts       integer NOT NULL,
    failed_at      timestamptz NOT NULL,
    resolved_at    timestamptz
);
COMMENT ON TABLE analytics.quarantine IS
    'Source rows that could not be processed, by key and reason; time is null where it is impossible.';
CREATE INDEX quarantine_time ON analytics.quarantine (time) WHERE resolved_at IS NULL;

CREATE VIEW analytics.sync_log AS
SELECT trade_id, 'analytics'::text AS service, 'processed'::text AS status, processed_at,
       NULL::text AS error_message
FROM analytics.tape
UNION ALL
SELECT row_key, 'analytics', status, failed_at, CASE status WHEN 'error' THEN reason END
FROM analytics.quarantine WHERE resolved_at IS NULL;

CREATE FUNCTION analytics.sync_log_update() RETURNS trigger LANGUAGE plpgsql
SET search_path = analytics, pg_temp AS $$
BEGIN
    IF OLD.status = 'processed' OR NEW.status NOT IN ('pending', 'error')
       OR NEW.trade_id IS DISTINCT FROM OLD.trade_id THEN
        RAISE EXCEPTION 'sync_log: only a failed trade can be changed, and only its status to ''pending'''
            USING HINT = 'To process processed trades again: truetape force --from UNIX_SECONDS';
    END IF;
    UPDATE analytics.quarantine SET status = NEW.status
    WHERE row_key = OLD.trade_id AND resolved_at IS NULL;
    PERFORM pg_notify('truetape', 'retry');
    RETURN NEW;
END $$;
CREATE TRIGGER sync_log_update INSTEAD OF UPDATE ON analytics.sync_log
    FOR EACH ROW EXECUTE FUNCTION analytics.sync_log_update();

-- Order-free sums of row hashes a minute, over the tape and the quarantine together.
-- Bucket '-infinity' holds the rows whose timestamp is impossible.
CREATE TABLE analytics.digests (
    bucket   timestamptz NOT NULL,
    chain_id bigint NOT NULL,
    trades   bigint NOT NULL,
    hash_sum numeric NOT NULL,
    unpaired bigint NOT NULL,
    PRIMARY KEY (bucket, chain_id)
);

CREATE TABLE analytics.candles_1m (
    chain_id        bigint NOT NULL,
    pool_id         text COLLATE "C" NOT NULL,
    bucket          timestamptz NOT NULL,
    open            numeric NOT NULL,
    high            numeric NOT NULL,
    low             numeric NOT NULL,
    close           numeric NOT NULL,
    base_volume     numeric NOT NULL,
    quote_volume    numeric NOT NULL,
    buy_base_volume numeric NOT NULL,
    trades          bigint NOT NULL,
    largest_trade   numeric NOT NULL,
    open_time       timestamptz NOT NULL,
    open_id         text COLLATE "C" NOT NULL,
    close_time      timestamptz NOT NULL,
    close_id        text COLLATE "C" NOT NULL,
    PRIMARY KEY (chain_id, pool_id, bucket)
);
COMMENT ON COLUMN analytics.candles_1m.open_id IS
    'With open_time the key of the first trade: within a second trades are ordered by id, byte by byte.';
-- For work on a range of time over all pools: tiny, and rows arrive nearly in order of time.
CREATE INDEX candles_1m_bucket ON analytics.candles_1m USING brin (bucket) WITH (pages_per_range = 8);

CREATE TABLE analytics.hourly_aggregations (LIKE analytics.candles_1m INCLUDING COMMENTS,
    PRIMARY KEY (chain_id, pool_id, bucket));
CREATE INDEX hourly_aggregations_bucket ON analytics.hourly_aggregations (bucket);

CREATE TABLE analytics.days (LIKE analytics.candles_1m INCLUDING COMMENTS,
    PRIMARY KEY (chain_id, pool_id, bucket));

CREATE TABLE analytics.trader_hours (
    chain_id         bigint NOT NULL,
    pool_id          text COLLATE "C" NOT NULL,
    bucket           timestamptz NOT NULL,
    trader           text COLLATE "C" NOT NULL,
    trades           bigint NOT NULL,
    buy_base_volume  numeric NOT NULL,
    sell_base_volume numeric NOT NULL,
    buy_quote_volume numeric NOT NULL,
    quote_volume     numeric NOT NULL,
    first_trade      timestamptz NOT NULL,
    last_trade       timestamptz NOT NULL,
    PRIMARY KEY (chain_id, pool_id, bucket, trader)
) WITH (fillfactor = 70);
CREATE INDEX trader_hours_bucket ON analytics.trader_hours USING brin (bucket) WITH (pages_per_range = 8);
COMMENT ON TABLE analytics.trader_hours IS
    'A row a trader, pool and hour: both sides of a trade are credited, to the buyer and to the seller.';

CREATE TABLE analytics.trader_days (LIKE analytics.trader_hours,
    PRIMARY KEY (chain_id, pool_id, bucket, trader)) WITH (fillfactor = 50);
CREATE INDEX trader_days_bucket ON analytics.trader_days (bucket);
CREATE INDEX trader_days_trader ON analytics.trader_days (trader, bucket);

CREATE VIEW analytics.daily_summaries AS
SELECT d.chain_id, d.pool_id, d.bucket, d.open, d.high, d.low, d.close, d.base_volume, d.quote_volume,
       d.buy_base_volume, d.trades,
       (SELECT count(*) FROM analytics.trader_days t
        WHERE t.chain_id = d.chain_id AND t.pool_id = d.pool_id AND t.bucket = d.bucket) AS unique_traders,
       d.largest_trade
FROM analytics.days d;

CREATE VIEW analytics.trader_stats AS
SELECT trader, chain_id, pool_id, sum(trades)::bigint AS trades, sum(buy_base_volume) AS buy_base_volume,
       sum(sell_base_volume) AS sell_base_volume, sum(quote_volume) AS quote_volume,
       min(first_trade) AS first_trade, max(last_trade) AS last_trade
FROM analytics.trader_days GROUP BY trader, chain_id, pool_id;

CREATE VIEW analytics.symbol_metrics AS
SELECT d.chain_id, d.pool_id, p.symbol, last.close AS last_price, last.close_time AS last_trade,
       d.trades, d.base_volume, d.quote_volume, d.high, d.low
FROM (SELECT chain_id, pool_id, max(bucket) AS bucket, sum(trades)::bigint AS trades,
             sum(base_volume) AS base_volume, sum(quote_volume) AS quote_volume,
             max(high) AS high, min(low) AS low
      FROM analytics.days GROUP BY chain_id, pool_id) d
JOIN analytics.days last USING (chain_id, pool_id, bucket)
LEFT JOIN analytics.pools p USING (chain_id, pool_id);

-- What we know of the source and how far we are. One row.
CREATE TABLE analytics.state (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    source_identity text,
    source_text     text,
    row_hash        text,
    complete_at     timestamptz,
    window_from     bigint,
    scrub_from      bigint,
    scrub_started_at timestamptz,
    scrub_ended_at  timestamptz,
    verified_through bigint,
    verified_at     timestamptz
);
COMMENT ON COLUMN analytics.state.complete_at IS
    'Start of the last source snapshot that was wholly applied.';
COMMENT ON COLUMN analytics.state.window_from IS
    'Unix second from which on source rows could still change when we were last complete.';
COMMENT ON COLUMN analytics.state.row_hash IS
    'SQL of a tape row''s hash, by which the stored digests were made.';
INSERT INTO analytics.state DEFAULT VALUES;

-- The position on each chain that Ponder tells of; moved with the rows.
CREATE TABLE analytics.chains (
    chain_id        bigint PRIMARY KEY,
    complete_block  bigint NOT NULL,
    complete_time   bigint NOT NULL,
    finalized_block bigint NOT NULL,
    finalized_time  bigint NOT NULL,
    highest_block   bigint NOT NULL
);

-- Tape rows that a look did not find in the source; a later look retracts them.
CREATE TABLE analytics.vanishing (
    trade_id  text COLLATE "C" NOT NULL,
    time      timestamptz NOT NULL,
    first_missed_at timestamptz NOT NULL,
    PRIMARY KEY (time, trade_id)
);

-- Minutes in which the last look saw a difference that is not applied (yet).
CREATE TABLE analytics.suspects (
    bucket   timestamptz NOT NULL,
    chain_id bigint NOT NULL,
    missing  bigint NOT NULL,
    extra    bigint NOT NULL,
    seen_at  timestamptz NOT NULL,
    PRIMARY KEY (bucket, chain_id)
);

CREATE TABLE analytics.lease (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    epoch      bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    following  boolean NOT NULL
);
INSERT INTO analytics.lease VALUES ('leader', '', 0, '-infinity', false);

CREATE TABLE analytics.runs (
    run_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('standard', 'comprehensive', 'force', 'retry', 'verify')),
    params       jsonb NOT NULL DEFAULT '{}',
    state        text NOT NULL DEFAULT 'queued'
                 CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    requested_at timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    ended_at     timestamptz,
    epoch        bigint,
    cancel       boolean NOT NULL DEFAULT false,
    total        bigint NOT NULL DEFAULT 0,
    processed    bigint NOT NULL DEFAULT 0,
    errors       bigint NOT NULL DEFAULT 0,
    inserted     bigint NOT NULL DEFAULT 0,
    changed      bigint NOT NULL DEFAULT 0,
    retracted    bigint NOT NULL DEFAULT 0,
    checked      bigint NOT NULL DEFAULT 0,
    progress     double precision NOT NULL DEFAULT 0,
    estimate_ms  bigint,
    message      text,
    result       jsonb
);
CREATE INDEX runs_open ON analytics.runs (run_id) WHERE state IN ('queued', 'running');
