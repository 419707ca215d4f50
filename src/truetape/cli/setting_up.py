"""Verbs for setting up: config, doctor."""

import sys
from typing import TYPE_CHECKING

import typer

from truetape.cli.common import console, ended_badly, run, say_json, say_table, set_up_logs
from truetape.errors import UnreachableError
from truetape.settings import Settings

if TYPE_CHECKING:
    from truetape.doctor import Check


def config(*, as_json: bool) -> None:
    shown = Settings.load().shown()
    if as_json:
        say_json(shown)
    else:
        say_table(("setting", "value", "from"), (row.values() for row in shown))


def doctor(*, as_json: bool) -> None:
    set_up_logs(quiet=True)
    found = run(_examine(Settings.load()))
    if as_json:
        say_json([vars(check) for check in found])
    else:
        _say(found)
    if any(check.unreachable for check in found):
        sys.stdout.flush()
        raise typer.Exit(UnreachableError.exit_code)
    ended_badly(any(check.verdict == "bad" for check in found))


async def _examine(settings: Settings) -> "list[Check]":
    from truetape.cli.places import Places
    from truetape.doctor import examine

    places = Places(settings)
    if not places.is_demo:
        return await examine(settings)
    async with places:
        urls = {
            "ponder_database_url": await places.source(),
            "analytics_database_url": await places.analytics(),
        }
        return await examine(settings.model_copy(update=urls), is_demo=True)


def _say(found: "list[Check]") -> None:
    from rich.markup import escape

    marks = {"good": "[green]✓[/]", "note": "[yellow]![/]", "bad": "[red]✗[/]"}
    for check in found:
        console().print(f"{marks[check.verdict]} {escape(check.says)}", soft_wrap=True)
        if check.advice:
            console().print(f"    {escape(check.advice)}", soft_wrap=True)
