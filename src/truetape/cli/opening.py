"""Opening what a verb works on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from truetape.cli.places import Places
from truetape.settings import Settings
from truetape.sync.engine import Engine, open_engine


@asynccontextmanager
async def opened(
    settings: Settings, *, works: bool, accept_new_source: bool = False
) -> AsyncIterator[Engine]:
    """An engine for one verb; ``works``: it may take the lead if nobody does."""
    async with (
        Places(settings) as places,
        open_engine(
            settings, await places.source(), await places.analytics(),
            follow=False, accept_new_source=accept_new_source,
        ) as engine,
    ):  # fmt: skip
        if works:
            engine.start()
        yield engine
