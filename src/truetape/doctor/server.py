"""What is asked of either PostgreSQL: can it be reached, how old is it, what stands in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from truetape.connect import CONNECT_TIMEOUT_SECONDS, first_line, without_password
from truetape.doctor.check import Check, bad, good, note

OLDEST_VERSION = 15
CLOCK_TOLERANCE = timedelta(seconds=5)
CLOCK_LIMIT = timedelta(seconds=60)

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True)
class Server:
    """A PostgreSQL by its role: ``source`` or ``analytics``, and the setting that names it."""

    name: str
    url: str
    setting: str

    def about(self, what: str) -> str:
        return f"{self.name} {what}"

    @property
    def place(self) -> str:
        return without_password(self.url)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection that can only read. Nothing is set for the session: a pooler would hand it on."""
    conn = await psycopg.AsyncConnection.connect(
        url, connect_timeout=CONNECT_TIMEOUT_SECONDS, prepare_threshold=None, autocommit=True
    )
    try:
        await conn.set_read_only(True)
        yield conn
    finally:
        await conn.close()


async def examine_server(server: Server) -> list[Check]:
    """Checks of a server; a single one, that it cannot be reached, if that is so."""
    about = server.about("server")
    try:
        async with connected(server.url) as conn, connected(server.url) as other:
            asked = datetime.now(UTC)
            row = await _row(
                conn,
                "SELECT current_setting('server_version'), "
                "current_setting('server_version_num')::integer, clock_timestamp()",
            )
            round_trip = datetime.now(UTC) - asked
            version, number, clock = row
            return [
                good(about, f"The {server.name} database {server.place} can be reached."),
                version_check(server, version, number),
                clock_check(server, clock - asked - round_trip / 2),
                await _pooler(server, conn, other),
            ]
    except psycopg.OperationalError as error:
        return [bad(
            about, f"The {server.name} database {server.place} cannot be reached: {first_line(error)}.",
            f"Is it running? Are host, port, database, user and password in {server.setting} right?",
            unreachable=True,
        )]  # fmt: skip


async def _row(conn: Connection, query: str, values: Any = None) -> tuple[Any, ...]:
    row = await (await conn.execute(query.encode(), values)).fetchone()
    assert row is not None
    return tuple(row)


def version_check(server: Server, version: str, number: int) -> Check:
    about, says = server.about("version"), f"The {server.name} database is PostgreSQL {version}"
    if number // 10_000 >= OLDEST_VERSION:
        return good(about, f"{says}.")
    return bad(
        about, f"{says}; {OLDEST_VERSION} is the oldest that is supported.", "Upgrade that server."
    )


def clock_check(server: Server, ahead: timedelta) -> Check:
    """``ahead``: how far the server's clock is before ours."""
    about, seconds = server.about("clock"), ahead.total_seconds()
    says = f"The clock of the {server.name} database is {seconds:+.1f} s from ours"
    if abs(ahead) <= CLOCK_TOLERANCE:
        return good(about, f"{says}.")
    if abs(ahead) <= CLOCK_LIMIT:
        return note(about, f"{says}; lag is told wrong by as much.", "Run NTP on both machines.")
    return bad(
        about, f"{says}; lag and alarms are told wrong by as much.", "Run NTP on both machines."
    )


async def _pooler(server: Server, one: Connection, two: Connection) -> Check:
    """Two connections that share a backend, or one that changes it, are pooled by transaction.

    A pooler in session mode gives itself away too: it hands out keys of its own for cancelling.
    """
    backends: list[set[int]] = [set(), set()]
    for _ in range(4):
        for conn, seen in zip((one, two), backends, strict=True):
            seen.add((await _row(conn, "SELECT pg_backend_pid()"))[0])
    about = server.about("pooler")
    if backends[0] & backends[1] or any(len(seen) > 1 for seen in backends):
        return _transaction_pooler(server, about)
    if one.info.backend_pid not in backends[0]:
        return good(
            about, f"A pooler in session mode stands before the {server.name} database: all works."
        )
    return good(about, f"No pooler stands before the {server.name} database.")


def _transaction_pooler(server: Server, about: str) -> Check:
    says = f"A pooler in transaction mode stands before the {server.name} database"
    if server.name == "source":
        return note(
            about, f"{says}: reading works, as nothing of ours outlives a transaction; Ponder's NOTIFY "
            "does not come through, so a timer looks for new trades.",
            f"For the last half second of delay, give {server.setting} the server's own port.",
        )  # fmt: skip
    return bad(
        about, f"{says}: temporary tables and settings of a session get lost there, and runs fail.",
        f"Give {server.setting} the server's own port, or that of a pool in session mode.",
    )  # fmt: skip
