"""When is the tail looked at: at once where something rings, and never without a pause?"""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from truetape.source.bell import EARLY_SECONDS, Bell


class Clock:
    """Time that passes when we say so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def looks(
    bell: Bell, clock: Clock, seconds: float, ring: Callable[[], object], found: Callable[[], bool]
) -> list[float]:
    """When the tail is looked at, ``ring`` being called each millisecond; a look takes two."""
    at: list[float] = []

    async def go() -> None:
        began = clock.now
        while clock.now - began < seconds:
            ring()
            if bell.due_at <= clock.now:
                at.append(round(clock.now - began, 3))
                bell.begin()
                clock.now += 0.002
                await bell.end(found=found())
            clock.now += 0.001

    asyncio.run(go())
    return at


def nothing() -> None:
    """No ring at all."""


def test_without_a_ring_nobody_looks_before_the_timer() -> None:
    clock = Clock()
    assert looks(Bell(clock), clock, 5, nothing, lambda: False) == []


def test_a_ring_is_answered_at_once_by_one_look() -> None:
    clock = Clock()
    bell = Bell(clock)
    bell.ring()
    assert looks(bell, clock, 5, nothing, lambda: True) == [0]


def test_rings_that_trail_a_block_do_not_hold_up_the_next_one() -> None:
    """A block's entries are read in pieces; the last may come when its trades are found already."""
    clock = Clock()
    bell, blocks = Bell(clock), 0

    def ring() -> None:
        nonlocal blocks
        passed = round(clock.now - 1000.0, 3)
        if passed >= blocks * 0.95:
            blocks += 1
            bell.ring(early=True)
            first.append(passed)
        elif first and passed - first[-1] < 0.04:
            bell.ring(early=True)

    first: list[float] = []
    seen = -1.0

    def finds() -> bool:
        nonlocal seen
        is_new, seen = first[-1] != seen, first[-1]
        return is_new

    at = looks(bell, clock, 4, ring, finds)
    for block in first:
        assert any(block <= look <= block + 0.004 for look in at), (block, at)


def test_a_flood_after_a_find_is_answered_less_and_less() -> None:
    clock = Clock()
    bell = Bell(clock)
    bell.ring()
    answers = iter([True])
    at = looks(bell, clock, 10, lambda: bell.ring(early=True), lambda: next(answers, False))
    assert len([look for look in at if look > 1]) < 10 / 0.15


def test_an_early_ring_is_answered_by_a_burst_until_its_trades_must_have_come() -> None:
    clock = Clock()
    bell = Bell(clock)
    bell.ring(early=True)
    found = looks(bell, clock, 5, nothing, lambda: False)
    assert found[0] == 0
    assert len([at for at in found if at < 0.1]) >= 6
    assert 20 < len(found) < 45
    assert max(b - a for a, b in pairwise(found)) < 0.05, "half of it is what its trades wait"
    assert found[-1] < EARLY_SECONDS + 0.2


def test_a_flood_that_is_about_nothing_is_looked_at_a_few_times_a_second() -> None:
    for early in (False, True):
        clock = Clock()
        bell = Bell(clock)

        ring = partial(bell.ring, early=early)
        assert len(looks(bell, clock, 10, ring, lambda: False)) < 90


def test_a_flood_does_not_hide_real_trades_for_long() -> None:
    clock = Clock()
    bell = Bell(clock)
    for _ in range(5):
        at = looks(bell, clock, 1, lambda: bell.ring(early=True), lambda: False)
        assert max(b - a for a, b in pairwise(at)) < 0.2


def test_after_something_was_found_the_next_ring_is_answered_at_once_again() -> None:
    clock = Clock()
    bell = Bell(clock)
    for _ in range(5):  # a block a second, announced early
        bell.ring(early=True)
        at = looks(bell, clock, 1, nothing, iter([False, True, *[False] * 99]).__next__)
        assert at[1] < 0.02


def test_after_a_find_what_rings_early_waits_for_those_who_are_told_and_no_other() -> None:
    for early in (True, False):
        clock = Clock()
        bell = Bell(clock)
        bell.ring(early=True)
        bell.begin()
        asyncio.run(bell.end(found=True))
        bell.ring(early=early)
        assert (bell.due_at - clock.now > 0.01) is early


def test_an_answer_is_a_look_that_began_after_the_ring_and_ended_well() -> None:
    async def go() -> None:
        bell = Bell()
        bell.begin()
        ticket = bell.ring()
        waiting = asyncio.create_task(bell.answered(ticket))
        await bell.end(found=True)
        await asyncio.sleep(0)
        assert not waiting.done(), "that look began before the ring"
        bell.begin()  # this one fails
        bell.begin()
        await bell.end(found=False)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(go())


def test_waiting_ends_when_it_rings_and_at_the_timer() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        bell = Bell()
        loop.call_later(0.02, bell.ring)
        began = loop.time()
        await bell.wait(began + 5)
        assert loop.time() - began < 1
        bell.begin()
        await bell.end(found=True)
        began = loop.time()
        await bell.wait(began + 0.05)
        assert loop.time() - began >= 0.04

    asyncio.run(go())


def test_a_look_knows_whether_a_ring_came_with_its_trades() -> None:
    bell = Bell(Clock())
    bell.ring(early=True)
    assert not bell.begin()
    bell.ring()
    bell.ring(early=True)
    assert bell.begin()
    assert not bell.begin()
