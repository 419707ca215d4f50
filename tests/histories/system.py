"""Truetape with its clockwork taken out: each chore, run, restart and lost connection when we say so."""

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, ClassVar, TypeVar

import psycopg
import stamina
import structlog
import uvloop

from truetape.connect import is_transient
from truetape.errors import UnreadableError
from truetape.publish import Publisher
from truetape.settings import Settings
from truetape.source.reader import RateLimit, Source
from truetape.store import lease, queue, runs, tape
from truetape.store.apply import Writer
from truetape.store.lease import Lease, LeaseLostError
from truetape.store.queue import Queue
from truetape.store.runs import Run
from truetape.sync import jobs, reconcile, scrub, standing
from truetape.sync.engine import Engine, open_engine
from truetape.sync.follow import Follower
from truetape.sync.health import Health, HealthCheck
from truetape.sync.reconcile import Reconciler
from truetape.sync.work import work_off
from truetape.sync.worker import Worker
from truetape.tasks import cancel

T = TypeVar("T")

RESET = """
TRUNCATE analytics.tape, analytics.pools, analytics.quarantine, analytics.digests,
    analytics.candles_1m, analytics.hourly_aggregations, analytics.days, analytics.trader_hours,
    analytics.trader_days, analytics.chains, analytics.vanishing, analytics.suspects, analytics.runs,
    analytics.outbox;
UPDATE analytics.state SET complete_at = NULL, window_from = NULL, scrub_from = NULL,
    scrub_started_at = NULL, scrub_ended_at = NULL, verified_through = NULL, verified_at = NULL,
    source_table = NULL, replaced_at = NULL, sealed_before = 0, counted_before = 0, tidied_at = NULL
"""
AGE = (
    "UPDATE analytics.vanishing SET first_missed_at = first_missed_at - interval '31 seconds'",
    "UPDATE analytics.state SET replaced_at = replaced_at - interval '31 seconds' "
    "WHERE replaced_at IS NOT NULL",
)
KEEP = "UPDATE analytics.lease SET expires_at = clock_timestamp() + interval '1 hour'"
"""A lease is lost when we say so, not when the machine is slow."""
LONGEST_SECONDS = 120

TAMPERINGS = (
    "DELETE FROM analytics.tape WHERE trade_id IN (SELECT trade_id FROM analytics.tape "
    "ORDER BY md5(trade_id) LIMIT 1)",
    "UPDATE analytics.tape SET price = price + 1 WHERE trade_id IN (SELECT trade_id "
    "FROM analytics.tape ORDER BY md5(trade_id) LIMIT 2)",
    "INSERT INTO analytics.tape SELECT 'forged', time, chain_id, pool_id, side, 5, 5, 't' "
    "FROM analytics.tape ORDER BY md5(trade_id) LIMIT 1 ON CONFLICT DO NOTHING",
    "UPDATE analytics.candles_1m SET high = high + 1",
    "DELETE FROM analytics.candles_1m WHERE pool_id = '0xaa'",
    "UPDATE analytics.hourly_aggregations SET trades = trades + 1",
    "DELETE FROM analytics.days",
    "UPDATE analytics.trader_hours SET trades = trades + 1",
    "DELETE FROM analytics.trader_days WHERE pool_id = '0xbb'",
    "UPDATE analytics.digests SET hash_sum = hash_sum + 1 WHERE bucket > '-infinity'",
    "DELETE FROM analytics.digests WHERE bucket > '-infinity'",
)


