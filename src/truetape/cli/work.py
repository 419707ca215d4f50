"""Verbs that change something: sync, force, retry, verify --repair."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from truetape.cli.common import console, ended_badly, notes, run, say_json, set_up_logs
from truetape.cli.opening import opened
from truetape.errors import UnreachableError, UsageError
from truetape.present import result_json
from truetape.settings import Settings
from truetape.store import quarantine, runs
from truetape.store.runs import Run
from truetape.sync.engine import Engine
from truetape.sync.estimate import Estimate, estimate_force
from truetape.sync.service import SyncResult, check_timestamp, iso_date

Tell = Callable[[Run], None]


def sync(
    *, comprehensive: bool, accept_deletions: bool, accept_new_source: bool, as_json: bool
) -> None:
    kind = "comprehensive" if comprehensive else "standard"
    params: dict[str, object] = {"accept_deletions": accept_deletions}
    ended = _work(kind, params, as_json=as_json, accept_new_source=accept_new_source)
    _report(ended, {}, as_json)


def force(start: str, *, dry_run: bool, as_json: bool) -> None:
    since = check_timestamp(int(start) if start.lstrip("-").isdigit() else start)
    named: dict[str, Any] = {"fromTimestamp": since, "fromDate": iso_date(since)}
    if dry_run:
        set_up_logs(quiet=True)
        expected = run(_estimate(since))
        if as_json:
            say_json(named | {
                "dryRun": True, "trades": expected.trades, "buckets": expected.buckets,
                "estimateMs": expected.estimate_ms,
            })  # fmt: skip
        else:
            console().print(
                f"From {iso_date(since)}: {expected.trades:,} trades would be processed and "
                f"{expected.buckets:,} buckets rebuilt, in about {expected.estimate_ms / 1000:.1f} s."
            )
        return
    _report(_work("force", {"from_timestamp": since}, as_json=as_json), named, as_json)


async def _estimate(since: int) -> Estimate:
    async with opened(Settings.load(), works=False) as engine:
        return await estimate_force(engine.reconciler, since)


def retry(trade_id: str | None, *, as_json: bool) -> None:
    set_up_logs(quiet=True)
    requeued, ended = run(_retry(trade_id, as_json))
    _report(ended, {"requeued": requeued}, as_json)


async def _retry(trade_id: str | None, as_json: bool) -> tuple[int, Run]:
    async with opened(Settings.load(), works=True) as engine:
        async with engine.analytics.connection() as conn:
            requeued = await quarantine.requeue(conn, trade_id)
        if trade_id is not None and not requeued:
            raise UsageError(f"No trade {trade_id!r} is set aside; see: truetape errors")
        return requeued, await _ask_and_wait(engine, "retry", {}, as_json)


def verify(*, repair: bool, as_json: bool) -> None:
    ended = _work("verify", {"repair": repair}, as_json=as_json)
    found = ended.result
    if found is None:
        raise UnreachableError(ended.message or "The verification did not end.")
    if as_json:
        say_json(found | {"runId": ended.run_id})
    else:
        word = "[green]complete[/]" if found["complete"] else "[red]NOT complete[/]"
        console().print(
            f"{word}: {found['tradesChecked']:,} trades and {found['bucketsChecked']:,} buckets "
            f"checked in {found['durationMs'] / 1000:.1f} s; {found['failed']} set aside."
        )
        for m in found["mismatches"][:20]:
            span = f"{iso_date(m['from'])} and {iso_date(m['to'])}"
            console().print(f"  {m['trades']:,} {m['kind']} between {span}")
        for w in found["rollupMismatches"][:20]:
            console().print(
                f"  {w['rollup']} at {w['bucket']}, pool {w['poolId']} is not what the tape says"
            )
        if repair:
            console().print(f"  {found['repaired']} hours were rebuilt.")
    ended_badly(not found["complete"])


# -- runs ------------------------------------------------------------------------------------


def _work(
    kind: str, params: dict[str, object], *, as_json: bool, accept_new_source: bool = False
) -> Run:
    set_up_logs(quiet=True)

    async def work() -> Run:
        async with opened(
            Settings.load(), works=True, accept_new_source=accept_new_source
        ) as engine:
            return await _ask_and_wait(engine, kind, params, as_json)

    return run(work())


async def _ask_and_wait(engine: Engine, kind: str, params: dict[str, object], as_json: bool) -> Run:
    """Ctrl-C asks the run to stop at its next slice, and waits for that."""
    asked = await engine.ask(kind, params)
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    with _progress(as_json) as tell:
        waiting = asyncio.create_task(engine.ended(asked, tell))
        stopping = asyncio.create_task(interrupted.wait())
        await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if interrupted.is_set() and not waiting.done() and not asked.joined:
            async with engine.analytics.connection() as conn:
                await runs.cancel(conn, asked.run_id)
            notes().print("Stopping at the end of the slice; what is done stays done.")
        elif interrupted.is_set() and asked.joined:
            waiting.cancel()
            raise KeyboardInterrupt
        stopping.cancel()
        return await waiting


@contextmanager
def _progress(as_json: bool) -> Iterator[Tell]:
    """A bar on a terminal, a line a second elsewhere, nothing beside JSON."""
    if as_json:
        yield lambda _: None
        return
    if not notes().is_terminal:
        said_at = time.monotonic()

        def line(now: Run) -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= 1 and now.state == "running":
                said_at = time.monotonic()
                done = "" if now.kind == "verify" else f", {now.processed:,} processed"
                notes().print(f"{now.progress:.0%}{done}")

        yield line
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        MofNCompleteColumn(), TimeRemainingColumn(), console=notes(), transient=True,
    ) as bars:  # fmt: skip
        bar = bars.add_task("waiting", total=None)

        def draw(now: Run) -> None:
            total = int(now.processed / now.progress) if now.progress else None
            bars.update(bar, description=now.kind, completed=now.processed, total=total)

        yield draw


def _report(ended: Run, extra: dict[str, Any], as_json: bool) -> None:
    result = SyncResult.of(ended)
    if as_json:
        say_json(result_json(result) | extra)
    else:
        colour = "green" if result.success and not result.errors else "red"
        console().print(f"[{colour}]{result.message}[/]")
        console().print(
            f"  {result.inserted:,} new, {result.changed:,} changed, {result.retracted:,} retracted, "
            f"{result.errors:,} set aside; {result.checked:,} compared in {result.duration / 1000:.1f} s"
        )
    ended_badly(not result.success or result.errors > 0)
