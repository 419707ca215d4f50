"""What a session on the analytics is set up for: its limits, its plans, its temporary tables.

A commit empties every temporary table that its session has, which for those of a batch takes longer
than most statements: so a session has those that its work needs, and no others.
"""

from truetape.store import apply, compare, digests, outbox
from truetape.store.apply import Connection
from truetape.store.rollups import ROLLUPS

SETTINGS = """
SET client_min_messages = warning; SET timezone = 'UTC'; SET jit = off; SET work_mem = '64MB';
SET lock_timeout = '30s'; SET statement_timeout = '300s';
SET idle_in_transaction_session_timeout = '300s';
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '15s'
"""
"""A server whose client is cut off in the midst of a transaction has no other limits that end it. Keepalives
do where it waits for the client; where a reply of its own is still under way none are sent, and TCP alone
would go on for a quarter of an hour."""
WRITING = """
SET idle_in_transaction_session_timeout = '15s'; SET client_connection_check_interval = '1s'
"""
"""Further limits where the tape is moved: a frozen process must not hold locks for longer than its lease lasts, and
a server asks now and then whether the process that it works for is still there."""
REAL_SIZES = "SET plan_cache_mode = force_custom_plan"
KEPT_PLANS = "SET plan_cache_mode = force_generic_plan"


IN_MEMORY = "SET work_mem = '32MB'; SET hash_mem_multiplier = 8"
"""The trades of a batch are grouped in memory. A plan takes each for a group of its own, and would sort all of
them for fear of too many; what it is allowed is hardly ever used."""


async def for_comparing(conn: Connection) -> None:
    """Comparing, and all that is asked and noted beside."""
    await conn.set_autocommit(True)
    await conn.execute(SETTINGS)
    await conn.execute(REAL_SIZES)
    await conn.execute(apply.SQL["setup_batch"])
    await conn.execute(compare.SQL["setup"])
    await conn.set_autocommit(False)


async def for_batches(conn: Connection) -> None:
    """``apply``. In autocommit mode, as all of it is ``fenced``, which begins by itself."""
    await conn.set_autocommit(True)
    await conn.execute(f"{SETTINGS}; {WRITING}; {REAL_SIZES}")
    await conn.execute(f"SET temp_buffers = '64MB'; {IN_MEMORY}")
    for tables in ("setup_batch", "setup"):
        await conn.execute(apply.SQL[tables])
    await conn.execute(digests.SQL["setup"])
    await conn.execute(outbox.SQL["setup"])
    await conn.execute(apply.TRADERS["setup"])
    for rollup in ROLLUPS:
        await conn.execute(rollup.setup)


async def for_queue(conn: Connection) -> None:
    """The queue: each statement is its own transaction, and names are not qualified."""
    await conn.set_autocommit(True)
    await conn.execute("SET search_path = analytics; SET client_min_messages = warning")
    await conn.execute("SET statement_timeout = '30s'; SET lock_timeout = '10s'")


async def for_news(conn: Connection) -> None:
    """``fresh``. In autocommit mode, too."""
    await conn.set_autocommit(True)
    await conn.execute(f"{SETTINGS}; {WRITING}; {KEPT_PLANS}")


async def for_lease(conn: Connection) -> None:
    """In autocommit mode: each statement about the lease is one exchange."""
    await conn.set_autocommit(True)
    await conn.execute(SETTINGS)
