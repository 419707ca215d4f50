"""The demo exchange for `bench.live`: writes a line for each block, with the time its COMMIT returned."""

import json
import os
import signal
import sys
import threading
import time

import psycopg

from truetape.embedded.announcing import Announcer
from truetape.embedded.exchange_terms import Terms
from truetape.embedded.orders import Activity
from truetape.embedded.ponder_tables import PonderTables, Position
from truetape.embedded.trading import Trading


class ToldTables(PonderTables):
    """Tables that tell of each block in real time."""

    notifies = True

    def write_block(self, chain_id: int, activity: Activity, position: Position) -> None:
        if not self.notifies:
            self._channel = "nobody_listens"
        super().write_block(chain_id, activity, position)
        at = time.time()
        if activity.matches:
            print(json.dumps({"second": position.second, "at": at}), flush=True)


def main() -> None:
    rate, notify = float(sys.argv[1]), sys.argv[2] == "1"
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    terms = Terms(rate=rate, history_days=0.05, history_trades=5_000, block_time=1.0)
    with psycopg.connect(os.environ["BENCH_SOURCE"], autocommit=True) as conn:
        tables = ToldTables(conn, terms.schema, Announcer(os.environ["BENCH_REDIS"]))
        tables.notifies = notify
        Trading(tables, terms, seed=1, stop=stop).run(lock_patience=10)


main()
