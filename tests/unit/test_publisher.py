"""Who numbers: one at a time, and nobody waits for a turn."""

import asyncio
from typing import Any, cast

from truetape.publish import Feed, Publisher
from truetape.store.outbox import Event


def publisher() -> Publisher:
    pool = cast(Any, None)  # What is tested here asks no database.
    return Publisher(pool, Feed(pool), asyncio.Event())


def test_there_is_one_turn_at_a_time_and_who_gets_none_has_it_seen_to() -> None:
    async def go() -> None:
        p = publisher()
        async with p.turn() as first:
            assert first == 0
            assert not p.committed.is_set()
            async with p.turn() as second:
                assert second is None
            assert p.committed.is_set()
        async with p.turn() as third:
            assert third == 0

    asyncio.run(go())


def test_what_was_numbered_in_a_turn_is_told_and_wakes_nobody_who_has_nothing_to_do() -> None:
    async def go() -> None:
        p = publisher()
        p._forget_at = 1_000
        await p.tell([Event(1, "update", "{}"), Event(2, "update", "{}")])
        assert p.feed.last == 2
        assert not p.committed.is_set()
        await p.tell([Event(n, "update", "{}") for n in range(3, 503)])
        assert p.committed.is_set(), "there may be more"

    asyncio.run(go())


def test_a_turn_that_ends_badly_is_over() -> None:
    async def go() -> None:
        p = publisher()
        try:
            async with p.turn():
                raise ConnectionError
        except ConnectionError:
            pass
        async with p.turn() as again:
            assert again == 0

    asyncio.run(go())
