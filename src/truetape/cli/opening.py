"""Opening what a verb works on: the source, and the analytics, embedded where none is given."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import typer
import uvloop
from rich.console import Console

from truetape import log
from truetape.embedded import EmbeddedPostgres, EmbeddedValkey
from truetape.embedded.exchange_process import Exchange
from truetape.errors import UsageError
from truetape.settings import Settings
from truetape.sync.engine import Engine, open_engine

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
AcceptNewSource = Annotated[
    bool, typer.Option(help="Go on with another source than these analytics were made from.")
]

console = Console(highlight=False)
notes = Console(stderr=True, highlight=False)


def say_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a verb's work to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


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
        with notes.status("The demo exchange is trading its history …"):
            await asyncio.to_thread(exchange.start)
        self._stack.push_async_callback(asyncio.to_thread, exchange.stop)
        return redis_url


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


def set_up_logs(*, quiet: bool) -> None:
    """A verb's own lines are enough for people; ``--json`` and pipes get none but warnings."""
    log.configure(warnings_only=quiet)


def ended_badly(bad: bool) -> None:
    """Exit code 1: the question was answered, and the answer is bad."""
    if bad:
        sys.stdout.flush()
        raise typer.Exit(1)
