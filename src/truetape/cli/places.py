"""The servers that a verb works with: the user's, or embedded where none is given."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from truetape.cli.common import notes
from truetape.embedded import EmbeddedPostgres, EmbeddedValkey
from truetape.embedded.exchange_process import Exchange
from truetape.errors import UsageError
from truetape.settings import Settings


class Places:
    """Where source and analytics are: as the settings say, or embedded.

    Without a PONDER_DATABASE_URL the demo exchange is the source, if it was ever started here.
    """

    def __init__(self, settings: Settings, *, demo: bool = False) -> None:
        self._settings = settings
        self._home = settings.home / "demo"
        given = settings.ponder_database_url is not None
        self.is_demo = demo or (not given and (self._exchange_server / "data").exists())
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if not self.is_demo and self._settings.ponder_database_url is None:
            raise UsageError(
                "PONDER_DATABASE_URL is not set: give the libpq URL of the Ponder database, "
                "or try it all with: truetape serve --demo"
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url_file(self) -> Path:
        """Holds the URL of the demo's analytics, for psql; readable for nobody else."""
        return self._home / "analytics.url"

    @property
    def holds_analytics(self) -> bool:
        """Whether analytics were made for the demo, or are given."""
        made = (self._home / "postgres-analytics" / "data").exists()
        return made or self._settings.analytics_database_url is not None

    @property
    def _exchange_server(self) -> Path:
        return self._home / "postgres-exchange"

    async def source(self) -> str:
        if self._settings.ponder_database_url is not None and not self.is_demo:
            return self._settings.ponder_database_url
        return await self._embedded(self._exchange_server, "exchange")

    async def analytics(self) -> str:
        if self._settings.analytics_database_url is not None:
            return self._settings.analytics_database_url
        home = self._home if self.is_demo else self._settings.home
        url = await self._embedded(home / "postgres-analytics", "analytics")
        if self.is_demo:
            self.url_file.touch(mode=0o600)
            self.url_file.write_text(url)
        return url

    async def _embedded(self, directory: Path, database: str) -> str:
        """An embedded PostgreSQL, started or joined, and left when the verb ends."""
        server = EmbeddedPostgres(directory)
        await asyncio.to_thread(server.acquire)
        self._stack.push_async_callback(asyncio.to_thread, server.release)
        return await asyncio.to_thread(server.ensure_database, database)

    async def start_demo(self) -> str:
        """The demo exchange and a Redis-compatible server, whose URL comes back; a clean stop of ours
        ends both."""
        valkey = EmbeddedValkey(self._home / "valkey")
        redis_url = await asyncio.to_thread(valkey.acquire)
        self._stack.push_async_callback(asyncio.to_thread, valkey.release)
        redis_url = self._settings.redis_url or redis_url
        exchange = Exchange(
            self._home / "exchange", await self.source(), redis_url, self._exchange_server
        )
        with notes().status("The demo exchange is trading its history …"):
            await asyncio.to_thread(exchange.start)
        self._stack.push_async_callback(asyncio.to_thread, exchange.stop)
        return redis_url
