"""Tasks that end when they are told to, whatever happens at that moment."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

CANCEL_SECONDS = 2.0
"""So long a task has for its end before it is told again."""


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Ends tasks, however often it takes; their results and faults are dropped.

    Once is not enough. A cancellation that arrives together with what a task waits for can be lost
    (``asyncio.wait_for`` before Python 3.12, under which connection pools wait), and one that comes
    together with a server's fault can turn into that fault: work that goes on after faults goes on.
    """
    ours: asyncio.CancelledError | None = None
    tasks = list(tasks)
    while running := [t for t in tasks if not t.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=CANCEL_SECONDS)
        except asyncio.CancelledError as error:
            ours = error  # None of them is left behind for it.
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if ours is not None:
        raise ours


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Does works side by side. The first fault ends the others and is raised; so does a cancellation.

    Unlike a task group, which cancels its tasks once and then waits for ever for one that lost it.
    """
    tasks = [asyncio.create_task(work) for work in works]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await cancel(tasks)
