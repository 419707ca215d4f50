"""When may a row that the source no longer shows be taken off the tape?

Two looks have to agree: a second apart inside the window in which rows can still change, thirty
seconds apart outside it. While the source is visibly behind itself nothing goes, and what is much
at once waits for somebody's word.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from truetape.store import state, tape
from truetape.store.apply import is_behind_itself, see_table
from truetape.sync.compare import Retraction
from truetape.sync.reconcile import OnApplied, Reconciler
from truetape.trade import DAY, HOUR, MINUTE, ChainPosition, Slice

LOOK_AGAIN_WINDOW = timedelta(seconds=1.05)
LOOK_AGAIN_OUTSIDE = timedelta(seconds=30.5)
SOON = 1.1
"""What is due within so many seconds is waited for."""
SURVEY_SECONDS = 1.0
"""How long to look through all history for what else has vanished, before anything goes."""


def window_start(newest: int, positions: list[ChainPosition], minutes: float) -> int:
    """From which second on rows can still change: the oldest finality, or a set age.

    A chain that is more than a day behind the newest trade is still being filled; its old rows are
    found by its position, not by this window.
    """
    unknown = int(newest - minutes * MINUTE)
    finalized = [p.finalized_time for p in positions if p.time > newest - DAY]
    return min(finalized) if finalized else unknown


async def judge(reconciler: Reconciler, *, accept: bool = False) -> Retraction:
    """Looks at source and quarantine and decides, for the work that follows."""
    async with reconciler.source.look() as look:
        extent = await look.extent()
        standing = await look.standing()
        now = int(look.at.timestamp())
    async with reconciler.analytics.connection() as conn:
        newest = extent[1] if extent else await tape.newest(conn) or now
        vanished = await tape.vanished(conn)
        behind = await is_behind_itself(conn, standing)
        await see_table(conn, standing)
    start = window_start(newest, standing.positions, reconciler.settings.reorg_window_minutes)
    allowed = not behind and (accept or not vanished.held) and extent is not None
    reconciler.retraction = Retraction(
        allowed or (accept and not behind), state.utc(start), standing.positions
    )
    return reconciler.retraction


async def look_again(
    reconciler: Reconciler,
    on_applied: OnApplied,
    stop: asyncio.Event,
    *,
    accept: bool = False,
    wait: bool = False,
) -> None:
    """Looks again at the minutes whose vanished rows are due, or soon will be; ``wait``: until all have been.

    Before the first of them goes, it is seen what else has vanished: much at once is held.
    """
    surveyed, waited = accept, False
    while not stop.is_set():
        retraction = await judge(reconciler, accept=accept)
        async with reconciler.analytics.connection() as conn:
            minutes = await tape.vanished_minutes(conn, retraction.window_from)
        if not minutes:
            return
        if not retraction.allowed:
            # Nothing goes now, but what has come back is no longer missed.
            for part in _together([part for part, _, _ in minutes]):
                async for _ in reconciler.differing(part, hashed=True):
                    pass
            return
        now = datetime.now(UTC)
        left = [
            (part, (since + _patience(within) - now).total_seconds())
            for part, within, since in minutes
        ]
        # While they are waited for.
        if not surveyed and min(patience for _, patience in left) < SOON:
            await _survey(reconciler, retraction.window_from)
            surveyed = True
            continue
        due = [part for part, patience in left if patience <= 0]
        for part in due:
            await on_applied(part, await reconciler.reconcile(part, retraction=retraction))
            if stop.is_set():
                return
        later = min((patience for _, patience in left if patience > 0), default=None)
        # Nobody waits here for what a look elsewhere goes on to miss: others have their turn first.
        if later is None or not (wait or (later < SOON and not waited)):
            return
        waited = True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), later)
        if later > SOON:
            surveyed = accept


async def _survey(reconciler: Reconciler, window_from: datetime) -> None:
    """Sees what else has vanished: in the window, and for a second's worth in all history."""
    extent = await reconciler.extent()
    if extent is None:
        return
    window = int(window_from.timestamp()) // MINUTE * MINUTE
    window = min(max(window, extent.start), extent.end)
    began = time.monotonic()
    for start, end in ((window, extent.end), (extent.start, window)):
        if start < end:
            async for _ in reconciler.minutes(Slice(start, end), hashed=True):
                if end == window and time.monotonic() - began > SURVEY_SECONDS:
                    return


def _together(minutes: list[Slice]) -> list[Slice]:
    """Minutes less than an hour apart as one range."""
    ranges: list[Slice] = []
    for minute in minutes:
        if ranges and minute.start - ranges[-1].end < HOUR:
            ranges[-1] = Slice(ranges[-1].start, minute.end)
        else:
            ranges.append(minute)
    return ranges


def _patience(within: bool) -> timedelta:
    return LOOK_AGAIN_WINDOW if within else LOOK_AGAIN_OUTSIDE
