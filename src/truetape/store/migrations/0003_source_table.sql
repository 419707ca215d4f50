-- Which table or view the trades stand in: one that takes the place of another may not be filled yet.

ALTER TABLE analytics.state ADD COLUMN source_table bigint, ADD COLUMN replaced_at timestamptz;
COMMENT ON COLUMN analytics.state.source_table IS
    'Oid of the table or view that the trades were last read from; another one took its place at replaced_at.';
