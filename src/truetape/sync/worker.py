"""A worker: takes slices from the queue, wherever its leader is, and does them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from truetape import log
from truetape.connect import first_line, is_transient
from truetape.errors import TruetapeError
from truetape.store import jobs
from truetape.store.jobs import Ticket
from truetape.store.lease import LeaseLostError
from truetape.store.migrate import latest_version
from truetape.sync.reconcile import Reconciler
from truetape.sync.scrub import scrub
from truetape.sync.verify import check_stretch
from truetape.trade import Slice

logger = log.get(__name__)


PAUSE_SECONDS = 1.0


class OtherVersionError(TruetapeError):
    """A job that a leader of another version has put."""


@dataclass
class Worker:
    """Does jobs with what this process has opened. It need not lead: each job is fenced by its leader's
    epoch, and its end is noted in the transaction of its data."""

    reconciler: Reconciler
    slices: int = 0
    """Done so far."""

    async def do(self, number: int, job: dict[str, Any], attempts: int) -> None:
        """Does a job, or notes why it could not be done. Raises what may pass, and then it is given out
        again: a fault of a server, some times; that its leader does not lead at the moment, or has put it
        for workers of another version, as long as it is there."""
        if job["version"] != latest_version():
            await asyncio.sleep(PAUSE_SECONDS)
            raise OtherVersionError(f"The slice is for version {job['version']} of the schema.")
        part = _slice(job["part"])
        ticket = Ticket(number, job["run_id"], job["kind"], part.start, part.end, max(part.rows, 1))
        async with self.reconciler.analytics.connection() as conn:
            wanted, led = await jobs.is_wanted(conn, ticket, job["epoch"])
        if not wanted:
            return
        if not led:
            await asyncio.sleep(PAUSE_SECONDS)
            raise LeaseLostError("Nobody leads at the moment.")
        # What is found is noted at the end; what is brought, with the data.
        account = ticket if job["kind"] in ("slice", "hours") else None
        reconciler = self.reconciler.working_for(job["epoch"], account)
        try:
            found = await _KINDS[job["kind"]](reconciler, part, job)
        except (LeaseLostError, asyncio.CancelledError):
            raise
        except Exception as error:
            if is_transient(error) and attempts < self.reconciler.settings.max_attempts:
                raise
            logger.error("slice.failed", start=part.start, end=part.end, error=first_line(error))
            async with self.reconciler.analytics.connection() as conn:
                told = replace(ticket, ends=False)
                await jobs.note_result(conn, told, None, failure=first_line(error))
            return
        if found is not None:
            async with self.reconciler.analytics.connection() as conn:
                await jobs.note_result(conn, ticket, found)
        self.slices += 1


def _slice(told: dict[str, Any]) -> Slice:
    blocks = told["blocks"]
    return Slice(**told | {"blocks": None if blocks is None else tuple(blocks)})


async def _do_slice(reconciler: Reconciler, part: Slice, _: dict[str, Any]) -> None:
    """What is missing, changed or vanished."""
    await reconciler.reconcile_whole(part)


async def _do_hours(reconciler: Reconciler, hours: Slice, job: dict[str, Any]) -> None:
    """A part of a force: the rows of some whole hours first, in batches, then all that they feed in one
    transaction, so that readers see an hour as it was or as it becomes."""
    for piece in map(_slice, job["pieces"]):
        for bounded in await reconciler.bounded(replace(piece, ours=max(piece.ours, 1))):
            await reconciler.reconcile(bounded, ends=False)
    await reconciler.rebuild(hours, since=max(job["since"], hours.start))
    logger.info("slice.rebuilt", start=hours.start, end=hours.end)


async def _do_verify(reconciler: Reconciler, part: Slice, job: dict[str, Any]) -> dict[str, Any]:
    report = await check_stretch(reconciler, part, Slice(*job["rollups"]))
    return report.as_json()


async def _do_scrub(reconciler: Reconciler, part: Slice, job: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    await scrub(reconciler, part, leave_empty=job["leave_empty"])
    return {"seconds": time.monotonic() - began}


_KINDS: dict[
    str, Callable[[Reconciler, Slice, dict[str, Any]], Awaitable[dict[str, Any] | None]]
] = {"slice": _do_slice, "hours": _do_hours, "verify": _do_verify, "scrub": _do_scrub}
