"""What may go wrong around the queue of slices: is each still done, and counted once?"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from test_sync import add, execute, trade

from truetape.settings import Settings
from truetape.store import jobs as store_jobs
from truetape.store.jobs import Ticket
from truetape.store.queue import Queue
from truetape.sync import jobs
from truetape.sync.engine import Engine, open_engine
from truetape.trade import Counts, Slice

HOUR = Slice(1754398800, 1754402400, 3)


def with_queue(
    source_url: str, analytics_url: str, work: Callable[[Engine, Queue, int], Awaitable[None]]
) -> None:
    """An engine that does not lead, its queue, and the epoch of whoever does."""

    async def run() -> None:
        async with open_engine(Settings.load(), source_url, analytics_url, follow=False) as engine:
            [(epoch,)] = execute(analytics_url, "SELECT epoch FROM analytics.lease")
            await work(engine, await engine.queue(), int(epoch))

    asyncio.run(run())


def test_who_no_longer_leads_clears_no_queue(source_url: str, analytics_url: str) -> None:
    async def work(_: Engine, queue: Queue, epoch: int) -> None:
        numbers = await queue.put([{"run_id": 1}, {"run_id": 2}])
        await queue.clear(epoch - 1)
        assert await queue.held(numbers) == set(numbers)
        await queue.clear(epoch, 1)
        assert await queue.held(numbers) == {numbers[1]}
        await queue.clear(epoch)
        assert await queue.held(numbers) == set()

    with_queue(source_url, analytics_url, work)


def test_a_slice_that_is_gone_from_the_queue_is_not_waited_for(
    source_url: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TEND_SECONDS", 0.0)

    async def work(engine: Engine, queue: Queue, epoch: int) -> None:
        asked = jobs.Jobs(queue, engine.analytics, epoch)
        await asked.put("slice", [(HOUR, {})])
        await queue.clear(epoch)
        async with asyncio.timeout(10):
            with pytest.raises(jobs.JobFailedError, match="gone from the queue"):
                await asked.wait(asyncio.Event())

    with_queue(source_url, analytics_url, work)


def test_hours_that_are_rebuilt_twice_count_once(source_url: str, analytics_url: str) -> None:
    add(source_url, *(trade(f"t{n}", HOUR.start + n) for n in range(3)))

    async def work(engine: Engine, _: Queue, __: int) -> None:
        execute(
            analytics_url,
            "INSERT INTO analytics.trades (trade_id, time, chain_id, pool_id, price, quantity) "
            f"SELECT 't' || n, to_timestamp({HOUR.start} + n), 0, 'p', 1, 1 FROM generate_series(0, 2) n",
        )
        first, second = (
            Ticket(n, 7, "hours", HOUR.start, HOUR.end, 3, ends=n == 2) for n in (1, 2)
        )
        async with engine.analytics.connection() as conn:
            await store_jobs.note(conn, first, Counts(inserted=3))
            await store_jobs.note_rebuilt(conn, second, HOUR.start)
            found = await store_jobs.standing(conn, 7, 2)
        assert (found.counts.processed, found.done) == (3, 1)

    with_queue(source_url, analytics_url, work)


def test_what_a_silent_worker_held_is_given_back_and_no_more(
    source_url: str, analytics_url: str
) -> None:
    async def work(_: Engine, queue: Queue, __: int) -> None:
        silent, alive, free = await queue.put([{}, {}, {}])
        execute(
            analytics_url,
            "WITH w AS (INSERT INTO analytics.procrastinate_workers (last_heartbeat) "
            "VALUES (now() - interval '1 hour'), (now()) RETURNING id, last_heartbeat) "
            "SELECT 1 FROM w",
        )
        for number, order in ((silent, "ASC"), (alive, "DESC")):
            execute(
                analytics_url,
                "SET search_path = analytics; UPDATE procrastinate_jobs SET status = 'doing', "
                "worker_id = (SELECT id FROM procrastinate_workers "
                f"ORDER BY last_heartbeat {order} LIMIT 1) WHERE id = {number}",
            )
        assert await queue.give_back() == 1
        assert await queue.give_back() == 0, "and whoever else does so finds nothing"
        assert await queue.take_back([silent, alive, free]) == [alive]

    with_queue(source_url, analytics_url, work)