class Cutter:
    """Cuts one of our connections at an exchange to come: before it, or once the other side has done
    what was asked and before we hear of it."""

    def __init__(self) -> None:
        self._left = 0
        self._reply_lost = False
        self.fired = False
        wait = psycopg.AsyncConnection.wait

        async def counted(conn: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._is_due(conn):
                return await wait(conn, *args, **kwargs)
            if self._reply_lost:
                await wait(conn, *args, **kwargs)
            self._cut(conn)
            return await wait(conn, *args, **kwargs)

        psycopg.AsyncConnection.wait = counted  # type: ignore[assignment,method-assign]

    def arm(self, exchanges: int, *, reply_lost: bool) -> None:
        self._left, self._reply_lost, self.fired = exchanges, reply_lost, False

    def disarm(self) -> None:
        self._left, self.fired = 0, False

    def _is_due(self, conn: Any) -> bool:
        if self._left == 0 or conn.closed:
            return False
        name = conn.info.parameter_status("application_name")
        if name is None or not name.startswith("truetape"):
            return False
        self._left -= 1
        return self._left == 0

    def _cut(self, conn: Any) -> None:
        self.fired = True
        with socket.socket(fileno=socket.dup(conn.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
        if self._reply_lost:
            raise psycopg.OperationalError("the connection is lost")


class System:
    """Opened once for a pair of databases; ``start`` begins a history on empty analytics."""

    def __init__(
        self, source_url: str, analytics_url: str, schema: str, cutter: Cutter, **settings: Any
    ) -> None:
        self.analytics_url = analytics_url
        self._loop = uvloop.new_event_loop()
        self._stack = AsyncExitStack()
        self._cutter = cutter
        self._settings = Settings.load(
            PONDER_SCHEMA=schema,
            SYNC_BATCH_SIZE=7,
            SYNC_CONCURRENCY=2,
            SYNC_REORG_WINDOW_MINUTES=60,
            **settings,
        )
        self._working: list[asyncio.Task[None]] = []
        self._engine: Engine = self.do(self._open(source_url))
        self._outside = psycopg.connect(analytics_url, autocommit=True)
        self._clock = psycopg.connect(analytics_url, autocommit=True)
        self._clock.execute("SET lock_timeout = '20ms'")

    async def _open(self, source_url: str) -> Engine:
        opened = open_engine(self._settings, source_url, self.analytics_url, follow=True)
        return await self._stack.enter_async_context(opened)

    def close(self) -> None:
        self._outside.close()
        self._clock.close()
        self.do(cancel(self._working))
        self.do(self._stack.aclose())
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Does some work to its end."""

        async def limited() -> T:
            async with asyncio.timeout(LONGEST_SECONDS):
                return await work

        return self._loop.run_until_complete(limited())

    # -- beginning, ending, taking over ------------------------------------------------------

    def start(self) -> None:
        self._outside.execute(RESET)
        self.restart()

    def restart(self) -> None:
        """A new process leads, of which nothing is left but what the database holds."""
        self._outside.execute("UPDATE analytics.lease SET expires_at = '-infinity'")
        self.do(self._lead())

    async def _lead(self) -> None:
        opened = self._engine.source
        source = Source(opened.pool, opened.shape, opened.identity, RateLimit(None))
        source.hash_method = opened.hash_method
        self._reconciler = Reconciler(
            source=source,
            analytics=self._engine.analytics,
            writers=self._engine.reconciler.writers,
            settings=self._settings,
            hash_method=opened.hash_method,
            live=self._engine.reconciler.live,
        )
        self._reconciler.teller = Publisher(
            self._engine.analytics, self._engine.feed, self._reconciler.committed
        )
        self._health = HealthCheck(self._reconciler)
        self._holder = lease.new_holder()
        self._reconciler.writer = Writer(await self._renew(), self._reconciler.row_hash)
        await cancel(self._working)
        self._queue = Queue(self._engine.queue_pool, Worker(self._reconciler).do)
        await self._queue.open()
        await self._surely(self._queue.clear, self._reconciler.writer.lease.epoch)
        self._working = [asyncio.create_task(self._work())]
        await self._follow_anew()

    async def _work(self) -> None:
        """As the engine does: a fault of the server ends one round of taking jobs, never the taking."""
        while True:
            try:
                await self._queue.work(self._settings.concurrency)
            except Exception as error:
                assert self._cutter.fired, error
                await asyncio.sleep(0)

    async def _renew(self) -> Lease:
        held = await self._surely(self._acquire)
        while held is None:
            held = await self._surely(self._acquire)
        self._outside.execute(KEEP)
        return held

    async def _acquire(self) -> Lease | None:
        async with self._engine.analytics.connection() as conn:
            return await lease.acquire(conn, self._holder, following=True)

    async def _surely(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Until no connection is cut."""
        while True:
            try:
                return await work(*args)
            except Exception as error:
                self._expect(error)

    async def _follow_anew(self) -> None:
        self._follower = Follower(self._reconciler, self._settings, self._queue, lambda: True)
        await self._surely(self._follower.begin)

    def take_over(self, draw: random.Random) -> None:
        """Another process takes the lease while this one works: that work ends without a trace."""
        self.do(self._taken_over(draw))
        self.restart()

    async def _taken_over(self, draw: random.Random) -> None:
        works = [asyncio.create_task(self._chore(name)) for name in ("tail", "window", "scrub")]
        await asyncio.sleep(draw.random() * 0.03)
        self._outside.execute("UPDATE analytics.lease SET expires_at = '-infinity'")
        self._holder = lease.new_holder()
        await self._renew()
        held = self._count()
        for done in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(done, BaseException):
                assert isinstance(done, LeaseLostError), done
        assert self._count() == held, "the one that no longer leads has written"

    def _count(self) -> list[Any]:
        return self._outside.execute(
            "SELECT (SELECT count(*) FROM analytics.tape), (SELECT sum(hash_sum) FROM analytics.digests)"
        ).fetchall()

    # -- working -----------------------------------------------------------------------------

    async def _chore(self, name: str) -> None:
        if name in self.RINGS:
            self._follower.bell.ring(early=self.RINGS[name])
            name = "tail"
        chores = {c.name: c for several in self._follower.chores() for c in several}
        await chores[name].work()

    RINGS: ClassVar = {"rung": False, "announced": True}
    """Looks at the tail that something has rung for; whether before its trades are committed."""
    CHORES = (
        "tail",
        *RINGS,
        "complete",
        "proof",
        "newest",
        "vanished",
        "pending",
        "pools",
        "window",
        "scrub",
    )

    def look(self, names: list[str]) -> None:
        """Some of a follower's chores, one after the other."""

        async def work() -> None:
            await self._renew()
            for name in names:
                await self._bravely(self._chore, name)

        self.do(work())

    async def _bravely(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """As the engine does: a fault of a server ends one round of following, never the following."""
        try:
            await work(*args)
        except Exception as error:
            self._expect(error)
            await self._follow_anew()

    def _expect(self, error: BaseException) -> None:
        lost = self._cutter.fired and isinstance(error, Exception) and is_transient(error)
        if not (lost or isinstance(error, UnreadableError)):
            raise error

    def look_together(
        self,
        kind: str | None,
        draw: random.Random,
        meanwhile: Callable[[], None],
        params: dict[str, Any],
    ) -> None:
        """All that a leader does, side by side, while the source goes on."""

        async def chores(names: list[str]) -> None:
            for name in names:
                await self._chore(name)

        async def work() -> None:
            await self._renew()
            inner = ["newest", "vanished", "pending", "pools", "window", "proof"]
            draw.shuffle(inner)
            works = [
                chores(["tail", *self.RINGS]),
                chores(["complete"] * 3),
                chores(inner),
                chores(["scrub"] * 2),
                self._work_off(),
            ]
            if kind is not None:
                await self._ask(kind, params)
            done = asyncio.gather(*works, asyncio.to_thread(meanwhile), return_exceptions=True)
            for error in await done:
                if isinstance(error, BaseException):
                    self._expect(error)
            if self._cutter.fired:
                await self._follow_anew()

        self.do(work())

    async def _ask(self, kind: str, params: dict[str, Any]) -> Run:
        async with self._engine.analytics.connection() as conn:
            return await runs.ask(conn, kind, params)

    async def _get(self, run: Run) -> Run:
        async with self._engine.analytics.connection() as conn:
            found = await runs.get(conn, run.run_id)
        assert found is not None
        return found

    def run(self, kind: str, **params: Any) -> Run:
        """Asks for a run and works off all that are asked for; the run as it ended."""

        async def work() -> Run:
            await self._renew()
            asked = await self._surely(self._ask, kind, params)
            await self._work_off()
            ended = await self._surely(self._get, asked)
            assert ended.state == "succeeded" or self._cutter.fired, ended
            return ended

        return self.do(work())

    async def _work_off(self) -> None:
        assert self._reconciler.writer is not None
        epoch = self._reconciler.writer.lease.epoch

        async def work() -> None:
            # What a fault left open is taken up again, as after a change of leader.
            self._outside.execute("UPDATE analytics.runs SET epoch = -1")
            while True:
                async with self._engine.analytics.connection() as conn:
                    run = await runs.take(conn, epoch)
                if run is None:
                    return
                await work_off(self._reconciler, self._queue, run)

        async with self._time_flies():
            await self._surely(work)

    def time_passes(self) -> None:
        """Half a minute, as far as vanished rows and replaced tables are concerned."""
        for statement in AGE:
            with suppress(psycopg.errors.LockNotAvailable):
                self._clock.execute(statement)

    @asynccontextmanager
    async def _time_flies(self) -> Any:
        """A run that waits for a second look need not wait long."""

        async def fly() -> None:
            while True:
                await asyncio.sleep(0.05)
                await asyncio.to_thread(self.time_passes)

        flying = asyncio.create_task(fly())
        try:
            yield
        finally:
            flying.cancel()
            await asyncio.wait([flying])

    def scrub_all(self) -> None:
        """One pass through all history, from its beginning."""

        async def work() -> None:
            self._outside.execute("UPDATE analytics.state SET scrub_from = NULL")
            before = self._scrubbed()
            while self._scrubbed() == before and await self._reconciler.extent() is not None:
                await self._chore("scrub")

        self.do(work())

    def _scrubbed(self) -> Any:
        return self.rows("SELECT scrub_ended_at FROM analytics.state")

    # -- asking and meddling -----------------------------------------------------------------

    def health(self) -> Health:
        return self.do(self._health.check())

    def by_hand(self, statement: str) -> None:
        self._outside.execute(statement)

    def rows(self, query: str) -> list[Any]:
        return self._outside.execute(query).fetchall()


def hurry() -> None:
    """No waits between tries and looks, and a hold that a small history can reach."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    stamina.set_testing(True, attempts=3)
    queue.POLL_SECONDS = jobs.TEND_SECONDS = 0.1
    scrub.PASS_SECONDS = 0.0
    standing.WAITS_SECONDS = (0.01,)
    standing.WAITS_BESIDE_A_FOLLOWER_SECONDS = (0.01,)
    tape.HOLD_ROWS = 4
    reconcile.FIRST_ROWS = 3  # A batch is read in several snapshots.


def forget_on_crash(server_url: str) -> None:
    """Makes a server of ours faster: no history makes it crash."""
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET fsync = off")
        conn.execute("SELECT pg_reload_conf()")
