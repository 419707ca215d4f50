"""The queue of slices, in the analytics database: procrastinate, in schema ``analytics``.

It says who works on what, and no more: what is done, and what it brought, stands in ``job_results``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from procrastinate.jobs import DeleteJobCondition
from procrastinate.worker import Worker
from psycopg_pool import AsyncConnectionPool

from truetape.connect import first_line
from truetape.log import get
from truetape.store import sessions
from truetape.store.jobs import SILENT_SECONDS
from truetape.tasks import cancel

logger = get(__name__)

QUEUE = "slices"
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 2.0
"""How often to look without having been told: what was given back is told to nobody."""
RETRY_SECONDS = 1
NEVER_SECONDS = 10**9

# Its word for each job is ours to say; faults of ours reach the run, and of its own the next worker.
logging.getLogger("procrastinate").setLevel(logging.CRITICAL)

Do = Callable[[int, dict[str, Any], int], Awaitable[None]]
"""What to do for a job: its number, what it says, and how often it was begun before."""


# Procrastinate's own ways do this job by job, and fail where two do it at once.
_TAKE_BACK = """
DELETE FROM analytics.procrastinate_jobs WHERE id = ANY(%s) AND status = 'todo' RETURNING id
"""
_GIVE_BACK = """
UPDATE analytics.procrastinate_jobs
SET status = 'todo', attempts = attempts + 1, worker_id = NULL, scheduled_at = NULL
WHERE status = 'doing' AND (worker_id IS NULL OR worker_id IN (
    SELECT id FROM analytics.procrastinate_workers
    WHERE last_heartbeat < now() - %s * interval '1 second'))
"""
_HELD = "SELECT id FROM analytics.procrastinate_jobs WHERE id = ANY(%s)"
_CLEAR = """
WITH leads AS MATERIALIZED (
    SELECT FROM analytics.lease WHERE name = 'leader' AND epoch = %(epoch)s FOR KEY SHARE
)
DELETE FROM analytics.procrastinate_jobs
WHERE EXISTS (SELECT FROM leads)
  AND (%(run_id)s::bigint IS NULL
       OR (status = 'todo' AND (args -> 'job' ->> 'run_id')::bigint = %(run_id)s))
"""


class _Worker(Worker):
    async def _process_job(self, context: JobContext) -> None:
        """Where the queue could not be told how a job ended it would be held by us for ever: we come
        back as another worker, and it is given back."""
        try:
            await super()._process_job(context)
        except Exception as error:
            logger.warning("queue.lost", job=context.job.id, error=first_line(error))
            self.stop()  # type: ignore[no-untyped-call]


class Queue:
    """Jobs that say where to look. ``do`` is what a worker of this process does for one."""

    def __init__(self, pool: AsyncConnectionPool, do: Do) -> None:
        self._pool = pool
        self._app = App(connector=PsycopgConnector(configure=sessions.for_queue))
        self.moved = asyncio.Event()
        """Set whenever a job of this process has ended."""

        @self._app.task(
            name="slice", queue=QUEUE, pass_context=True, retry=RetryStrategy(wait=RETRY_SECONDS)
        )
        async def work(context: JobContext, job: dict[str, Any]) -> None:
            assert context.job.id is not None
            try:
                await do(context.job.id, job, context.job.attempts)
            finally:
                self.moved.set()

        self._task = work

    async def open(self) -> None:
        await self._app.open_async(self._pool)

    async def put(self, jobs: list[dict[str, Any]], *, priority: int = 0) -> list[int]:
        """Adds jobs; their numbers, ascending. The higher priority is done first."""
        deferred = self._task.configure(priority=priority)
        told: list[dict[str, Any]] = [{"job": job} for job in jobs]
        return sorted(await deferred.batch_defer_async(*told))

    async def take_back(self, numbers: list[int]) -> list[int]:
        """Takes jobs that nobody has begun off the queue; the others."""
        async with self._pool.connection() as conn:
            taken = await (await conn.execute(_TAKE_BACK, (numbers,))).fetchall()
        gone = {int(row[0]) for row in taken}
        return [n for n in numbers if n not in gone]

    async def give_back(self) -> int:
        """Puts back what silent workers had taken; how many."""
        async with self._pool.connection() as conn:
            return (await conn.execute(_GIVE_BACK, (SILENT_SECONDS,))).rowcount

    async def held(self, numbers: list[int]) -> set[int]:
        """Those of some jobs that the queue still knows."""
        async with self._pool.connection() as conn:
            found = await (await conn.execute(_HELD, (numbers,))).fetchall()
        return {int(row[0]) for row in found}

    async def clear(self, epoch: int, run_id: int | None = None) -> None:
        """Drops all jobs, or those of a run that nobody has begun: they were asked for before. Nothing is
        dropped where the leader of ``epoch`` does not lead any more."""
        async with self._pool.connection() as conn:
            await conn.execute(_CLEAR, {"epoch": epoch, "run_id": run_id})

    async def work(self, slots: int, *, stop: asyncio.Event | None = None) -> None:
        """Takes jobs, ``slots`` at a time, until cancelled, or until the last is done after ``stop``.

        Returns, too, when the queue is lost: whoever works on begins anew.
        """
        await self.give_back()
        worker = _Worker(
            self._app, queues=[QUEUE], concurrency=slots, install_signal_handlers=False,
            fetch_job_polling_interval=POLL_SECONDS, update_heartbeat_interval=NEVER_SECONDS,
            stalled_worker_timeout=SILENT_SECONDS, delete_jobs=DeleteJobCondition.ALWAYS,
            shutdown_graceful_timeout=None if stop else 0,
        )  # fmt: skip
        running = asyncio.create_task(worker.run())  # type: ignore[no-untyped-call]
        told = asyncio.create_task((stop or asyncio.Event()).wait())
        beating = asyncio.create_task(self._beat(worker))
        try:
            await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
            worker.stop()  # type: ignore[no-untyped-call]
            await running
        finally:
            await cancel([running, told, beating])

    async def _beat(self, worker: Worker) -> None:
        """Until the last job is done. The worker's own would end at the first fault, unseen, and when it is
        told to stop."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if worker.worker_id is not None:
                with suppress(Exception):
                    await self._app.job_manager.update_heartbeat(worker.worker_id)
