"""A crash at every exchange with the analytics database: before it is sent, and before the reply.

The process dies for real (``os._exit`` in a forked child), a new one goes on, and the analytics are
compared with a recomputation from scratch.
"""

import asyncio
import functools
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from oracle import differences
from psycopg import sql
from system import Cutter, System

from truetape import DataSyncService
from truetape.settings import Settings
from truetape.store import apply, sessions

DIED, DONE = 9, 0
BASE = 1754400000

HISTORY = f"""
INSERT INTO order_book_trades
SELECT 'i' || i, {BASE} + i * 17, 100 + i % 13, 1 + i % 7, 'p' || i % 3, 'Sell', 't'
FROM generate_series(1, 60) i;
INSERT INTO order_book_trades VALUES ('bad', {BASE}, 'NaN', 1, 'p1', 'buy', 't');
"""
CHANGES = f"""
INSERT INTO order_book_trades
SELECT 'n' || i, {BASE} + 1000 + i, 50, 2, 'p1', 'Buy', 't' FROM generate_series(1, 30) i;
INSERT INTO order_book_trades VALUES ('late', {BASE} - 90000, 5, 5, 'p0', 'buy', 't');
UPDATE order_book_trades SET price = 7 WHERE id IN ('i5', 'i6', 'bad');
UPDATE order_book_trades SET "timestamp" = "timestamp" + 70 WHERE id = 'i40';
"""


VANISHED = """
UPDATE order_book_trades SET price = 8 WHERE id IN ('i58', 'i59');
DELETE FROM order_book_trades WHERE id IN ('i3', 'i57');
UPDATE order_book_trades SET "timestamp" = "timestamp" + 70 WHERE id = 'i40';
"""


def asked(ask: Callable[[DataSyncService], Any]) -> Callable[[str, str], None]:
    """Asks for a run and waits for its end."""

    def work(source_url: str, analytics_url: str) -> None:
        async def run() -> None:
            settings = Settings.load(SYNC_BATCH_SIZE=25, SYNC_CONCURRENCY=1)
            async with DataSyncService(source_url, analytics_url, settings) as service:
                assert (await ask(service)).success

        asyncio.run(run())

    return work


def followed(*chores: str) -> Callable[[str, str], None]:
    """Follows: these chores, and half a minute later again."""

    def work(source_url: str, analytics_url: str) -> None:
        system = System(source_url, analytics_url, "public", Cutter())
        system.restart()
        for _ in range(2):
            system.look(list(chores))
            system.time_passes()
        system.run("standard")
        system.close()

    return work


missed = asked(lambda service: service.sync_missed_data())


@dataclass(frozen=True)
class Scenario:
    """What happens in the source, what happens to the analytics by hand, and what is done then."""

    work: Callable[[str, str], None]
    changes: str = ""
    by_hand: str = ""


SCENARIOS = {
    "catch-up from nothing": Scenario(missed),
    "changes, late rows, a mended one": Scenario(missed, CHANGES),
    "follow": Scenario(
        followed("tail", "proof", "pending", "pools", "newest", "vanished"), CHANGES
    ),
    "window": Scenario(followed("window", "newest", "vanished"), VANISHED),
    "force": Scenario(
        asked(lambda service: service.force_sync_from(BASE)),
        by_hand="UPDATE analytics.candles_1m SET high = high + 1",
    ),
    "retry": Scenario(
        missed,
        "UPDATE order_book_trades SET price = 3 WHERE id = 'bad'",
        "UPDATE analytics.sync_log SET status = 'pending' WHERE status = 'error'",
    ),
}


