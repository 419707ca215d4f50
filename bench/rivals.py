"""What we are measured against: the bare COPY, row by row as older services do it, and replication."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.over_time import Course
from bench.source import settle
from truetape.embedded import EmbeddedPostgres
from truetape.source.blocks import gather

PIPE_TABLE = """
DROP TABLE IF EXISTS pipe;
CREATE TABLE pipe (time timestamptz, id text COLLATE "C", chain_id bigint, pool_id text, side text,
    price numeric, quantity numeric, transaction_id text, buyer text, seller text, PRIMARY KEY (time, id))
"""
PIPE_READ = """
COPY (SELECT to_timestamp("timestamp"), id, chain_id::bigint, pool_id, side::text, price::numeric,
             quantity::numeric, transaction_id, buyer, seller FROM order_book_trades) TO STDOUT (FORMAT binary)
"""


class LogicalPostgres(EmbeddedPostgres):
    """A server that can be replicated from."""

    def _command(self, port: int) -> list[str]:
        return [*super()._command(port), "-c", "wal_level=logical"]


def pipe(source_url: str, target_url: str) -> tuple[float, Course]:
    """Seconds for the bare binary COPY of the same rows, the limit; and its course, in bytes."""
    settle(source_url, target_url)
    with psycopg.connect(source_url) as source, psycopg.connect(target_url) as target:
        target.execute(PIPE_TABLE)
        target.commit()
        course, sent = Course(), 0
        with (
            source.cursor().copy(PIPE_READ) as rows,
            target.cursor().copy("COPY pipe FROM STDIN (FORMAT binary)") as into,
        ):
            for row in rows:
                block, failed = gather(source.pgconn, row)
                assert not failed
                into.write(block)
                sent += len(block)
                course.note(sent)
        target.commit()
        return course.end(sent), course


# -- row by row --------------------------------------------------------------------------------

BATCH = 50
ROWS_TABLES = """
DROP TABLE IF EXISTS rows_trades, rows_minutes, rows_hours, rows_days, rows_log;
CREATE TABLE rows_trades (id text PRIMARY KEY, time timestamptz, pool_id text, price numeric,
    quantity numeric);
CREATE TABLE rows_minutes (pool_id text, bucket timestamptz, open numeric, high numeric, low numeric,
    close numeric, volume numeric, trades bigint, PRIMARY KEY (pool_id, bucket));
CREATE TABLE rows_hours (LIKE rows_minutes INCLUDING ALL);
CREATE TABLE rows_days (LIKE rows_minutes INCLUDING ALL);
CREATE TABLE rows_log (trade_id text PRIMARY KEY, status text, processed_at timestamptz DEFAULT now());
"""
ROWS_NEXT = """
SELECT id, "timestamp", pool_id, price, quantity FROM order_book_trades
WHERE ("timestamp", id) > (%s, %s) ORDER BY "timestamp", id LIMIT %s
"""
_CANDLE: LiteralString = """
INSERT INTO {table} AS s VALUES (%(pool)s, date_trunc('{unit}', to_timestamp(%(time)s)), %(price)s,
    %(price)s, %(price)s, %(price)s, %(price)s::numeric * %(quantity)s, 1)
ON CONFLICT (pool_id, bucket) DO UPDATE SET high = greatest(s.high, excluded.high),
    low = least(s.low, excluded.low), close = excluded.close, volume = s.volume + excluded.volume,
    trades = s.trades + 1
