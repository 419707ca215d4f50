"""Health: how far the analytics are behind the source, by comparison, never by a heartbeat."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from truetape.connect import at_once
from truetape.store import lease, quarantine, state, tape
from truetape.store.apply import Connection, is_behind_itself
from truetape.sync.compare import Comparer
from truetape.sync.freshness import Freshness, freshness
from truetape.trade import MINUTE

GRACE_SECONDS = 10.0
"""While a follower keeps up, trades on their way count as lag only after this."""
RECENT_SECONDS = 10.0
"""A follower that has all of the source says so every second; after this its word is old."""

CHEAP_SURVEY_SECONDS = 0.1
"""A survey of all history that takes less is made for every question."""


@dataclass(frozen=True)
class ChainHealth:
    """Through which block of a chain the analytics are complete."""

    chain_id: int
    complete_through_block: int
    complete_through_timestamp: int
    finalized_block: int


@dataclass(frozen=True)
class Health:
    """The answer of ``GET /api/sync/health``; timestamps in Unix seconds, lag in minutes."""

    status: str
    is_healthy: bool
    lag_minutes: float | None
    last_ponder_timestamp: int | None
    last_analytics_timestamp: int | None
    recommendation: str
    missed_trades: int | None
    missed_as_of: str | None
    failed_trades: int | None
    held_deletions: dict[str, Any] = field(default_factory=dict)
    is_cold_start: bool = False
    chains: list[ChainHealth] = field(default_factory=list)
    verified: dict[str, Any] = field(default_factory=dict)
    following: bool = False
    doorbells: list[str] = field(default_factory=list)
    message: str = ""
    error: str | None = None
    scrub: dict[str, Any] = field(default_factory=dict)
    sealed: dict[str, Any] = field(default_factory=dict)
    """``before``: Unix second before which raw trades are dropped; ``refused``: trades by which the
    source differs there, which is not followed."""
    circuits: dict[str, str] = field(default_factory=dict)
    """Of each server that the process asked needs: ``closed``, or ``open`` while it is away and calls
    that need it fail at once."""


@dataclass(frozen=True)
class _Seen:
    """Both sides as they were found."""

    first: int | None
    newest: int | None
    ours: int | None
    missing: int
    differing: int
    vanished: tape.Vanished
    failed: int
    refused: int
    known: state.State
    chains: list[ChainHealth]
    rebuilding: bool
    """The source lacks what it has had: Ponder starts anew."""
    source: Freshness
    doorbells: list[str] | None
    """Of the living leader that follows; None where there is none."""
    compared: bool
    """Somebody has compared all of both sides, and goes on looking; or else nothing is claimed."""
    at: datetime

    @property
    def following(self) -> bool:
        return self.doorbells is not None

    @property
    def held(self) -> tape.Vanished | None:
        """What has vanished, if it waits for somebody's word: it is much, or all there was."""
        emptied = self.newest is None and self.vanished.rows > 0
        return self.vanished if self.vanished.held or emptied else None


