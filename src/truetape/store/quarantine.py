"""What is set aside: rows that could not be processed, by key and reason."""

from dataclasses import dataclass
from datetime import datetime

from truetape.store.apply import Connection


@dataclass(frozen=True)
class Entry:
    """A trade that could not be processed (``error``) or waits for its retry (``pending``)."""

    trade_id: str
    status: str
    attempts: int
    failed_at: datetime
    reason: str


async def listed(conn: Connection, limit: int) -> list[Entry]:
    """The newest failures first."""
    rows = await (
        await conn.execute(
            "SELECT row_key, status, attempts, failed_at, reason FROM analytics.quarantine "
            "WHERE resolved_at IS NULL ORDER BY failed_at DESC, row_key LIMIT %s",
            (limit,),
        )
    ).fetchall()
    return [Entry(*row) for row in rows]


async def failed(conn: Connection) -> int:
    """Trades that are set aside."""
    row = await (
        await conn.execute(
            "SELECT coalesce(sum(copies), 0)::bigint FROM analytics.quarantine "
            "WHERE resolved_at IS NULL"
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def requeue(conn: Connection, trade_id: str | None = None) -> int:
    """Marks failed trades (or one) for a retry; how many."""
    async with conn.transaction():
        cursor = await conn.execute(
            "UPDATE analytics.quarantine SET status = 'pending' "
            "WHERE resolved_at IS NULL AND (%(id)s::text IS NULL OR row_key = %(id)s)",
            {"id": trade_id},
        )
        return cursor.rowcount
