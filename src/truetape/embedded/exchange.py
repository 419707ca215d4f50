"""The demo exchange: a chain and its Ponder indexer in one process, trading without end.

Run as ``python -m truetape.embedded.exchange``. First some days of history, then blocks as time goes
by; after a stop, a crash or an outage of the database it takes up the last committed block and makes
up for the time since. ``Exchange`` is the way to have one from Python.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

from truetape.connect import without_password
from truetape.embedded.announcing import Announcer
from truetape.embedded.exchange_home import Home
from truetape.embedded.exchange_process import (
    REDIS_VARIABLE,
    URL_VARIABLE,
    Exchange,
    start_exchange,
    stop_exchange,
)
from truetape.embedded.exchange_terms import Terms
from truetape.embedded.postgres import EmbeddedPostgres
from truetape.embedded.trading import say, trade_for_ever
from truetape.errors import TruetapeError

__all__ = ["Exchange", "Terms", "main", "start_exchange", "stop_exchange"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m truetape.embedded.exchange", description=__doc__
    )
    parser.add_argument(
        "--database-url",
        default=os.environ.get(URL_VARIABLE),
        help=f"PostgreSQL to write into; better given as {URL_VARIABLE}, which nobody else can read",
    )
    parser.add_argument(
        "--home", type=Path, help="one exchange a home; ends an hour after the last user of it"
    )
    parser.add_argument(
        "--server", type=Path, help="directory of the embedded PostgreSQL that is written into"
    )
    for term in fields(Terms):
        parser.add_argument(
            f"--{term.name.replace('_', '-')}",
            type=int if term.default is None else type(term.default),
            default=term.default,
            help=f"default: {term.default}",
        )
    return parser


@contextmanager
def _at_home(
    home: Path | None, server: Path | None, url: str, stop: threading.Event
) -> Iterator[None]:
    """Holds the home and the server, where there is one, and minds whether anybody still wants us."""
    with ExitStack() as stack:
        if server is not None:
            stack.enter_context(EmbeddedPostgres(server))
        if home is not None:
            place = Home(home)
            stack.enter_context(place.occupy(url))
            threading.Thread(target=place.end_when_unwanted, args=(stop,), daemon=True).start()
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0 told to stop, 2 wrong usage or not alone, 3 no database."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    url, home, server = (given.pop(name) for name in ("database_url", "home", "server"))
    if not url:
        parser.error(f"--database-url or {URL_VARIABLE} is needed")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        terms = Terms(**given)
        with _at_home(home, server, url, stop):
            say(f"trading into {without_password(url)}, {terms.rate:g} trades/s")
            trade_for_ever(url, terms, stop, Announcer(os.environ.get(REDIS_VARIABLE)))
    except TruetapeError as error:
        say(str(error))
        return error.exit_code
    say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