class HealthCheck:
    """Answers how the analytics are. Remembers since when trades have been missing.

    While somebody follows who once had all of the source, what lies behind the tail is known from his
    own looks. While nobody does, a survey of all history is made here: at once for a small source, in
    the background (and never more than a twentieth of the time) for a large one. Before it has ended
    nothing counts as complete.
    """

    def __init__(self, comparer: Comparer) -> None:
        self._comparer = comparer
        self._source = comparer.source
        self._analytics = comparer.analytics
        self._settings = comparer.settings
        self._missing_since: float | None = None
        self._survey: asyncio.Task[None] | None = None
        self._survey_began_at = 0.0
        self._survey_due_at = 0.0
        self._surveyed = False
        self._tolerated = timedelta(minutes=self._settings.healthy_lag_minutes)

    async def check(self, *, patience_seconds: float = 0.5) -> Health:
        """``patience_seconds``: for how long after its beginning to wait for the survey of what nobody
        follows."""
        async with at_once(self._analytics) as conn:
            kept_up = await _keeps_up(conn)
        if not kept_up:
            await self._survey_history(patience_seconds)
        seen = await self._look()
        if seen.missing or seen.differing:
            self._missing_since = self._missing_since or time.monotonic()
        else:
            self._missing_since = None
        return self._judge(seen)

    async def close(self) -> None:
        """Ends a survey that is under way."""
        if self._survey is not None:
            self._survey.cancel()
            await asyncio.wait([self._survey])

    async def _survey_history(self, patience_seconds: float) -> None:
        now = time.monotonic()
        if self._survey is None or (self._survey.done() and now > self._survey_due_at):
            self._survey_began_at = now
            self._survey = asyncio.create_task(self._compare_all())
            self._survey.add_done_callback(lambda s: s.cancelled() or s.exception())
        left = self._survey_began_at + patience_seconds - now
        done, _ = await asyncio.wait([self._survey], timeout=max(left, 0))
        for task in done:
            task.result()

    async def _compare_all(self) -> None:
        began = time.monotonic()
        extent = await self._comparer.extent()
        if extent is not None:
            async for slices, _ in self._comparer.differing(extent, hashed=True):
                # Somebody may be filling them just now: only what differs once more is told.
                for part in (s for s in slices if s.ours):
                    async for _ in self._comparer.minutes(part, hashed=True):
                        pass
        await self._comparer.impossible_differs()
        self._surveyed = True
        took = time.monotonic() - began
        if took > CHEAP_SURVEY_SECONDS:
            self._survey_due_at = time.monotonic() + took * 20

    async def _look(self) -> _Seen:
        async with at_once(self._analytics) as conn:
            ours = await tape.newest(conn)
        edge = None if ours is None else ours // MINUTE * MINUTE
        async with self._source.look(urgent=True) as look:
            extent = await look.extent()
            theirs, _ = await look.tail(edge or 0)
            standing, at = await look.standing(), look.at
        async with self._analytics.connection() as conn, conn.transaction():
            held = await tape.held_from(conn, edge or 0)
            suspect_missing, suspects = await tape.suspects(conn, edge)
            return _Seen(
                first=extent[0] if extent else None,
                newest=extent[1] if extent else None,
                ours=ours,
                missing=max(theirs - held, 0) + suspect_missing,
                differing=suspects,
                vanished=await tape.vanished(conn),
                failed=await quarantine.failed(conn),
                refused=await tape.refused(conn),
                known=await state.read(conn),
                chains=await _chains(conn),
                rebuilding=await is_behind_itself(conn, standing),
                source=freshness(standing, extent[1] if extent else None, at, self._tolerated),
                doorbells=await lease.doorbells(conn),
                compared=self._surveyed or await _keeps_up(conn),
                at=at,
            )

    def _lag_minutes(self, seen: _Seen) -> float:
        """Zero when complete; see the contract for the rest."""
        known = seen.missing or seen.differing or seen.vanished.rows
        if (seen.compared and not known) or seen.newest is None or seen.first is None:
            return 0.0
        since = seen.known.complete_at
        if seen.ours is None or since is None:
            return (seen.newest - seen.first) / 60
        by_clock = max((datetime.now(UTC) - since).total_seconds(), 0) / 60
        missing_for = time.monotonic() - (self._missing_since or time.monotonic())
        if seen.following and missing_for < GRACE_SECONDS:
            return by_clock
        return max((seen.newest - seen.ours) / 60, by_clock)

    def _judge(self, seen: _Seen) -> Health:
        settings = self._settings
        lag = round(self._lag_minutes(seen), 2)
        healthy = lag < settings.healthy_lag_minutes
        held = seen.held
        flawed = seen.failed or held or seen.refused
        status = "unhealthy" if not healthy else "degraded" if flawed else "healthy"
        return Health(
            status=status,
            is_healthy=healthy,
            lag_minutes=int(lag) if lag == int(lag) else lag,
            last_ponder_timestamp=seen.newest,
            last_analytics_timestamp=seen.ours,
            recommendation=self._recommend(lag),
            missed_trades=seen.missing,
            missed_as_of=_iso(seen.at),
            failed_trades=seen.failed,
            held_deletions={
                "count": held.rows if held else 0,
                "since": _iso(held.since) if held else None,
                "reason": _held_reason(seen) if held else None,
            },
            is_cold_start=seen.known.complete_at is None and seen.newest is not None,
            chains=seen.chains,
            verified={
                "completeThrough": seen.known.verified_through,
                "at": _iso(seen.known.verified_at),
            },
            following=seen.following,
            doorbells=seen.doorbells or [],
            message=f"{_say(seen, status, lag)} {seen.source.says}".rstrip(),
            scrub={"lastFullPass": _iso(seen.known.scrub_ended_at), "at": seen.known.scrub_from},
            sealed={"before": seen.known.sealed_before or None, "refused": seen.refused},
        )

    def _recommend(self, lag: float) -> str:
        if lag >= self._settings.critical_lag_minutes:
            return "IMMEDIATE_SYNC_REQUIRED"
        return "SYNC_RECOMMENDED" if lag >= self._settings.warning_lag_minutes else "HEALTHY"


