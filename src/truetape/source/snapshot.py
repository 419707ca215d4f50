"""One short read-only snapshot: how it begins, and what is asked in it all at once."""

from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from truetape.trade import FUTURE_TOLERANCE_SECONDS

STATEMENT_TIMEOUT_SECONDS = 60
LOCK_TIMEOUT_SECONDS = 2
WORK_MEM = "32MB"
"""How many minutes a survey has no plan can know: with less, it would rather sort all rows on disk than
group them in memory, where they take a megabyte."""

_STANDS = (
    "SELECT to_regclass({name})::oid::bigint, has_table_privilege(to_regclass({name}), 'SELECT')"
)
RECENT = (
    "SET LOCAL random_page_cost = 1; SET LOCAL max_parallel_workers_per_gather = 0; "
    "SET LOCAL plan_cache_mode = force_generic_plan"
)
_BY_INDEX = "SET LOCAL enable_seqscan = off"
"""A plan for any slice takes it for a two-hundredth of the table; it is some seconds."""
LIMITS = (
    f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'; "
    f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'; SET LOCAL jit = off"
)


def possible_until(at: datetime) -> int:
    """The last Unix second that is taken for possible at a moment."""
    return int(at.timestamp()) + FUTURE_TOLERANCE_SECONDS


def beginning(trades: str, *, recent: bool, by_index: bool) -> str:
    """Begins a transaction that reads one moment, with all its settings, and asks what stands at the
    name of the trades: several statements, and one exchange.

    ``recent``: what is read was just written, so it is in memory, and an index, where there is one on the
    timestamp (``by_index``), is the way to it.
    """
    costs = f"{RECENT}; " if recent else ""
    if recent and by_index:
        costs += f"{_BY_INDEX}; "
    return (
        f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {costs}{LIMITS}; "
        f"SET LOCAL work_mem = '{WORK_MEM}'; SET LOCAL idle_in_transaction_session_timeout = '30s'; "
        + _STANDS.format(name=sql.Literal(trades).as_string())
    )


async def results(conn: psycopg.AsyncConnection, statements: str) -> list[list[Any]]:
    """What statements that are sent together answer, of those that do."""
    cursor = await conn.execute(statements)
    found = []
    while True:
        if cursor.description is not None:
            found.append(await cursor.fetchall())
        if not cursor.nextset():
            return found
