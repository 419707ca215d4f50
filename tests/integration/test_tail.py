"""The newest rows of the source, read again and again by a statement that is prepared once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import cast

import psycopg
import pytest
from test_sync import add, execute, trade

from truetape.publish import Publisher
from truetape.settings import Settings
from truetape.source import Source
from truetape.source.bell import Bell
from truetape.source.newest import Tail
from truetape.source.snapshot import LOCK_TIMEOUT_SECONDS
from truetape.store import lease
from truetape.store.apply import Writer
from truetape.sync.engine import open_engine
from truetape.sync.proof import Proof, ask_for_catch_up
from truetape.sync.retraction import judge
from truetape.sync.tail import MISSED_ROWS, TAIL_SECONDS, LiveTail
from truetape.trade import Slice

BASE = 1754400000
PART = Slice(BASE + 1, BASE + 61)


def rows(tail: Tail) -> list[str] | None:
    """The ids that came with a tail; None where its rows did not."""
    if tail.rows is None:
        return None
    return sorted(row["trade_id"] for row in json.loads(tail.rows.json))


@pytest.fixture
def source(source_url: str) -> str:
    add(source_url, trade("old", BASE), *(trade(f"t{n}", BASE + n) for n in (1, 60, 61)))
    return source_url


def test_the_rows_of_a_slice_come_with_the_tail_if_they_are_few(source: str) -> None:
    async def run() -> None:
        async with Source.open(source) as opened:
            for _ in range(7):  # Whatever the server thinks of plans for all.
                tail = await opened.newest.tail(BASE, PART, 2)
                assert (tail.news.rows, rows(tail)) == (4, ["t1", "t60"])
            assert rows(await opened.newest.tail(BASE, PART, 1)) is None
            assert rows(await opened.newest.tail(BASE, Slice(BASE + 2, BASE + 60), 1)) is None
            add(source, trade("t2", BASE + 2))
            assert rows(await opened.newest.tail(BASE, PART, 3)) == ["t1", "t2", "t60"]

    asyncio.run(run())


def test_a_pooler_that_gives_another_session_each_time_has_it_planned_each_time(
    source: str,
) -> None:
    """What was prepared is gone: no fault, and no rows that once."""

    async def run() -> None:
        async with Source.open(source, connections=1) as opened:
            assert rows(await opened.newest.tail(BASE, PART, 2)) == ["t1", "t60"]
            async with opened.pool.connection() as conn:
                await conn.execute("DISCARD ALL")
            tail = await opened.newest.tail(BASE, PART, 2)
            assert (tail.news.rows, rows(tail)) == (4, None)
            for _ in range(2):
                assert rows(await opened.newest.tail(BASE, PART, 2)) == ["t1", "t60"]

    asyncio.run(run())


def test_what_is_prepared_already_is_used(source: str) -> None:
    """By another process behind the same pooler, or by us, before a cancellation."""

    async def run() -> None:
        async with Source.open(source, connections=1) as opened:
            for _ in range(2):
                assert rows(await opened.newest.tail(BASE, PART, 2)) == ["t1", "t60"]
                opened.newest._prepared.clear()
            assert opened.newest._may_prepare

    asyncio.run(run())


def test_a_lock_on_the_source_is_not_waited_for_long_to_plan(source: str) -> None:
    execute(source, "CREATE INDEX ON order_book_trades (timestamp)")

    async def run() -> None:
        async with Source.open(source, connections=1) as opened:
            async with await psycopg.AsyncConnection.connect(source) as other:
                await other.execute("LOCK TABLE order_book_trades IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await asyncio.wait_for(
                        opened.newest.tail(BASE, PART, 2), LOCK_TIMEOUT_SECONDS + 5
                    )
            assert rows(await opened.newest.tail(BASE, PART, 2)) == ["t1", "t60"]

    asyncio.run(run())


def test_a_view_that_is_made_anew_is_read_as_before(source: str) -> None:
    execute(source, "CREATE SCHEMA seen")
    views = "".join(
        f"DROP VIEW IF EXISTS seen.{table}; CREATE VIEW seen.{table} AS SELECT * FROM public.{table};"
        for table in ("order_book_trades", "pools")
    )
    execute(source, views)

    async def run() -> None:
        async with Source.open(source, schema="seen") as opened:
            assert rows(await opened.newest.tail(BASE, PART, 2)) == ["t1", "t60"]
            for _ in range(2):
                execute(source, views)
                assert (await opened.newest.tail(BASE, PART, 2)).news.rows == 4
                assert rows(await opened.newest.tail(BASE, PART, 2)) == ["t1", "t60"]

    asyncio.run(run())


@asynccontextmanager
async def followed(source_url: str, analytics_url: str, bell: Bell) -> AsyncIterator[LiveTail]:
    """The tail, followed by a process that leads and does nothing else."""
    settings = Settings.load()
    async with open_engine(settings, source_url, analytics_url, follow=True) as engine:
        reconciler = engine.reconciler
        async with engine.analytics.connection() as conn:
            held = await lease.acquire(conn, lease.new_holder(), following=True)
        assert held is not None
        reconciler.writer = Writer(held, reconciler.row_hash)
        reconciler.teller = Publisher(engine.analytics, engine.feed, reconciler.committed)
        tail = LiveTail(reconciler, settings, bell, Proof(reconciler, given=True))
        await tail.begin([])
        yield tail


def test_what_an_outage_has_left_out_is_a_runs_which_tells_of_it(
    source: str, analytics_url: str
) -> None:
    many = f"""INSERT INTO order_book_trades
        SELECT 'm' || i, {BASE} + 100 + i / 100, 1, 1, 'p', 'buy', 't' FROM generate_series(0, %s) i"""

    async def run() -> None:
        async with followed(source, analytics_url, Bell()) as tail:
            await tail.follow()
            execute(source, many % (MISSED_ROWS // 2))
            await tail.begin([])
            assert tail.since == BASE + 61, "a little is taken in here"
            execute(source, "DELETE FROM order_book_trades WHERE id LIKE 'm%'")
            execute(source, many % MISSED_ROWS)
            await tail.begin([])
            assert tail.since == BASE + 100 + MISSED_ROWS // 100

    asyncio.run(run())


def test_what_is_announced_is_waited_for_though_a_look_is_due(
    source: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that ends just before the commit leaves the next one to begin after it."""
    execute(source, "CREATE INDEX ON order_book_trades (timestamp)")
    monkeypatch.setattr("truetape.source.bell.PATIENCE_SECONDS", 5.0)

    async def run() -> None:
        bell = Bell()
        async with followed(source, analytics_url, bell) as tail:
            await tail.follow()
            await asyncio.sleep(TAIL_SECONDS)
            bell.ring(early=True)
            look = asyncio.create_task(tail.follow())
            await asyncio.sleep(0.1)
            assert not look.done()
            await asyncio.to_thread(add, source, trade("announced", BASE + 62))
            await look
        on_tape = "SELECT trade_id FROM analytics.tape WHERE trade_id = 'announced'"
        assert execute(analytics_url, on_tape) == [("announced",)]

    asyncio.run(run())