def in_child(work: Callable[[], None]) -> int:
    """Runs work in a forked child; its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = DONE
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(number: int, *, after: bool, database: str) -> None:
    """From now on the process dies at this exchange with a database, or when its reply is there."""
    seen = 0
    wait = psycopg.AsyncConnection.wait

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        if self.info.dbname != database:
            return await wait(self, *args, **kwargs)
        seen += 1
        if seen == number and not after:
            os._exit(DIED)
        reply = await wait(self, *args, **kwargs)
        if seen >= number and after:
            os._exit(DIED)
        return reply

    psycopg.AsyncConnection.wait = counted  # type: ignore[method-assign]


class Copies:
    """Copies of a prepared analytics database, one for each death."""

    def __init__(self, server_url: str, prepared_url: str) -> None:
        self._server_url = server_url
        self._prefix, _, self._prepared = prepared_url.rpartition("/")
        self.name = f"{self._prepared}_copy"

    def make(self) -> str:
        self.drop()
        with psycopg.connect(self._server_url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(self.name), sql.Identifier(self._prepared)
                )
            )
        return f"{self._prefix}/{self.name}"

    def drop(self) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name))
            )


@pytest.mark.parametrize("after", [False, True], ids=["before sending", "reply lost"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_every_exchange_loses_and_doubles_nothing(
    store_server_url: str, source_url: str, analytics_url: str, scenario: str, after: bool
) -> None:
    walked = SCENARIOS[scenario]
    with psycopg.connect(source_url, autocommit=True) as conn:
        conn.execute(HISTORY)
    if scenario != "catch-up from nothing":
        assert in_child(lambda: missed(source_url, analytics_url)) == DONE
        for url, statement in ((source_url, walked.changes), (analytics_url, walked.by_hand)):
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(statement)
    copies = Copies(store_server_url, analytics_url)
    # Some exchanges in the lane, from a first one that varies; TRUETAPE_TEST_EVERY=1 walks all.
    stride = int(os.environ.get("TRUETAPE_TEST_EVERY", "80"))
    number, deaths = random.randrange(stride) + 1, 0
    print(f"first exchange {number}, every {stride}")
    try:
        while True:
            url = copies.make()

            def dying(url: str = url, number: int = number) -> None:
                die_at(number, after=after, database=copies.name)
                walked.work(source_url, url)

            code = in_child(dying)
            assert code in (DIED, DONE), f"exchange {number}"
            if code == DONE:
                break
            deaths += 1
            expire_lease(url)
            again = functools.partial(walked.work, source_url, url)
            assert in_child(again) == DONE, f"exchange {number}"
            assert differences(source_url, url) == [], f"exchange {number}"
            number += stride
        assert deaths * stride > 40
    finally:
        copies.drop()


def expire_lease(url: str) -> None:
    """So that a test need not wait until a dead leader's lease has run out."""
    with psycopg.connect(url, autocommit=True) as conn:
        exists = conn.execute("SELECT to_regclass('analytics.lease')").fetchone()
        if exists and exists[0]:
            conn.execute("UPDATE analytics.lease SET expires_at = '-infinity'")


WAITS = """
SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE a.datname = current_database() AND l.relation = 'analytics.lease'::regclass
  AND l.mode = 'RowShareLock'
"""


def test_wherever_a_batch_waits_the_server_ends_what_falls_silent(
    source_url: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit for silent transactions holds between pipelines, not within one."""
    monkeypatch.setattr(sessions, "WRITING", sessions.WRITING.replace("'15s'", "'1s'"))
    silent: set[str] = set()

    def falls_silent(where: str) -> None:
        """Once at each place, as a process that is frozen there."""
        if where in silent:
            return
        silent.add(where)
        deadline = time.monotonic() + 5
        with psycopg.connect(analytics_url, autocommit=True) as conn:
            assert conn.execute(WAITS).fetchone() == (1,)
            while conn.execute(WAITS).fetchone() != (0,):
                assert time.monotonic() < deadline, where
                time.sleep(0.05)

    fill_minutes, counts = apply.fill_minutes, apply._counts

    def filled(row_hash: str, fresh: str) -> str:
        falls_silent("before what it feeds")  # it is the first statement after one is waited for
        return fill_minutes(row_hash, fresh)

    async def counted(cursor: psycopg.AsyncCursor[Any]) -> Any:
        falls_silent("before the commit")
        return await counts(cursor)

    monkeypatch.setattr(apply, "fill_minutes", filled)
    monkeypatch.setattr(apply, "_counts", counted)
    with psycopg.connect(source_url) as conn:
        conn.execute(HISTORY)
    missed(source_url, analytics_url)
    assert len(silent) == 2
    assert differences(source_url, analytics_url) == []
