"""What every verb needs: how it runs, what it says, how it ends.

rich is imported with the first words for people: what scripts read has no need of it.
"""

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import typer
import uvloop

from truetape import log

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a verb's work to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@cache
def console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


@cache
def notes() -> "Console":
    """What is not the answer: on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False))


def say_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in columns:
        # What is too wide is not cut off: it may be a time, or an id.
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def set_up_logs(*, quiet: bool) -> None:
    """A verb's own lines are enough for people; ``--json`` and pipes get none but warnings."""
    log.configure(warnings_only=quiet)


def ended_badly(bad: bool) -> None:
    """Exit code 1: the question was answered, and the answer is bad."""
    if bad:
        sys.stdout.flush()
        raise typer.Exit(1)
