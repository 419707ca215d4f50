"""How results look outside: the JSON keys of the contract, for HTTP and the command line alike."""

from dataclasses import fields
from datetime import UTC, datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any

from truetape.publish.feed import Unseen
from truetape.store.history import Cell
from truetape.store.quarantine import Entry
from truetape.store.runs import Run
from truetape.sync.gaps import Gap
from truetape.sync.health import Health
from truetape.sync.service import SyncResult

EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""For sums, differences and powers of ten that lose no digit: Decimal's own arithmetic keeps 28. Not for
quotients, which have no end."""


def camel(name: str) -> str:
    """``last_price`` → ``lastPrice``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def iso(at: datetime | None) -> str | None:
    """ISO 8601 in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def amount(value: Decimal | int | None, shift: int = 0) -> str | None:
    """A canonical decimal string: no exponent, no trailing zeros; divided by 10^shift exactly."""
    if value is None:
        return None
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{value} is no finite amount")
    text = format(number.scaleb(-shift, EXACT), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def health_json(health: Health) -> dict[str, Any]:
    """``GET /api/sync/health``."""
    plain = {camel(f.name): getattr(health, f.name) for f in fields(health)}
    plain["chains"] = [
        {camel(f.name): getattr(c, f.name) for f in fields(c)} for c in health.chains
    ]
    if health.error is None:
        del plain["error"]
    return plain


def result_json(result: SyncResult) -> dict[str, Any]:
    """``POST /api/sync/run``, ``/force`` and ``/retry``."""
    plain = {camel(f.name): getattr(result, f.name) for f in fields(result)}
    if result.from_timestamp is None:
        del plain["fromTimestamp"], plain["fromDate"]
    return plain


def run_json(run: Run) -> dict[str, Any]:
    """``GET /api/sync/runs`` and ``/runs/{id}``."""
    return {
        "runId": run.run_id,
        "kind": run.kind,
        "state": run.state,
        "total": run.total,
        "processed": run.processed,
        "errors": run.errors,
        "inserted": run.inserted,
        "changed": run.changed,
        "retracted": run.retracted,
        "checked": run.checked,
        "progress": round(run.progress, 4),
        "estimateMs": run.estimate_ms,
        "requestedAt": iso(run.requested_at),
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "message": run.message,
        "result": run.result,
    }


def gap_json(gap: Gap) -> dict[str, Any]:
    """``GET /api/sync/gaps``; times are Unix seconds of the first and the last trade."""
    return {
        "from": gap.first,
        "to": gap.last,
        "missing": gap.missing,
        "extra": gap.extra,
        "kind": gap.kind,
    }


def cell_json(cell: Cell) -> dict[str, Any]:
    """A cell of ``GET /api/sync/history``; times are Unix seconds."""
    return {
        "from": cell.start,
        "to": cell.end,
        "sourceTrades": cell.source,
        "processed": cell.processed,
        "failed": cell.aside,
        "missing": cell.missing,
        "extra": cell.extra,
        "state": cell.state,
    }


def error_json(entry: Entry) -> dict[str, Any]:
    """``GET /api/sync/errors``."""
    return {
        "tradeId": entry.trade_id,
        "service": "analytics",
        "status": entry.status,
        "attempts": entry.attempts,
        "processedAt": iso(entry.failed_at),
        "errorMessage": entry.reason,
    }


def unseen_json(gap: Unseen) -> dict[str, Any]:
    """``gap`` of the stream: events that are not kept any more, and from where to read again."""
    return {"after": gap.after, "resumesAt": gap.resumes_at, "readAgainFrom": gap.since}
