"""The exchange of `bench.outage`: makes up for the seconds since its source was made, then writes a block a
second and tells of it as Ponder does. A line for each block, with the time its COMMIT returned."""

import json
import os
import signal
import sys
import threading
import time

import psycopg

from bench.source import RATE, trades


def main() -> None:
    first_second, made = int(sys.argv[1]), int(sys.argv[2])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with psycopg.connect(os.environ["BENCH_SOURCE"], autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")  # As in Ponder's sessions.
        due = int(time.time())
        while not stop.wait(max(due - time.time(), 0)):
            end = (due - first_second + 1) * RATE
            with conn.transaction():
                conn.execute(trades(made, end, first_second).encode())
                conn.execute("SELECT pg_notify('public_live_query', '[\"order_book_trades\"]')")
            print(json.dumps({"second": due, "at": time.time()}), flush=True)
            made, due = end, due + 1


main()