"""
ROWS_STATEMENTS: tuple[LiteralString, ...] = (
    "INSERT INTO rows_trades VALUES (%(id)s, to_timestamp(%(time)s), %(pool)s, %(price)s, %(quantity)s)",
    _CANDLE.format(table="rows_minutes", unit="minute"),
    _CANDLE.format(table="rows_hours", unit="hour"),
    _CANDLE.format(table="rows_days", unit="day"),
    "INSERT INTO rows_log VALUES (%(id)s, 'processed')",
)


def row_by_row(source_url: str, target_url: str, trades: int) -> float:
    """Seconds for so many trades in batches of 50, five statements a trade, each its own commit."""
    settle(source_url, target_url)
    with (
        psycopg.connect(source_url, autocommit=True) as source,
        psycopg.connect(target_url, autocommit=True) as target,
    ):
        target.execute(ROWS_TABLES)
        began, done, last = time.monotonic(), 0, (0, "")
        while done < trades:
            batch = source.execute(ROWS_NEXT, (*last, BATCH)).fetchall()
            for trade_id, second, pool, price, quantity in batch:
                values = {
                    "id": trade_id, "time": second, "pool": pool, "price": price,
                    "quantity": quantity,
                }  # fmt: skip
                for statement in ROWS_STATEMENTS:
                    target.execute(statement, values)
                last = (second, trade_id)
            done += len(batch)
        return time.monotonic() - began


# -- logical replication -----------------------------------------------------------------------

FILL = """
DO $$ DECLARE second record; BEGIN
    FOR second IN (SELECT DISTINCT "timestamp" FROM order_book_trades ORDER BY 1) LOOP
        INSERT INTO replicated SELECT * FROM order_book_trades WHERE "timestamp" = second."timestamp";
        COMMIT;
    END LOOP;
END $$
"""


@contextmanager
def _subscribed(source_url: str, target_url: str) -> Iterator[None]:
    place = conninfo_to_dict(source_url)
    conninfo = " ".join(f"{k}={place[k]}" for k in ("host", "port", "user", "password", "dbname"))
    with (
        psycopg.connect(source_url, autocommit=True) as source,
        psycopg.connect(target_url, autocommit=True) as target,
    ):
        source.execute("DROP TABLE IF EXISTS replicated")
        source.execute("CREATE TABLE replicated (LIKE order_book_trades INCLUDING ALL)")
        source.execute("CREATE PUBLICATION trades FOR TABLE replicated")
        target.execute("DROP TABLE IF EXISTS replicated")
        target.execute(
            "CREATE TABLE replicated (id text PRIMARY KEY, chain_id integer NOT NULL, "
            "transaction_id text, pool_id text NOT NULL, price numeric(78, 0), "
            'quantity numeric(78, 0), side varchar, "timestamp" integer, buyer text, seller text)'
        )
        target.execute(
            f"CREATE SUBSCRIPTION trades CONNECTION '{conninfo}' PUBLICATION trades "
            "WITH (enabled = false, copy_data = false, create_slot = false)".encode()
        )
        source.execute("SELECT pg_create_logical_replication_slot('trades', 'pgoutput')")
        try:
            yield
        finally:
            target.execute("DROP SUBSCRIPTION trades")
            source.execute("DROP PUBLICATION trades")
            source.execute("DROP TABLE replicated")


def replication(source_url: str, target_url: str) -> float:
    """Seconds for PostgreSQL's logical replication to catch up on the same rows, a second's trades a
    transaction, with no rollup at all."""
    with _subscribed(source_url, target_url):
        with psycopg.connect(source_url, autocommit=True) as source:
            source.execute("SET synchronous_commit = off")
            source.execute(FILL)
            settle(source_url, target_url)
            row = source.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            assert row is not None
            end = row[0]
            began = time.monotonic()
            with psycopg.connect(target_url, autocommit=True) as target:
                target.execute("ALTER SUBSCRIPTION trades ENABLE")
            confirmed = "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE slot_name = 'trades'"
            while source.execute(confirmed, (end,)).fetchone() != (True,):
                time.sleep(0.05)
            seconds = time.monotonic() - began
            sent = source.execute("SELECT count(*) FROM replicated").fetchone()
        with psycopg.connect(target_url) as target:
            assert target.execute("SELECT count(*) FROM replicated").fetchone() == sent
        return seconds
