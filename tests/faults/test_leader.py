"""Two processes: when the one that leads freezes or dies, does the other take over, and only one write?"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest
from load import Load, add_history
from served import Served
from test_deletions import becomes
from test_sync import execute
from watch import (
    AUDIT,
    HANDED_OVER_SECONDS,
    SHARED,
    WRITING,
    becomes_true,
    hands_over,
    leads,
    lease,
    signed,
    until,
)

from truetape.settings import Settings
from truetape.store.lease import LEASE_SECONDS
from truetape.sync.engine import open_engine


@pytest.fixture
def two(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """The one that leads, and one that stands by."""
    add_history(source_url, 3000)
    first, second = (
        Served(
            tmp_path / f"{who}.log",
            PONDER_DATABASE_URL=source_url,
            ANALYTICS_DATABASE_URL=signed(analytics_url, who),
        )
        for who in ("first", "second")
    )
    first.start()
    try:
        first.until(lambda: leads(first, analytics_url), "leads")
        execute(analytics_url, AUDIT)
        second.start()
        yield first, second
        assert execute(analytics_url, SHARED) == []
    finally:
        for served in (first, second):
            if served.process is not None and served.process.poll() is None:
                served.process.send_signal(signal.SIGCONT)
                served.end(signal.SIGKILL)


def freeze(served: Served, analytics_url: str, draw: random.Random, *, writing: bool) -> None:
    """Stops a process; ``writing``: in the midst of a transaction that writes."""
    assert served.process is not None

    def stopped_there() -> bool:
        assert served.process is not None
        time.sleep(draw.uniform(0, 0.05))
        served.process.send_signal(signal.SIGSTOP)
        # What it has sent is done by the server in a moment.
        deadline = time.monotonic() + 0.1
        found = bool(execute(analytics_url, WRITING)[0][0])
        while found is not writing and time.monotonic() < deadline:
            found = bool(execute(analytics_url, WRITING)[0][0])
        if found is not writing:
            served.process.send_signal(signal.SIGCONT)
        return found is writing

    until("frozen at such a moment", stopped_there, 60)


@pytest.mark.parametrize("writing", [False, True], ids=["at rest", "while it writes"])
def test_a_leader_that_freezes_is_replaced_and_writes_nothing_when_it_wakes(
    two: tuple[Served, Served], writing: bool, source_url: str, analytics_url: str
) -> None:
    first, second = two
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with Load(source_url) as load:
        load.grow(50)
        first.post("/api/sync/force?wait=false", {"fromTimestamp": 1}, 202)
        epoch = lease(analytics_url)[1]
        freeze(first, analytics_url, random.Random(seed), writing=writing)
        hands_over(second, analytics_url)
        assert lease(analytics_url)[1] == epoch + 1
        assert first.process is not None
        first.process.send_signal(signal.SIGCONT)
        first.until(lambda: first.get("/api/sync/health"), "the woken one answers")
        load.grow(100)
        assert leads(second, analytics_url)
        assert lease(analytics_url)[1] == epoch + 1
        # It stands by: when the second dies it leads again.
        second.end(signal.SIGKILL)
        hands_over(first, analytics_url)
    becomes_true(first, source_url, analytics_url)


# Sessions of ours that have the lease's row and wait for a lock on an hour.
WAITING = """
SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE a.datname = current_database() AND l.relation = 'analytics.lease'::regclass
  AND l.mode = 'RowShareLock' AND a.wait_event_type = 'Lock' AND a.wait_event = 'advisory'
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_ends_while_the_server_works_for_it_is_replaced_within_five_seconds(
    two: tuple[Served, Served], number: signal.Signals, source_url: str, analytics_url: str
) -> None:
    """The server does not notice before it wants to speak to it: here, when a lock is given."""
    first, second = two
    with Load(source_url) as load, psycopg.connect(analytics_url) as other:
        load.grow(50)
        hour = int(time.time()) // 3600
        for held in (hour, hour + 1):
            other.execute("SELECT pg_advisory_xact_lock(20054, %s)", (held,))
        until("waits for the lock", lambda: execute(analytics_url, WAITING) != [(0,)])
        assert first.process is not None
        first.process.send_signal(number)
        began = time.monotonic()
        second.until(lambda: leads(second, analytics_url), "the other leads", 20)
        took = time.monotonic() - began
        assert took < HANDED_OVER_SECONDS, f"{took:.1f} s"
        other.rollback()
        load.grow(50)
    becomes_true(second, source_url, analytics_url)


def test_a_leader_that_is_killed_is_replaced_within_five_seconds(
    two: tuple[Served, Served], source_url: str, analytics_url: str
) -> None:
    first, second = two
    with Load(source_url) as load:
        load.grow(50)
        first.end(signal.SIGKILL)
        hands_over(second, analytics_url)
    becomes_true(second, source_url, analytics_url)


def test_a_leader_all_of_whose_connections_are_busy_goes_on_leading(
    source_url: str, analytics_url: str
) -> None:
    """What it holds the lease over is for nothing else."""

    async def lead() -> None:
        settings = Settings.load()
        async with (
            open_engine(settings, source_url, analytics_url, follow=False) as engine,
            AsyncExitStack() as busy,
        ):
            engine.start()
            await becomes("leads", lambda: engine.leads)
            for _ in range(engine.analytics.max_size):
                await busy.enter_async_context(engine.analytics.connection())
            await asyncio.sleep(2 * LEASE_SECONDS)
            assert engine.leads
            assert lease(analytics_url) == (os.getpid(), 1)

    asyncio.run(lead())


def test_force_asked_of_two_processes_at_once_while_following_doubles_nothing(
    two: tuple[Served, Served], source_url: str, analytics_url: str
) -> None:
    first, _ = two

    def force(served: Served) -> dict[str, object]:
        return dict(served.post("/api/sync/force", {"fromTimestamp": 1}))

    with Load(source_url) as load, ThreadPoolExecutor(2) as pool:
        load.grow(50)
        for _ in range(3):
            for answer in pool.map(force, two):
                assert answer["success"], answer
                assert int(str(answer["processed"])) > 3000
    becomes_true(first, source_url, analytics_url)
