"""Ponder's NOTIFY as a doorbell."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import psycopg
import pytest
from test_sync import execute

from truetape.source import doorbells
from truetape.source.doorbells import Notifications
from truetape.tasks import cancel

NOTIFY = "NOTIFY public_live_query, '[]'"


@contextlib.asynccontextmanager
async def listening(url: str) -> AsyncIterator[list[None]]:
    """What it has rung, from when on it is heard."""
    rings: list[None] = []
    bell = Notifications(url, "public", lambda: rings.append(None))
    listens = asyncio.create_task(bell.listen())
    try:
        async with asyncio.timeout(10):
            while not bell.alive:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield rings
    finally:
        await cancel([listens])


async def rung(rings: list[None], times: int) -> None:
    async with asyncio.timeout(10):
        while len(rings) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_it_rings_once_for_what_came_before_and_then_for_what_comes(source_url: str) -> None:
    async def run() -> None:
        async with listening(source_url) as rings:
            assert len(rings) == 1
            for times in (2, 3):
                await asyncio.to_thread(execute, source_url, NOTIFY)
                await rung(rings, times)

    asyncio.run(run())


def test_whether_it_still_listens_is_asked_without_a_ring(
    source_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or no market would ever be quiet."""
    monkeypatch.setattr(doorbells, "STILL_THERE_SECONDS", 0.05)
    asked: list[None] = []
    still_listens = Notifications._still_listens

    async def counted(self: Notifications, conn: psycopg.AsyncConnection) -> bool:
        asked.append(None)
        return await still_listens(self, conn)

    monkeypatch.setattr(Notifications, "_still_listens", counted)

    async def run() -> None:
        async with listening(source_url) as rings:
            await rung(asked, 5)
            assert len(rings) == 1

    asyncio.run(run())


def test_what_comes_with_the_answer_to_that_question_rings_too(
    source_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    still_listens = Notifications._still_listens

    async def in_between(self: Notifications, conn: psycopg.AsyncConnection) -> bool:
        await asyncio.to_thread(execute, source_url, NOTIFY)
        return await still_listens(self, conn)

    monkeypatch.setattr(Notifications, "_still_listens", in_between)

    async def run() -> None:
        async with listening(source_url) as rings:
            await rung(rings, 2)

    asyncio.run(run())


def test_where_nothing_is_heard_nothing_rings(
    source_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a pooler that passes no notification on it connects again and again."""
    asked: list[None] = []

    async def in_vain(self: Notifications, conn: psycopg.AsyncConnection) -> bool:
        asked.append(None)
        raise ConnectionError("a pooler in between")

    monkeypatch.setattr(Notifications, "_still_listens", in_vain)

    async def run() -> None:
        rings: list[None] = []
        bell = Notifications(source_url, "public", lambda: rings.append(None))
        listens = asyncio.create_task(bell.listen())
        await rung(asked, 2)
        assert not rings
        await cancel([listens])

    asyncio.run(run())
