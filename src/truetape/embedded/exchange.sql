-- The tables of a Ponder order-book project, shaped as Ponder 0.16 shapes them. Run in the search
-- path of their schema. The indexes come later, as with Ponder: only when the history is in.
CREATE TABLE IF NOT EXISTS pools (
    id text PRIMARY KEY,
    chain_id integer NOT NULL,
    coin text NOT NULL,
    order_book text NOT NULL,
    base_currency text NOT NULL,
    quote_currency text NOT NULL,
    base_decimals integer NOT NULL,
    quote_decimals integer NOT NULL
);

CREATE TABLE IF NOT EXISTS order_book_trades (
    id text PRIMARY KEY,
    chain_id integer NOT NULL,
    transaction_id text,
    pool_id text NOT NULL,
    price numeric(78, 0),
    quantity numeric(78, 0),
    side varchar,
    "timestamp" integer
);

-- The fills: two a match, one of the buy order and one of the sell order.
CREATE TABLE IF NOT EXISTS trades (
    id text PRIMARY KEY,
    chain_id integer NOT NULL,
    transaction_id text,
    pool_id text NOT NULL,
    order_id text NOT NULL,
    price numeric(78, 0),
    quantity numeric(78, 0),
    "timestamp" integer
);

CREATE TABLE IF NOT EXISTS orders (
    id text PRIMARY KEY,
    chain_id integer NOT NULL,
    "user" text,
    side varchar,
    pool_id text NOT NULL,
    price numeric(78, 0),
    quantity numeric(78, 0),
    filled numeric(78, 0),
    status varchar,
    "timestamp" integer
);

CREATE TABLE IF NOT EXISTS _ponder_meta (
    key text PRIMARY KEY,
    value jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS _ponder_checkpoint (
    chain_name text PRIMARY KEY,
    chain_id bigint NOT NULL,
    safe_checkpoint varchar(75) NOT NULL,
    latest_checkpoint varchar(75) NOT NULL,
    finalized_checkpoint varchar(75) NOT NULL
);
