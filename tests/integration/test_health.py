"""Health while nobody is known to keep up: a survey of all history, that no question waits for twice."""

import asyncio
import time

import pytest
from test_sync import add, trade

from truetape.settings import Settings
from truetape.sync.engine import open_engine
from truetape.sync.health import HealthCheck


def test_a_survey_that_takes_long_is_waited_for_once(
    source_url: str, analytics_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(source_url, trade("t1", 1754400000))

    async def endless(self: HealthCheck) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(HealthCheck, "_compare_all", endless)

    async def run() -> None:
        settings = Settings.load()
        async with open_engine(settings, source_url, analytics_url, follow=False) as engine:
            began = time.monotonic()
            await engine.health.check(patience_seconds=1)
            first = time.monotonic()
            await engine.health.check(patience_seconds=1)
            assert first - began >= 1 > time.monotonic() - first

    asyncio.run(run())
