"""``truetape worker``: slices from the queue, until it is told to stop."""

import asyncio
import signal

from truetape import log
from truetape.cli.common import console, notes, run, say_json
from truetape.cli.opening import opened
from truetape.settings import Settings


def worker(*, as_json: bool) -> None:
    log.configure(warnings_only=as_json)
    done = run(_work())
    if as_json:
        say_json({"slices": done})
    else:
        console().print(f"{done:,} slices done.")


async def _work() -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    settings = Settings.load()
    async with opened(settings, works=False) as engine:
        notes().print(
            f"Taking slices of runs, {settings.concurrency} at a time (SYNC_CONCURRENCY); "
            "Ctrl-C ends when those under way are done."
        )
        await engine.work(stop)
        return engine.worker.slices
