-- What goes out after a commit: written in the data transaction, numbered after it.

CREATE TABLE analytics.outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind      text NOT NULL CHECK (kind IN ('update', 'correction', 'health')),
    since     timestamptz,
    data      json NOT NULL
);
COMMENT ON TABLE analytics.outbox IS
    'What transactions had to tell and nobody has numbered yet; since: the first bucket it is about.';

CREATE TABLE analytics.published (
    sequence bigint PRIMARY KEY,
    kind     text NOT NULL,
    since    timestamptz,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    data     json NOT NULL
);
COMMENT ON TABLE analytics.published IS
    'The newest events of the stream, in the order that everybody is told them.';

CREATE TABLE analytics.unpublished (
    through bigint PRIMARY KEY,
    since   timestamptz
);
COMMENT ON TABLE analytics.unpublished IS
    'Of events that are no longer kept: the last of some, and the first bucket that they were about.';

CREATE TABLE analytics.stream (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    sequence bigint NOT NULL DEFAULT 0,
    in_redis bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN analytics.stream.sequence IS 'The last number given; it only grows.';
COMMENT ON COLUMN analytics.stream.in_redis IS 'The last number known to be in Redis.';
INSERT INTO analytics.stream DEFAULT VALUES;

-- The doorbells that the leader hears, for whoever is asked for health.
ALTER TABLE analytics.lease ADD COLUMN doorbells text[] NOT NULL DEFAULT '{}';