def unreachable(error: str) -> Health:
    """The answer while a database is out of reach: nothing is claimed."""
    return Health(
        status="unhealthy",
        is_healthy=False,
        lag_minutes=None,
        last_ponder_timestamp=None,
        last_analytics_timestamp=None,
        recommendation="IMMEDIATE_SYNC_REQUIRED",
        missed_trades=None,
        missed_as_of=None,
        failed_trades=None,
        held_deletions={"count": None, "since": None, "reason": None},
        verified={"completeThrough": None, "at": None},
        sealed={"before": None, "refused": None},
        message=f"Health is unknown: {error}",
        error=error,
    )


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _held_reason(seen: _Seen) -> str:
    rows = seen.vanished.rows
    much = f"more than {tape.HOLD_ROWS} and more than {tape.HOLD_SHARE:.0%} of the tape"
    return (
        f"{_trades(rows)} {'is' if rows == 1 else 'are'} no longer in the source, "
        f"{'which holds no other' if seen.newest is None else much}; "
        "if that is meant: truetape sync --accept-deletions"
    )


def _trades(count: int) -> str:
    return f"{count:,} trade" if count == 1 else f"{count:,} trades"


def _say(seen: _Seen, status: str, lag: float) -> str:
    if seen.newest is None and seen.ours is None:
        return "The source holds no trades yet."
    if not (seen.compared or seen.missing):
        return "Both sides are being compared; before that has ended nothing is claimed."
    held = f" {_held_reason(seen)}." if seen.held and not seen.rebuilding else ""
    if seen.known.complete_at is None:
        return f"Cold start: {_trades(seen.missing)} to be processed."
    if seen.missing and seen.following and status != "unhealthy":
        return f"Keeping up: {_trades(seen.missing)} on their way.{held}"
    if seen.missing:
        fine = " Ponder itself is up to date." if seen.source.is_current else ""
        return f"{_trades(seen.missing)} missing; the analytics are {lag:g} minutes behind.{fine}{held}"
    if held:
        return held.strip()
    lacks = seen.ours is not None and (seen.newest is None or seen.newest < seen.ours)
    if seen.rebuilding and (lacks or seen.vanished.rows or seen.differing):
        return "The source is being rebuilt; what it lacks for now is kept."
    if seen.vanished.rows or seen.differing:
        return "Some trades have changed in the source and are being looked at again."
    aside = f", {seen.failed} set aside (see errors)" if seen.failed else ""
    if seen.refused:
        sealed = datetime.fromtimestamp(seen.known.sealed_before, UTC)
        return (
            f"Complete{aside}; {_trades(seen.refused)} that changed in the source before "
            f"{sealed:%Y-%m-%d %H:%M} UTC are refused, as raw trades of that time are dropped."
        )
    return f"Complete{aside}."


async def _keeps_up(conn: Connection) -> bool:
    """Whether a living leader follows who has just had all of the source."""
    complete_at = (await state.read(conn)).complete_at
    recent = datetime.now(UTC) - timedelta(seconds=RECENT_SECONDS)
    return complete_at is not None and complete_at > recent and await lease.is_following(conn)


async def _chains(conn: Connection) -> list[ChainHealth]:
    rows = await (
        await conn.execute(
            "SELECT chain_id, complete_block, complete_time, finalized_block "
            "FROM analytics.chains ORDER BY chain_id"
        )
    ).fetchall()
    return [ChainHealth(*map(int, r)) for r in rows]
