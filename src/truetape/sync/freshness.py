"""Is the source itself up to date? In words: who is woken at night must know on which side to look."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from truetape.trade import Standing

DEAD_AFTER = timedelta(seconds=30)
"""Ponder beats every 10 s, and takes another Ponder for dead after 25 s without."""


@dataclass(frozen=True)
class Freshness:
    """``is_current``: the source says that it has all there is; None where it does not tell."""

    is_current: bool | None
    says: str
    is_down: bool = False
    """Ponder gives no sign of life."""


def freshness(
    standing: Standing, newest: int | None, at: datetime, tolerated: timedelta
) -> Freshness:
    """What a look at the source says of the source. ``newest``: its newest trade, Unix second.

    That nobody trades is no fault: only Ponder's own word tells it from an indexer that stands still.
    """
    silent = at - standing.alive_at if standing.alive_at else None
    if silent is not None and silent > DEAD_AFTER:
        return Freshness(False, (
            f"The source is stale: Ponder's last heartbeat was {span(silent)} ago; it is down, or cut "
            "off from its database."
        ), is_down=True)  # fmt: skip
    where, is_late = "", False
    if standing.positions:
        last = min(standing.positions, key=lambda p: p.time)
        late = at - datetime.fromtimestamp(last.time, at.tzinfo)
        where = f"chain {last.chain_id} at block {last.block}, {span(late)} behind the clock"
        is_late = late > tolerated
    if standing.ready is False:
        so_far = f", and has {where}" if is_late else ""
        return Freshness(False, f"Ponder is not ready yet: it fills its tables{so_far}.")
    if is_late:
        return Freshness(False, (
            f"The source is stale: Ponder has {where}; it is catching up, or its RPC or the chain "
            "stands still."
        ))  # fmt: skip
    is_current = bool(standing.positions) or None
    quiet = at - datetime.fromtimestamp(newest, at.tzinfo) if newest is not None else timedelta()
    if quiet <= tolerated:
        return Freshness(is_current, "")
    why = "this source does not tell a quiet market from an indexer that stands still"
    if is_current:
        why = "Ponder is up to date, so the market is quiet"
    return Freshness(is_current, f"No trade for {span(quiet)}; {why}.")


def span(time: timedelta) -> str:
    """A length of time as one would say it: ``45 s``, ``12 min``, ``5 h``, ``3 days``."""
    seconds = time.total_seconds()
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
