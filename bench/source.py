"""Trades for the benchmark, made by the database itself: quick, and the same every time."""

import psycopg

RATE = 200
"""Trades a second of the source's own time."""
FIRST_SECOND = 1_754_400_000

TABLES = """
DROP TABLE IF EXISTS order_book_trades, pools;
CREATE TABLE order_book_trades (id text NOT NULL, chain_id integer NOT NULL, transaction_id text,
    pool_id text NOT NULL, price numeric(78, 0), quantity numeric(78, 0), side varchar,
    "timestamp" integer, buyer text, seller text);
CREATE TABLE pools (order_book text, coin text, chain_id integer, base_decimals integer,
    quote_decimals integer);
INSERT INTO pools SELECT '0x' || left(md5(i || 'pool') || md5(i || 'p'), 40), 'T' || i || '/USDC', 1, 18, 6
    FROM generate_series(0, 9) i;
"""
# 200 trades a second over 10 pools and 500 traders, ids and hashes as long as real ones.
TRADES = """
INSERT INTO order_book_trades
SELECT '0x' || md5('tx' || i / 3) || md5('x' || i / 3) || '-' || i % 3, 1,
       '0x' || md5('tx' || i / 3) || md5('x' || i / 3),
       '0x' || left(md5(i % 10 || 'pool') || md5(i % 10 || 'p'), 40),
       2000000000 + hashint8(i) % 1000000, abs(hashint8extended(i, 7) % 1000000000000000000),
       CASE WHEN hashint8(i) % 2 = 0 THEN 'Buy' ELSE 'Sell' END, {first_second} + i / {rate},
       '0x' || left(md5('u' || hashint8(i * 3) % 250) || md5('y'), 40),
       '0x' || left(md5('u' || hashint8(i * 7) % 250) || md5('y'), 40)
FROM generate_series({start}::bigint, {end} - 1) i;
"""
DROP_KEYS = """
ALTER TABLE order_book_trades DROP CONSTRAINT IF EXISTS order_book_trades_pkey;
DROP INDEX IF EXISTS order_book_trades_timestamp_idx;
"""
KEYS = """
ALTER TABLE order_book_trades ADD PRIMARY KEY (id);
CREATE INDEX ON order_book_trades ("timestamp");
"""


def trades(start: int, end: int, first_second: int = FIRST_SECOND) -> str:
    """SQL that adds trades ``start`` to ``end``; the first of all is of ``first_second``."""
    return TRADES.format(start=start, end=end, first_second=first_second, rate=RATE)


def grow_source(url: str, start: int, end: int, first_second: int = FIRST_SECOND) -> None:
    """From ``start`` trades to ``end``. The keys come last, which is quicker."""
    with psycopg.connect(url, autocommit=True) as conn:
        for work in (DROP_KEYS, trades(start, end, first_second), KEYS):
            conn.execute(work.encode())
        conn.execute("VACUUM ANALYZE order_book_trades")


def settle(*urls: str) -> None:
    """Has servers vacuum and write to disk what is left of work before: they would do it in the midst of
    what is measured next."""
    for url in urls:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("VACUUM ANALYZE")
            conn.execute("CHECKPOINT")


def make_source(url: str, count: int, first_second: int = FIRST_SECOND) -> None:
    """The source's tables with so many trades."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(TABLES)
    grow_source(url, 0, count, first_second)
