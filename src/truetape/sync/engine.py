"""A process's part in the sync: it stands for the lease, and while it leads it works."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import AsyncConnectionPool

from truetape import log
from truetape.circuit import Circuit
from truetape.connect import (
    at_once,
    conninfo,
    first_line,
    open_pool,
    within,
    without_password,
)
from truetape.errors import UnreadableError, UsageError
from truetape.line import Line
from truetape.publish import Feed, Publisher
from truetape.settings import Settings
from truetape.source import Mapping, Source
from truetape.source.bell import Bell
from truetape.source.doorbells import Doorbell, Notifications
from truetape.source.reader import sample_hashes
from truetape.store import lease, migrate, runs, sessions, state, tape
from truetape.store.apply import Writer
from truetape.store.lease import Lease, LeaseLostError
from truetape.store.runs import Run
from truetape.sync.estimate import refuse_sealed
from truetape.sync.follow import Follower
from truetape.sync.health import Health, HealthCheck, unreachable
from truetape.sync.health_watch import HealthWatch
from truetape.sync.reconcile import Reconciler
from truetape.sync.work import work_off
from truetape.sync.worker import Worker
from truetape.tasks import cancel
from truetape.trade import HashMethod

if TYPE_CHECKING:
    from truetape.publish.redis_out import RedisStream
    from truetape.store.queue import Queue

logger = log.get(__name__)

IDLE_SECONDS = 0.2
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 15.0
HEALTH_SECONDS = 1.5
SOURCE_CONNECTIONS_MAX = 4
READERS_MAX = 4
READS_UNPREPARED = 3
"""How often a reader asks the same before it is prepared."""


@dataclass
class Engine:
    """Source and analytics, opened and fit for work. Make one with ``open_engine``."""

    settings: Settings
    source: Source
    analytics: AsyncConnectionPool
    readers: AsyncConnectionPool
    """Connections for questions about the market: they read only, and no longer than some seconds."""
    line: Line
    """Over which the lease is held."""
    reconciler: Reconciler
    health: HealthCheck
    follow: bool
    feed: Feed
    circuits: dict[str, Circuit]
    """Of each server that is needed here, by name: source, analytics, redis."""
    holder: str
    """Who we are where leaders are told apart."""
    queue_pool: AsyncConnectionPool
    """Connections of the queue from which workers take slices."""
    redis: "RedisStream | None" = None
    bell: Bell = field(default_factory=Bell)
    doorbells: list[Doorbell] = field(default_factory=list)
    worker: Worker = field(init=False)
    _queue: "Queue | None" = None
    _check: asyncio.Task[Health] | None = None
    _next_check: asyncio.Task[Health] | None = None
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _lease: Lease | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _work: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = Worker(self.reconciler)

    @property
    def leads(self) -> bool:
        return self._lease is not None

    def start(self) -> None:
        """Stands for the lease from now on."""
        self._tasks.append(asyncio.create_task(self._stand()))

    async def stop(self) -> None:
        """Ends all work at a transaction's edge and gives the lease back."""
        await self.feed.close()
        await cancel([c for c in (self._check, self._next_check) if c is not None])
        await self.health.close()
        await cancel(self._tasks)
        await self._stand_down()

    async def ask(self, kind: str, params: dict[str, object]) -> Run:
        """Asks for a run; whoever leads will work on it. Raises SealedError for a force that would
        begin where raw trades are dropped."""
        if kind == "force":
            await refuse_sealed(self.reconciler, int(str(params["from_timestamp"])))
        async with self.analytics.connection() as conn:
            run = await runs.ask(conn, kind, params)
        self._asked.set()
        return run

    async def ended(self, run: Run, tell: Callable[[Run], None] | None = None) -> Run:
        """Waits for a run to end; ``tell`` hears of its progress."""
        while True:
            async with self.analytics.connection() as conn:
                now = await runs.get(conn, run.run_id)
            if now is None:
                raise UsageError(f"Run {run.run_id} is not known (any more).")
            now.joined = run.joined
            if tell is not None:
                tell(now)
            if now.ended:
                return now
            await asyncio.sleep(IDLE_SECONDS / 2)

    async def chains(self) -> list[int]:
        """The chains that the source names."""
        async with self.analytics.connection() as conn:
            return await tape.chains(conn)

    async def health_or_why(self) -> Health:
        """Health; where it cannot be known, soon and with the reason."""
        found = self._is_away() or await self._check_health()
        return replace(found, circuits={n: c.state for n, c in self.circuits.items()})

    def _is_away(self) -> Health | None:
        """The answer at once while a database is known to be out of reach."""
        for name in ("analytics", "source"):
            circuit = self.circuits[name]
            if not circuit.lets_through():
                return unreachable(f"the {name} database is out of reach ({circuit.why})")
        return None

    async def _check_health(self) -> Health:
        """There is one check at a time: whoever asks while one is under way shares the next, so that no
        number of questions takes a connection from the sync."""
        if self._next_check is None:
            self._next_check = asyncio.create_task(self._check_after(self._check))
            self._next_check.add_done_callback(lambda c: c.cancelled() or c.exception())
        check = self._next_check
        try:
            await asyncio.wait({check}, timeout=HEALTH_SECONDS)
            if not check.done():
                raise TimeoutError(f"no answer within {HEALTH_SECONDS:g} s")
            return check.result()
        except Exception as error:
            return unreachable(await self._which_is_down(error))

    async def _check_after(self, previous: asyncio.Task[Health] | None) -> Health:
        if previous is not None:
            await asyncio.wait({previous})
        self._check, self._next_check = self._next_check, None
        return await within(HEALTH_SECONDS, self.health.check())

    async def _which_is_down(self, error: BaseException) -> str:
        """Names the database that does not answer."""
        if isinstance(error, UnreadableError):
            return str(error)

        async def answers() -> None:
            async with self.analytics.connection(timeout=0.3) as conn:
                await conn.execute("SELECT 1")

        try:
            await within(0.3, answers())
        except Exception:
            return f"the analytics database is out of reach ({first_line(error)})"
        return f"the source database is out of reach ({first_line(error)})"

    # -- working for whoever leads -----------------------------------------------------------

    async def work(self, stop: asyncio.Event) -> None:
        """Takes slices that whoever leads has asked for, until ``stop``; those under way are done first."""

        while not stop.is_set():
            try:
                await (await self.queue()).work(self.settings.concurrency, stop=stop)
            except Exception as error:
                logger.error("sync.failed", work="worker", error=first_line(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await stop.wait()

    async def queue(self) -> "Queue":
        """The queue of slices; what is taken from it here is done with what is opened here."""
        if self._queue is None:
            # Imported only here: a tenth of a second that no question should pay for.
            from truetape.store.queue import Queue

            self._queue = Queue(self.queue_pool, self.worker.do)
            await self._queue.open()
        return self._queue

    # -- leading -----------------------------------------------------------------------------

    async def _stand(self) -> None:
        while True:
            try:
                held = await self.line.ask(self._acquire, lease.PATIENCE_SECONDS)
                await self._hold(held)
            except Exception as error:
                logger.warning("lease.failed", error=first_line(error))
                await self._hold(None)
            await asyncio.sleep(lease.RENEW_SECONDS if self.leads else IDLE_SECONDS)

    async def _acquire(self, conn: psycopg.AsyncConnection) -> Lease | None:
        heard = self._heard()
        return await lease.acquire(conn, self.holder, following=self.follow, doorbells=heard)

    async def _hold(self, held: Lease | None) -> None:
        if held == self._lease:
            self._lease = held
            if held is not None and held.runs_wait:
                self._asked.set()
            if held is not None and held.untold:
                self.reconciler.committed.set()
            return
        await self._end_work()
        self._lease = held
        self.reconciler.writer = self.reconciler.teller = None
        if held is None:
            logger.warning("leader.lost", holder=self.holder)
            return
        logger.info("leader.elected", holder=held.holder, epoch=held.epoch)
        self.reconciler.writer = Writer(held, self.reconciler.row_hash)
        publisher = Publisher(self.analytics, self.feed, self.reconciler.committed, self.redis)
        self.reconciler.teller = publisher
        queue = await self.queue()
        await queue.clear(held.epoch)
        self._go("runs", self._work_off_runs)
        self._go("worker", lambda: queue.work(self.settings.concurrency))
        self._go("publish", lambda: publisher.publish(held))
        if self.redis is not None:
            self._go("redis", self.redis.publish)
        if self.follow:
            follower = Follower(
                self.reconciler, self.settings, queue, self._has_vanished, self.bell, self.doorbells
            )
            watch = HealthWatch(self.analytics, self.health_or_why, self.reconciler.committed)
            self._go("follow", follower.follow)
            self._go("health", watch.watch)

    def _has_vanished(self) -> bool:
        return self._lease is not None and self._lease.vanished

    def _go(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._work.append(asyncio.create_task(self._forever(name, work)))

    async def _end_work(self) -> None:
        await cancel(self._work)
        self._work.clear()

    def _heard(self) -> list[str]:
        """The doorbells that are heard while we lead and follow."""
        if not (self.leads and self.follow):
            return []
        return [*(d.name for d in self.doorbells if d.alive), "timer"]

    async def _stand_down(self) -> None:
        await self._end_work()
        held, self._lease = self._lease, None
        if held is not None:
            with suppress(Exception):
                await self.line.ask(lambda conn: lease.release(conn, held), 2)
        await self.line.close()

    async def _forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Faults of servers end one round of work, never the work."""
        wait = RETRY_SECONDS
        while True:
            began = time.monotonic()
            try:
                await work()
            except Exception as error:
                if isinstance(error, LeaseLostError):
                    logger.warning("leader.fenced", work=name, error=str(error))
                else:
                    logger.error("sync.failed", work=name, error=first_line(error))
            # What worked for long has failed for a new reason.
            lasted = time.monotonic() - began
            wait = RETRY_SECONDS if lasted > LONGEST_RETRY_SECONDS else wait
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_RETRY_SECONDS)

    async def _work_off_runs(self) -> None:
        while self._lease is not None:
            self._asked.clear()
            async with at_once(self.analytics) as conn:
                run = await runs.take(conn, self._lease.epoch)
            if run is not None:
                await work_off(self.reconciler, await self.queue(), run)
                continue
            await self._asked.wait()


@asynccontextmanager
async def open_engine(
    settings: Settings,
    source_url: str,
    analytics_url: str,
    *,
    follow: bool,
    accept_new_source: bool = False,
    redis_url: str | None = None,
) -> AsyncIterator[Engine]:
    """Connects, migrates, checks that both fit each other. Raises one sentence when they don't.

    ``redis_url``: where the settings name none. Redis is never waited for. Nothing is written before the source is known to be usable.
    """
    size = settings.concurrency
    redis_url = settings.redis_url or redis_url
    servers = ("source", "analytics", "redis") if redis_url else ("source", "analytics")
    circuits = {server: Circuit(server) for server in servers}
    holder = lease.new_holder()
    name = lease.session_name(holder)
    open_analytics = partial(
        open_pool, analytics_url, name="analytics", circuit=circuits["analytics"], session_name=name
    )
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(
            Source.open(
                source_url,
                schema=settings.ponder_schema,
                names=Mapping.read(settings.mapping_file),
                connections=min(size + 2, SOURCE_CONNECTIONS_MAX - follow),  # one to listen
                max_rows_per_second=settings.max_rows_per_second,
                circuit=circuits["source"],
            )
        )
        if source.shape.schema == "analytics":
            raise UsageError(
                "The source's tables stand in schema analytics, which is ours; use another."
            )
        await asyncio.to_thread(migrate.migrate, analytics_url)
        analytics = await stack.enter_async_context(
            open_analytics(size=8 + 2 * size, configure=sessions.for_comparing)
        )
        writers = await stack.enter_async_context(
            open_analytics(size=size + 2, configure=sessions.for_batches, further=True)
        )
        readers = await stack.enter_async_context(
            open_analytics(size=READERS_MAX, read_only=True, configure=_set_up_reader, further=True)
        )
        queue_pool = await stack.enter_async_context(
            open_analytics(size=2, configure=sessions.for_queue, further=True)
        )
        line = Line(
            conninfo(analytics_url, "analytics", name), sessions.for_lease, circuits["analytics"]
        )
        method = await _common_hash(source, analytics)
        source.hash_method = method
        reconciler = Reconciler(
            source=source,
            analytics=analytics,
            writers=writers,
            settings=settings,
            hash_method=method,
        )
        async with analytics.connection() as conn:
            await state.remember_source(
                conn,
                source.identity,
                without_password(source_url),
                reconciler.row_hash,
                accept_new=accept_new_source,
            )
        feed = Feed(analytics)
        engine = Engine(
            settings, source, analytics, readers, line, reconciler, HealthCheck(reconciler), follow,
            feed, circuits, holder, queue_pool,
        )  # fmt: skip
        if redis_url:
            # Imported only here: nearly half of a start's time, that others should not pay for.
            from truetape.publish.redis_out import RedisStream

            engine.redis = RedisStream(redis_url, feed, circuits["redis"])
        if follow:
            reconciler.live = await stack.enter_async_context(
                open_analytics(size=1, configure=sessions.for_news, further=True)
            )
            engine.doorbells.append(
                Notifications(source_url, source.shape.schema, engine.bell.ring)
            )
            if redis_url:
                from truetape.source.trade_streams import TradeStreams

                engine.doorbells.append(
                    TradeStreams(
                        redis_url, settings.redis_trade_streams, engine.bell, engine.chains
                    )
                )
        logger.info(
            "source.found", schema=source.shape.schema, indexed=source.shape.timestamp_indexed,
            traders=_traders(source), hash=method.value,
        )  # fmt: skip
        try:
            yield engine
        finally:
            await engine.stop()


async def _set_up_reader(conn: psycopg.AsyncConnection) -> None:
    """A statement is parsed once, and planned each time: what is asked for is seldom alike."""
    conn.prepare_threshold = READS_UNPREPARED
    await conn.execute("SET default_transaction_read_only = on; SET statement_timeout = '10s'")
    await conn.execute("SET timezone = 'UTC'; SET jit = off; SET work_mem = '64MB'")
    await conn.execute(sessions.REAL_SIZES)


def _traders(source: Source) -> str:
    if source.shape.trader_columns:
        return "columns"
    return "fills" if source.shape.pairs_fills else "none"


async def _common_hash(source: Source, analytics: AsyncConnectionPool) -> HashMethod:
    """PostgreSQL's own hash where both servers agree on a fixed set of rows, else md5."""
    theirs = await source.sample_hashes(HashMethod.RECORD)
    async with analytics.connection() as conn:
        ours = await sample_hashes(conn, HashMethod.RECORD)
    return HashMethod.RECORD if theirs == ours else HashMethod.MD5
