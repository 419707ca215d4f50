"""Verbs that only look: health, gaps, errors, config, doctor."""

import sys

import typer
from rich.markup import escape
from rich.table import Table

from truetape.cli.opening import (
    Json,
    Places,
    console,
    ended_badly,
    opened,
    run,
    say_json,
    set_up_logs,
)
from truetape.errors import UnreachableError
from truetape.present import error_json, gap_json, health_json
from truetape.settings import Settings
from truetape.store import quarantine
from truetape.store.quarantine import Entry
from truetape.sync import gaps as sync_gaps
from truetape.sync.gaps import Gap
from truetape.sync.health import Health
from truetape.sync.service import iso_date

PATIENCE_SECONDS = 30.0


def health(as_json: Json = False) -> None:
    """How far the analytics are behind the source.

    Example: truetape health --json
    """
    set_up_logs(quiet=True)
    found = run(_health())
    if as_json:
        say_json(health_json(found))
    else:
        colour = {"healthy": "green", "degraded": "yellow"}.get(found.status, "red")
        console.print(f"[bold {colour}]{found.status}[/]  {found.message}")
        console.print(f"  recommendation  {found.recommendation}")
        for name, second in (
            ("source until", found.last_ponder_timestamp),
            ("analytics until", found.last_analytics_timestamp),
        ):
            console.print(f"  {name:15} {iso_date(second) if second else '–'}")
        console.print(f"  following       {'yes' if found.following else 'no'}")
    ended_badly(not found.is_healthy)


async def _health() -> Health:
    async with opened(Settings.load(), works=False) as engine:
        return await engine.health.check(patience_seconds=PATIENCE_SECONDS)


def gaps(as_json: Json = False) -> None:
    """Where the two sides differ, with times and counts.

    Example: truetape gaps
    """
    set_up_logs(quiet=True)
    found = run(_gaps())
    if as_json:
        say_json([gap_json(g) for g in found])
    elif not found:
        console.print("[green]No gaps.[/]")
    else:
        table = Table("from", "to", "missing", "extra", "kind")
        for gap in found:
            table.add_row(
                iso_date(gap.first),
                iso_date(gap.last),
                f"{gap.missing:,}",
                f"{gap.extra:,}",
                gap.kind,
            )
        console.print(table)
    ended_badly(bool(found))


async def _gaps() -> list[Gap]:
    async with opened(Settings.load(), works=False) as engine:
        return await sync_gaps.gaps(engine.reconciler)


def errors(as_json: Json = False) -> None:
    """Trades that could not be processed, with the reason.

    Example: truetape errors
    """
    set_up_logs(quiet=True)
    found = run(_errors())
    if as_json:
        say_json([error_json(e) for e in found])
    elif not found:
        console.print("[green]No errors.[/]")
    else:
        table = Table("trade", "status", "attempts", "when", "reason")
        for entry in found:
            table.add_row(
                escape(entry.trade_id), entry.status, str(entry.attempts),
                iso_date(int(entry.failed_at.timestamp())), escape(entry.reason),
            )  # fmt: skip
        console.print(table)
        console.print("Mend them in the source, or try them again with: truetape retry")
    ended_badly(bool(found))


async def _errors() -> list[Entry]:
    async with (
        opened(Settings.load(), works=False) as engine,
        engine.analytics.connection() as conn,
    ):
        return await quarantine.listed(conn, 10_000)


def config(as_json: Json = False) -> None:
    """Every setting, its value, and where it came from.

    Example: truetape config
    """
    shown = Settings.load().shown()
    if as_json:
        say_json(shown)
        return
    table = Table("setting", "value", "from")
    for row in shown:
        table.add_row(row["name"], escape(row["value"]), row["from"])
    console.print(table)


def doctor(as_json: Json = False) -> None:
    """Check settings, both databases and the machine, and say what to do. Changes nothing.

    Example: truetape doctor
    """
    from truetape.doctor import examine  # Redis's client comes with it.

    set_up_logs(quiet=True)
    settings = Settings.load()
    found = run(examine(settings, has_demo=Places(settings).is_demo))
    if as_json:
        say_json([vars(check) for check in found])
    else:
        marks = {"good": "[green]✓[/]", "note": "[yellow]![/]", "bad": "[red]✗[/]"}
        for check in found:
            console.print(f"{marks[check.verdict]} {escape(check.says)}", soft_wrap=True)
            if check.advice:
                console.print(f"    {escape(check.advice)}", soft_wrap=True)
    if any(check.unreachable for check in found):
        sys.stdout.flush()
        raise typer.Exit(UnreachableError.exit_code)
    ended_badly(any(check.verdict == "bad" for check in found))
