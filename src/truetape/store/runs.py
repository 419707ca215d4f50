"""Runs: the one way to ask for work, whoever asks and whoever leads."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from truetape.store.apply import Connection
from truetape.trade import Counts

# Nobody else can ask meanwhile: who freezes here is not waited for.
_LOCK = "SET LOCAL idle_in_transaction_session_timeout = '5s'; SELECT pg_advisory_xact_lock(20056)"
_STRENGTH = {"standard": 1, "comprehensive": 2}

_OPEN = "SELECT * FROM analytics.runs WHERE state IN ('queued', 'running') ORDER BY run_id"

_TAKE = """
UPDATE analytics.runs SET state = 'running', epoch = %(epoch)s,
       started_at = coalesce(started_at, clock_timestamp())
WHERE run_id = (SELECT run_id FROM analytics.runs
                WHERE state = 'queued' OR (state = 'running' AND epoch <= %(epoch)s)
                ORDER BY run_id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *
"""

_PROGRESS = """
UPDATE analytics.runs
SET total = %(total)s, processed = %(processed)s, errors = %(errors)s, inserted = %(inserted)s,
    changed = %(changed)s, retracted = %(retracted)s, checked = %(checked)s,
    progress = %(progress)s, estimate_ms = %(estimate_ms)s
WHERE run_id = %(run_id)s AND epoch = %(epoch)s RETURNING cancel
"""

_FINISH = """
UPDATE analytics.runs
SET state = %(state)s, message = %(message)s, result = %(result)s, ended_at = clock_timestamp(),
    progress = CASE WHEN %(state)s = 'succeeded' THEN 1 ELSE progress END, estimate_ms = NULL
WHERE run_id = %(run_id)s AND epoch = %(epoch)s
"""

_CANCEL = """
UPDATE analytics.runs
SET cancel = true,
    state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END,
    ended_at = CASE WHEN state = 'queued' THEN clock_timestamp() ELSE ended_at END
WHERE run_id = %s AND state IN ('queued', 'running')
"""


@dataclass
class Run:
    """A piece of work that somebody asked for. Counts are in trades, times in milliseconds."""

    run_id: int
    kind: str
    params: dict[str, Any]
    state: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    cancel: bool
    total: int
    processed: int
    errors: int
    inserted: int
    changed: int
    retracted: int
    checked: int
    progress: float
    estimate_ms: int | None
    message: str | None
    result: dict[str, Any] | None
    epoch: int | None = None
    joined: bool = False

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def duration_ms(self) -> int | None:
        if self.started_at is None or self.ended_at is None:
            return None
        return int((self.ended_at - self.started_at).total_seconds() * 1000)


async def _fetch(conn: Connection, query: str, values: Any = None) -> list[Run]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        return [Run(**row) for row in await cursor.fetchall()]


async def ask(
    conn: Connection, kind: str, params: dict[str, Any], *, not_under: int | None = None
) -> Run:
    """Asks for a run. A sync joins an open one of at least its strategy, but none that the leader of epoch
    ``not_under`` has begun."""
    async with conn.transaction():
        await conn.execute(_LOCK)
        for run in await _fetch(conn, _OPEN):
            is_begun = run.state == "running" and run.epoch == not_under
            if _serves(run, kind, params) and not is_begun:
                run.joined = True
                return run
        return (
            await _fetch(
                conn,
                "INSERT INTO analytics.runs (kind, params) VALUES (%s, %s) RETURNING *",
                (kind, json.dumps(params)),
            )
        )[0]


def _serves(run: Run, kind: str, params: dict[str, Any]) -> bool:
    if kind not in _STRENGTH or run.kind not in _STRENGTH or run.cancel:
        return False
    accepts = run.params.get("accept_deletions") or not params.get("accept_deletions")
    return bool(_STRENGTH[run.kind] >= _STRENGTH[kind] and accepts)


async def take(conn: Connection, epoch: int) -> Run | None:
    """The next run to work on: a queued one, or one that is open though nobody works on it, since its leader
    is gone, or could not write how it ended. A leader works on one at a time."""
    found = await _fetch(conn, _TAKE, {"epoch": epoch})
    return found[0] if found else None


async def get(conn: Connection, run_id: int) -> Run | None:
    async with conn.transaction():
        found = await _fetch(conn, "SELECT * FROM analytics.runs WHERE run_id = %s", (run_id,))
    return found[0] if found else None


async def recent(conn: Connection, limit: int) -> list[Run]:
    """The newest runs first."""
    query = "SELECT * FROM analytics.runs ORDER BY run_id DESC LIMIT %s"
    async with conn.transaction():
        return await _fetch(conn, query, (limit,))


async def progress(
    conn: Connection, run: Run, counts: Counts, *, share: float, estimate_ms: int | None
) -> bool:
    """Writes how far a run is (``share`` of 1); True when somebody wants it cancelled."""
    run.total, run.processed, run.errors = counts.total, counts.processed, counts.errors
    values = {
        "run_id": run.run_id, "epoch": run.epoch, "total": counts.total,
        "processed": counts.processed, "errors": counts.errors, "inserted": counts.inserted,
        "changed": counts.changed, "retracted": counts.retracted, "checked": counts.checked,
        "progress": share, "estimate_ms": estimate_ms,
    }  # fmt: skip
    async with conn.transaction():
        row = await (await conn.execute(_PROGRESS, values)).fetchone()
    return bool(row and row[0])


async def finish(
    conn: Connection, run: Run, state: str, message: str, result: dict[str, Any] | None = None
) -> None:
    values = {
        "run_id": run.run_id, "epoch": run.epoch, "state": state, "message": message,
        "result": None if result is None else json.dumps(result),
    }  # fmt: skip
    async with conn.transaction():
        await conn.execute(_FINISH, values)


async def cancel(conn: Connection, run_id: int) -> None:
    """Asks a run to stop at its next slice; what it has done stays done."""
    async with conn.transaction():
        await conn.execute(_CANCEL, (run_id,))
