"""Verbs that look: health, runs, gaps, errors."""

from truetape.cli.common import console, ended_badly, run, say_json, say_table, set_up_logs
from truetape.cli.opening import opened
from truetape.errors import UsageError
from truetape.present import error_json, gap_json, health_json, run_json
from truetape.settings import Settings
from truetape.store import quarantine
from truetape.store import runs as store_runs
from truetape.store.quarantine import Entry
from truetape.store.runs import Run
from truetape.sync import gaps as sync_gaps
from truetape.sync.gaps import Gap
from truetape.sync.health import Health
from truetape.sync.service import iso_date

PATIENCE_SECONDS = 30.0
RUNS_SHOWN = 20


def health(*, as_json: bool) -> None:
    set_up_logs(quiet=True)
    found = run(_health())
    if as_json:
        say_json(health_json(found))
    else:
        colour = {"healthy": "green", "degraded": "yellow"}.get(found.status, "red")
        console().print(f"[bold {colour}]{found.status}[/]  {found.message}")
        console().print(f"  recommendation  {found.recommendation}")
        for name, second in (
            ("source until", found.last_ponder_timestamp),
            ("analytics until", found.last_analytics_timestamp),
        ):
            console().print(f"  {name:15} {iso_date(second) if second else '–'}")
        console().print(f"  following       {'yes' if found.following else 'no'}")
    ended_badly(not found.is_healthy)


async def _health() -> Health:
    async with opened(Settings.load(), works=False) as engine:
        return await engine.health.check(patience_seconds=PATIENCE_SECONDS)


def runs(cancel: int | None, *, as_json: bool) -> None:
    set_up_logs(quiet=True)
    found = run(_runs(cancel))
    if as_json:
        say_json([run_json(r) for r in found])
    elif not found:
        console().print("Nothing has been asked for yet.")
    else:
        say_table(
            ("run", "kind", "state", "progress", "left", "processed", "errors", "asked for"),
            (
                (
                    str(r.run_id), r.kind, "stopping" if r.cancel and not r.ended else r.state,
                    f"{r.progress:.0%}", _left(r), f"{r.processed:,}", f"{r.errors:,}",
                    iso_date(int(r.requested_at.timestamp())),
                )
                for r in found
            ),
        )  # fmt: skip


def _left(run: Run) -> str:
    return "" if run.estimate_ms is None else f"{run.estimate_ms / 1000:,.0f} s"


async def _runs(cancel: int | None) -> list[Run]:
    async with (
        opened(Settings.load(), works=False) as engine,
        engine.analytics.connection() as conn,
    ):
        if cancel is not None:
            named = await store_runs.get(conn, cancel) if 0 < cancel < 2**63 else None
            if named is None:
                raise UsageError(f"There is no run {cancel}; see: truetape runs")
            if named.ended:
                raise UsageError(f"Run {cancel} has ended already ({named.state}).")
            await store_runs.cancel(conn, cancel)
        return await store_runs.recent(conn, RUNS_SHOWN)


def gaps(*, as_json: bool) -> None:
    set_up_logs(quiet=True)
    found = run(_gaps())
    if as_json:
        say_json([gap_json(g) for g in found])
    elif not found:
        console().print("[green]No gaps.[/]")
    else:
        say_table(
            ("from", "to", "missing", "extra", "kind"),
            (
                (iso_date(g.first), iso_date(g.last), f"{g.missing:,}", f"{g.extra:,}", g.kind)
                for g in found
            ),
        )
    ended_badly(bool(found))


async def _gaps() -> list[Gap]:
    async with opened(Settings.load(), works=False) as engine:
        return await sync_gaps.gaps(engine.reconciler)


def errors(*, as_json: bool) -> None:
    set_up_logs(quiet=True)
    found = run(_errors())
    if as_json:
        say_json([error_json(e) for e in found])
    elif not found:
        console().print("[green]No errors.[/]")
    else:
        say_table(
            ("trade", "status", "attempts", "when", "reason"),
            ((e.trade_id, e.status, str(e.attempts), _when(e), e.reason) for e in found),
        )
        console().print("Mend them in the source, or try them again with: truetape retry")
    ended_badly(bool(found))


def _when(entry: Entry) -> str:
    return iso_date(int(entry.failed_at.timestamp()))


async def _errors() -> list[Entry]:
    async with (
        opened(Settings.load(), works=False) as engine,
        engine.analytics.connection() as conn,
    ):
        return await quarantine.listed(conn, 10_000)