def test_what_is_announced_in_vain_was_looked_for_as_well_as_by_any_look(
    source: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truetape.source.bell.PATIENCE_SECONDS", 0.3)
    execute(source, "CREATE INDEX ON order_book_trades (timestamp)")
    complete = "SELECT complete_at FROM analytics.state"

    async def run() -> None:
        bell = Bell()
        async with followed(source, analytics_url, bell) as tail:
            await judge(tail.reconciler)
            await tail.follow()
            await asyncio.sleep(TAIL_SECONDS)
            bell.ring(early=True)
            began = datetime.now(UTC)
            assert await tail.follow()
            assert datetime.now(UTC) - began > timedelta(seconds=0.3), "it has waited in vain"
            await tail.note_complete()
            assert execute(analytics_url, complete)[0][0] > began
            assert not await tail.follow(), "no more than a glance is due"

    asyncio.run(run())


def test_without_an_index_what_is_announced_is_looked_for_at_once(
    source: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A glance every other millisecond would read the whole table each time."""
    monkeypatch.setattr("truetape.source.bell.PATIENCE_SECONDS", 60.0)

    async def run() -> None:
        bell = Bell()
        async with followed(source, analytics_url, bell) as tail:
            await tail.follow()
            bell.ring(early=True)
            assert await asyncio.wait_for(tail.follow(), 10)
            assert await tail.reconciler.source.newest.glance(tail.since) is None

    asyncio.run(run())


def test_complete_is_what_a_whole_look_has_shown_and_never_less(
    source: str, analytics_url: str
) -> None:
    def complete_at() -> datetime | None:
        [(at,)] = execute(analytics_url, "SELECT complete_at FROM analytics.state")
        return cast("datetime | None", at)

    async def run() -> None:
        async with followed(source, analytics_url, Bell()) as tail:
            await judge(tail.reconciler)
            await tail.note_complete()
            assert complete_at() is None, "before any look"
            await tail.follow()
            tail.proof.given = False
            await tail.note_complete()
            assert complete_at() is None, "before the proof"
            tail.proof.given, tail.replaced_at = True, 1.0
            await tail.note_complete()
            assert complete_at() is None, "while chains are being reorganised"
            tail.replaced_at = None
            await tail.note_complete()
            noted = complete_at()
            assert noted is not None
            execute(analytics_url, "UPDATE analytics.state SET complete_at = clock_timestamp()")
            later, tail._noted_at = complete_at(), 0.0
            await tail.note_complete()
            assert complete_at() == later, "something later is known"
            ahead = "UPDATE analytics.state SET complete_at = clock_timestamp() + interval '1 year'"
            execute(analytics_url, ahead)
            tail._noted_at = 0.0
            await tail.note_complete()
            assert complete_at() == noted, "by a clock that was ahead"
            execute(analytics_url, f"UPDATE analytics.state SET complete_at = '{noted}'")
            execute(analytics_url, "UPDATE analytics.lease SET epoch = epoch + 1")
            await tail.follow()
            tail._noted_at = 0.0
            await tail.note_complete()
            assert complete_at() == noted, "another process leads"

    asyncio.run(run())


def test_a_catch_up_is_not_joined_to_one_that_may_have_looked_already(
    source: str, analytics_url: str
) -> None:
    """Nor is what was proven before proof of what was missed since."""

    async def run() -> None:
        async with followed(source, analytics_url, Bell()) as tail:
            proof = tail.proof
            await proof.begin()
            assert not proof.given
            asked = await ask_for_catch_up(proof.reconciler, "one that nobody has begun")
            assert asked.joined
            begin = "UPDATE analytics.runs SET state = 'running', epoch = (SELECT epoch {}FROM analytics.lease)"
            execute(analytics_url, begin.format(""))
            other = await ask_for_catch_up(proof.reconciler, "one that we have begun")
            assert not other.joined
            assert other.run_id != asked.run_id
            execute(analytics_url, begin.format("- 1 "))
            left = await ask_for_catch_up(proof.reconciler, "one that begins anew under us")
            assert left.joined

    asyncio.run(run())
