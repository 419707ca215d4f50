"""Verbs for setting up: config, doctor."""

import sys
from typing import TYPE_CHECKING

import psycopg
import typer

from truetape.cli.common import console, ended_badly, run, say_json, say_table, set_up_logs
from truetape.connect import first_line
from truetape.errors import TruetapeError, UnreachableError
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
    from truetape.doctor import bad, examine, note

    places = Places(settings)
    if not places.is_demo:
        return await examine(settings)
    says = "PONDER_DATABASE_URL is not set: the demo exchange is the source."
    found, urls = [note("settings", says)], dict[str, str]()
    async with places:
        for about, setting, there, opened in (
            ("source server", "ponder_database_url", True, places.source),
            (
                "analytics server",
                "analytics_database_url",
                places.holds_analytics,
                places.analytics,
            ),
        ):
            try:
                if there:
                    urls[setting] = await opened()
            except (TruetapeError, psycopg.Error) as error:
                found.append(bad(about, first_line(error), unreachable=True))
        return await examine(settings.model_copy(update=urls), demo=found)


def _say(found: "list[Check]") -> None:
    from rich.markup import escape

    marks = {"good": "[green]✓[/]", "note": "[yellow]![/]", "bad": "[red]✗[/]"}
    for check in found:
        console().print(f"{marks[check.verdict]} {escape(check.says)}", soft_wrap=True)
        if check.advice:
            console().print(f"    {escape(check.advice)}", soft_wrap=True)
