"""``truetape serve``: sync and HTTP in one process, until it is told to stop."""

import asyncio
import signal

from truetape import log
from truetape.cli.common import notes, run
from truetape.cli.places import Places
from truetape.errors import UsageError
from truetape.settings import Settings
from truetape.sync.engine import open_engine


def serve(*, demo: bool, accept_new_source: bool) -> None:
    log.configure(warnings_only=demo)
    settings = Settings.load()
    if not settings.is_loopback and settings.api_token is None:
        raise UsageError(
            f"HOST {settings.host} lets other machines in: set TRUETAPE_API_TOKEN first, "
            "or leave HOST at 127.0.0.1."
        )
    run(_serve(settings, demo=demo, accept_new_source=accept_new_source))


async def _serve(settings: Settings, *, demo: bool, accept_new_source: bool) -> None:
    from truetape.api import run_http, take_port  # Slow to import: bad settings are told before.

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    port = take_port(settings)  # Before anything is started for it.
    if demo:
        notes().print(
            "Starting PostgreSQL, Valkey and a demo exchange with three days of history …"
        )
    async with Places(settings, demo=demo) as places:
        redis_url = await places.start_demo() if demo else None
        async with open_engine(
            settings, await places.source(), await places.analytics(),
            follow=settings.follow, accept_new_source=accept_new_source, redis_url=redis_url,
        ) as engine:  # fmt: skip
            engine.start()
            _say_where(settings, places)
            await run_http(engine, settings, port, stop)
        notes().print("Stopping; nothing is lost.")


def _say_where(settings: Settings, places: Places) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    here = f"http://{host}:{settings.port}"
    notes().print(f"[bold green]Truetape[/] is at {here}/  (calls: {here}/docs)")
    notes().print(f"  health     curl -s {here}/api/sync/health")
    notes().print(f"  candles    curl -s '{here}/api/market/symbols'")
    if places.is_demo:
        notes().print("  proof      truetape verify")
        notes().print(f'  SQL        psql "$(cat {places.url_file})"')
    notes().print("  stop       Ctrl-C")
