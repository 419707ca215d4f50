"""Work that was told to end has ended."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from truetape import tasks
from truetape.tasks import cancel, together


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_SECONDS", 0.01)


class Work:
    """Goes on for ever, and loses its first cancellations."""

    def __init__(self, loses: int = 0) -> None:
        self.loses = loses
        self.goes_on = False

    async def go_on(self) -> None:
        self.goes_on = True
        try:
            while True:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    self.loses -= 1
                    if self.loses < 0:
                        raise
        finally:
            self.goes_on = False


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(5):
            await test()

    asyncio.run(in_time())


def test_works_side_by_side_end_when_cancelled_though_one_lost_it() -> None:
    async def test() -> None:
        works = [Work(), Work(loses=2)]
        whole = asyncio.create_task(together(w.go_on() for w in works))
        await asyncio.sleep(0.01)
        assert all(w.goes_on for w in works)
        await cancel([whole])
        assert whole.cancelled()
        assert not any(w.goes_on for w in works)

    run(test)


def test_a_fault_ends_the_others_and_is_raised() -> None:
    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("it")

    async def test() -> None:
        other = Work(loses=1)
        with pytest.raises(ValueError, match="it"):
            await together([other.go_on(), fails()])
        assert not other.goes_on

    run(test)


def test_all_that_is_done_is_waited_for() -> None:
    done: list[int] = []

    async def work(n: int) -> None:
        await asyncio.sleep(n / 1000)
        done.append(n)

    async def test() -> None:
        await together(work(n) for n in (5, 1, 3))

    run(test)
    assert sorted(done) == [1, 3, 5]


def test_whoever_cancels_and_is_cancelled_leaves_nothing_behind() -> None:
    async def test() -> None:
        work = Work(loses=1)
        ours = asyncio.create_task(work.go_on())
        await asyncio.sleep(0)
        ending = asyncio.create_task(cancel([ours]))
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert ours.done()
        assert not work.goes_on

    run(test)
