"""The newest rows of the source, read again and again by a statement that is prepared once."""

import asyncio
import json

import psycopg
import pytest
from test_sync import add, execute, trade

from truetape.source import Source
from truetape.source.reader import LOCK_TIMEOUT_SECONDS, Tail
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
                tail = await opened.tail(BASE, PART, 2)
                assert (tail.news.rows, rows(tail)) == (4, ["t1", "t60"])
            assert rows(await opened.tail(BASE, PART, 1)) is None
            assert rows(await opened.tail(BASE, Slice(BASE + 2, BASE + 60), 1)) is None
            add(source, trade("t2", BASE + 2))
            assert rows(await opened.tail(BASE, PART, 3)) == ["t1", "t2", "t60"]

    asyncio.run(run())


def test_a_pooler_that_gives_another_session_each_time_has_it_planned_each_time(
    source: str,
) -> None:
    """What was prepared is gone: no fault, and no rows that once."""

    async def run() -> None:
        async with Source.open(source, connections=1) as opened:
            assert rows(await opened.tail(BASE, PART, 2)) == ["t1", "t60"]
            async with opened.pool.connection() as conn:
                await conn.execute("DISCARD ALL")
            tail = await opened.tail(BASE, PART, 2)
            assert (tail.news.rows, rows(tail)) == (4, None)
            for _ in range(2):
                assert rows(await opened.tail(BASE, PART, 2)) == ["t1", "t60"]

    asyncio.run(run())


def test_what_is_prepared_already_is_used(source: str) -> None:
    """By another process behind the same pooler, or by us, before a cancellation."""

    async def run() -> None:
        async with Source.open(source, connections=1) as opened:
            for _ in range(2):
                assert rows(await opened.tail(BASE, PART, 2)) == ["t1", "t60"]
                opened._prepared.clear()
            assert opened._may_prepare

    asyncio.run(run())


def test_a_lock_on_the_source_is_not_waited_for_long_to_plan(source: str) -> None:
    execute(source, "CREATE INDEX ON order_book_trades (timestamp)")

    async def run() -> None:
        async with Source.open(source, connections=1) as opened:
            async with await psycopg.AsyncConnection.connect(source) as other:
                await other.execute("LOCK TABLE order_book_trades IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    await asyncio.wait_for(opened.tail(BASE, PART, 2), LOCK_TIMEOUT_SECONDS + 5)
            assert rows(await opened.tail(BASE, PART, 2)) == ["t1", "t60"]

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
            assert rows(await opened.tail(BASE, PART, 2)) == ["t1", "t60"]
            for _ in range(2):
                execute(source, views)
                assert (await opened.tail(BASE, PART, 2)).news.rows == 4
                assert rows(await opened.tail(BASE, PART, 2)) == ["t1", "t60"]

    asyncio.run(run())
