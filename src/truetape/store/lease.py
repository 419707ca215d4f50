"""One leader at a time: a lease row with an epoch, checked inside every data transaction."""

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from truetape.errors import TruetapeError

LEASE_SECONDS = 3.5
RENEW_SECONDS = 0.5
"""A leader that hears nothing any more may still be heard once: the two together, and the time to take over,
are less than five seconds."""
PATIENCE_SECONDS = 5.0
"""So long a leader waits for an answer about its lease. Late is not lost: nobody but the database says who
leads, and it lets nobody else write."""

_RENEW = """
UPDATE analytics.lease
SET expires_at = clock_timestamp() + %(seconds)s * interval '1 second', following = %(following)s,
    doorbells = %(doorbells)s
WHERE name = 'leader' AND holder = %(holder)s
RETURNING epoch, EXISTS (SELECT FROM analytics.runs WHERE state IN ('queued', 'running')),
          EXISTS (SELECT FROM analytics.vanishing), EXISTS (SELECT FROM analytics.outbox)
"""

# Writers hold the row FOR KEY SHARE: that lets a renewal pass, but not this, so a change of leader
# waits until all that the old one has under way is committed or gone.
_WAIT_FOR_WRITERS = """
SELECT holder, expires_at > '-infinity' FROM analytics.lease
WHERE name = 'leader' AND expires_at <= clock_timestamp() FOR UPDATE
"""

_TAKE = """
UPDATE analytics.lease
SET holder = %(holder)s, epoch = epoch + 1, following = %(following)s, doorbells = %(doorbells)s,
    expires_at = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE name = 'leader' AND expires_at <= clock_timestamp() RETURNING epoch, true, true, true
"""

# A leader that froze or died in the middle of a transaction may still have the row, whatever its
# session does: wait for its client, wait for a lock, or work on a long statement. Its sessions go;
# others that stand by and wait as we do stay.
_END_FROZEN = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
  AND pid IN (SELECT pid FROM pg_locks
              WHERE relation = 'analytics.lease'::regclass AND mode = 'RowShareLock')
  AND NOT (state = 'active' AND query LIKE '%%FOR UPDATE%%')
  AND EXISTS (SELECT FROM analytics.lease WHERE name = 'leader' AND expires_at <= clock_timestamp())
"""

# Whatever else it had under way holds locks, too, on rows that everybody needs. Its server would wait for
# it until the network gives up.
_END_LEFT_BEHIND = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s AND state <> 'idle'
"""


class LeaseLostError(TruetapeError):
    """Another process leads now; what was under way here is rolled back."""


@dataclass(frozen=True)
class Lease:
    """The right to write, until another takes over. ``epoch`` grows with each change of leader.

    Whoever renews it is told what waits for him: runs that are open (``runs_wait``), trades that a
    look has missed (``vanished``), events without a number (``untold``). Nobody has to ask beside.
    """

    holder: str
    epoch: int
    runs_wait: bool = field(default=True, compare=False)
    vanished: bool = field(default=True, compare=False)
    untold: bool = field(default=True, compare=False)


def new_holder() -> str:
    """No longer than fits into ``session_name``."""
    return f"{socket.gethostname()[:36]}:{os.getpid()}:{secrets.token_hex(4)}"


def session_name(holder: str) -> str:
    """What the sessions of a process are called: who takes over from it has to find them."""
    return f"truetape {holder}"


async def acquire(
    conn: psycopg.AsyncConnection, holder: str, *, following: bool, doorbells: Sequence[str] = ()
) -> Lease | None:
    """Takes or renews the lease; None while another process holds it.

    ``following``: whether this process follows the tail, too, or only works off runs; ``doorbells``:
    what tells it of new trades.
    """
    values = {
        "holder": holder, "seconds": LEASE_SECONDS, "following": following,
        "doorbells": list(doorbells),
    }  # fmt: skip
    row = await (await conn.execute(_RENEW, values)).fetchone()
    if row is None:
        try:
            async with conn.transaction():
                await conn.execute("SET LOCAL lock_timeout = '200ms'")
                before = await (await conn.execute(_WAIT_FOR_WRITERS)).fetchone()
                if before is not None and before[1]:  # It has not given it back.
                    await conn.execute(_END_LEFT_BEHIND, (session_name(before[0]),))
                row = await (await conn.execute(_TAKE, values)).fetchone()
        except psycopg.errors.LockNotAvailable:
            async with conn.transaction():
                await conn.execute(_END_FROZEN)
    return None if row is None else Lease(holder, *row)


async def release(conn: psycopg.AsyncConnection, lease: Lease) -> None:
    """Gives the lease back, so that the next need not wait for it to expire."""
    async with conn.transaction():
        await conn.execute(
            "UPDATE analytics.lease SET expires_at = '-infinity' "
            "WHERE name = 'leader' AND holder = %s AND epoch = %s",
            (lease.holder, lease.epoch),
        )


async def is_following(conn: psycopg.AsyncConnection) -> bool:
    """Whether a living leader follows the source."""
    return await doorbells(conn) is not None


async def doorbells(conn: psycopg.AsyncConnection) -> list[str] | None:
    """What tells the living leader that follows of new trades; None where there is none."""
    row = await (
        await conn.execute(
            "SELECT doorbells FROM analytics.lease "
            "WHERE name = 'leader' AND following AND expires_at > clock_timestamp()"
        )
    ).fetchone()
    return None if row is None else list(row[0])
