"""The application: routes, doors, faults; and serving it."""

import asyncio
import errno
import gc
import os
import resource
import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from truetape import __version__, log, web
from truetape.api import doors, faults, load
from truetape.api.market_routes import market_routes
from truetape.api.metrics_routes import metrics_routes
from truetape.api.stream_routes import stream_routes
from truetape.api.sync_routes import sync_routes
from truetape.errors import UsageError
from truetape.settings import Settings
from truetape.sync.engine import Engine

logger = log.get(__name__)

STOP_SECONDS = 5
OPEN_FILES = 65_536


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """The HTTP front of an engine."""
    app = FastAPI(
        title="Truetape", version=__version__, description="Analytics that are true to a trading tape.",
        docs_url=None, redoc_url=None,  # FastAPI's pages load scripts from elsewhere; ours is in web.
    )  # fmt: skip
    faults.install(app)
    doors.install(app, settings)
    load.install(app, engine.circuits)  # The outermost: a guessed token counts as a call, too.
    app.include_router(sync_routes(engine))
    app.include_router(market_routes(engine))
    app.include_router(stream_routes(engine.feed))
    app.include_router(metrics_routes(engine))

    web.install(app)
    return app


def _allow_many_connections() -> None:
    """As many open files as we may have; a usual limit of 1024 is soon used up by idle listeners."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # macOS has a further limit, that it does not tell.
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _why_not(settings: Settings, error: OSError) -> str:
    """Why we cannot listen where the settings say, and what to do."""
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another program; set PORT to a free one."
    if error.errno == errno.EACCES:
        return f"This user may not listen on {where}; set PORT to one above 1023."
    return (
        f"HOST {settings.host} is no address of this machine ({error}); set it to 127.0.0.1, to "
        "another of its addresses, or to 0.0.0.0 for all of them."
    )


def take_port(settings: Settings) -> socket.socket:
    """A socket at the address that the settings say. Raises UsageError where that cannot be listened on."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio does so only for sockets that say TCP; without it each answer waits 40 ms for an ACK.
    taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        taken.bind((settings.host, settings.port))
    except OSError as error:
        taken.close()
        raise UsageError(_why_not(settings, error)) from error
    return taken


class _Server(uvicorn.Server):
    """One that wakes up once a second, not ten times, and is told to stop."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    async def main_loop(self) -> None:
        seconds = 0
        while not await self.on_tick(seconds * 10):  # It counts tenths, and dates the answers.
            seconds += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stop.wait()
                    self.should_exit = True


async def run_http(
    engine: Engine, settings: Settings, port: socket.socket, stop: asyncio.Event
) -> None:
    """Serves on a port that was taken, until ``stop``."""
    config = uvicorn.Config(
        create_app(engine, settings), host=settings.host, port=settings.port, log_config=None,
        access_log=False, timeout_graceful_shutdown=STOP_SECONDS, lifespan="off",
        server_header=False, http=load.PromptProtocol, ws="none",
        # Else everybody on this machine could call under any address.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
    )  # fmt: skip
    _allow_many_connections()
    gc.collect()
    gc.freeze()  # What is there by now stays: to look through it again takes a tenth of a second.
    server = _Server(config, stop)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server.serve(sockets=[port]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    await engine.feed.close()  # Listeners would keep it waiting.
    stopping.cancel()
    await serving
