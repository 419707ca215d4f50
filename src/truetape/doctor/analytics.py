"""The analytics database: may we make and keep our schema there, and is it of this source."""

import re
from typing import Any

import psycopg
from psycopg import sql

from truetape.connect import first_line
from truetape.doctor.check import Check, bad, good, note
from truetape.doctor.server import Connection, Server, connected, examine_server
from truetape.doctor.source import Findings
from truetape.settings import Settings
from truetape.source.reader import sample_hashes
from truetape.store import growth
from truetape.store.growth import MAKE_HYPERTABLE, Timescale
from truetape.store.migrate import latest_version
from truetape.trade import HashMethod

SAFE_TIMESCALE = (2, 18, 1)

_RIGHTS = """
SELECT current_database(), pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
       has_database_privilege(current_database(), 'TEMPORARY'),
       pg_get_userbyid(n.nspowner),
       CASE WHEN n.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
            ELSE has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
                 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
                                 AND NOT pg_has_role(c.relowner, 'USAGE')) END
FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = 'analytics'
"""

_FOREIGN = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'analytics' AND c.relkind IN ('r', 'v', 'p') ORDER BY 1 LIMIT 1
"""


async def examine_analytics(settings: Settings, source: Findings) -> list[Check]:
    """``source``: what was found there, where it could be read."""
    url = settings.analytics_database_url
    if url is None:
        return [
            good(
                "analytics server",
                f"The analytics live in an embedded PostgreSQL below {settings.home}.",
            )
        ]
    server = Server("analytics", url, "ANALYTICS_DATABASE_URL")
    checks = await examine_server(server)
    if checks[0].verdict == "bad":
        return checks
    try:
        async with connected(url) as conn, conn.transaction():
            checks += await _rights(conn)
            checks += await _schema(conn, source)
            checks.append(await _timescale(conn))
            if source.hashes is not None:
                checks.append(await _hashes(conn, source.hashes))
    except psycopg.Error as error:
        checks.append(
            bad("analytics schema", f"The analytics database cannot be used: {first_line(error)}.")
        )
    return checks


async def _first(conn: Connection, query: str) -> tuple[Any, ...] | None:
    row = await (await conn.execute(query.encode())).fetchone()
    return None if row is None else tuple(row)


async def _rights(conn: Connection) -> list[Check]:
    about, role = "analytics rights", sql.Identifier(conn.info.user).as_string()
    row = await _first(conn, _RIGHTS)
    assert row is not None
    name, is_standby, is_read_only, temporary, owner, may_make = row
    database, checks = sql.Identifier(name).as_string(), []
    if is_standby or is_read_only:
        why = "a standby" if is_standby else "set to read only (default_transaction_read_only)"
        checks.append(bad(about, f"The analytics database is {why}: nothing can be written.",
                          "Give ANALYTICS_DATABASE_URL a database that can be written."))  # fmt: skip
    if not temporary:
        checks.append(bad(about, f"Role {conn.info.user!r} may not make temporary tables.",
                          f"There: GRANT TEMPORARY ON DATABASE {database} TO {role};"))  # fmt: skip
    if not may_make and owner is None:
        checks.append(bad(about, f"Role {conn.info.user!r} may not make schema analytics.",
                          f"There: GRANT CREATE ON DATABASE {database} TO {role};"))  # fmt: skip
    elif not may_make:
        checks.append(bad(about, f"Schema analytics belongs to {owner!r}, not to {conn.info.user!r}.",
                          f"Connect as {owner!r}, or there: "
                          f"GRANT {sql.Identifier(owner).as_string()} TO {role};"))  # fmt: skip
    return checks or [good(about, f"Role {conn.info.user!r} may make and keep schema analytics.")]


async def _schema(conn: Connection, source: Findings) -> list[Check]:
    about = "analytics schema"
    ours = await _first(conn, "SELECT to_regclass('analytics.alembic_version')::text")
    if ours is None or ours[0] is None:
        foreign = await _first(conn, _FOREIGN)
        if foreign is not None:
            return [bad(about, f"Schema analytics holds {foreign[0]!r}, which is not ours.",
                        "Use another database, or there: ALTER SCHEMA analytics RENAME TO …;")]  # fmt: skip
        return [good(about, "Schema analytics is not there yet; the first start makes it.")]
    row = await _first(conn, "SELECT version_num FROM analytics.alembic_version")
    version = str(row[0]) if row else "none"
    if row and version > latest_version():
        return [bad(about, f"Schema analytics is of version {version}, newer than this program.",
                    "Upgrade truetape.")]  # fmt: skip
    checks = [good(about, f"Schema analytics is of version {version}.")]
    made_from = await _first(conn, "SELECT source_identity, source_text FROM analytics.state")
    if made_from and made_from[0] and source.identity and made_from[0] != source.identity:
        checks.append(bad("analytics source", f"These analytics were made from another source, "
                          f"{made_from[1]}.", "If the new one is meant: --accept-new-source"))  # fmt: skip
    return checks


async def _timescale(conn: Connection) -> Check:
    row = await _first(
        conn,
        "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'), "
        "to_regclass('analytics.tape') IS NOT NULL",
    )
    is_available, is_made = row or (False, False)
    return timescale_check(await growth.timescale(conn), is_available=is_available, is_made=is_made)


def timescale_check(found: Timescale | None, *, is_available: bool, is_made: bool) -> Check:
    """``is_available``: the extension could be made; ``is_made``: our schema is."""
    about = "timescaledb"
    if found is None and is_available:
        move = f" {MAKE_HYPERTABLE}" if is_made else ""
        return note(about, "TimescaleDB is installed there, but not in this database: plain tables, the "
                    "same behaviour.", f"To use it, there: CREATE EXTENSION timescaledb;{move}")  # fmt: skip
    if found is None:
        return good(about, "No TimescaleDB there: plain tables, the same behaviour.")
    says = f"TimescaleDB {found.version}, {found.licence or 'unknown'} licence"
    if tuple(int(n) for n in re.findall(r"\d+", found.version)[:3]) < SAFE_TIMESCALE:
        oldest = ".".join(map(str, SAFE_TIMESCALE))
        return note(about, f"{says}: before {oldest} it can lose rows that are written into compressed "
                    "chunks.", "There: ALTER EXTENSION timescaledb UPDATE;")  # fmt: skip
    if not is_made:
        return good(about, f"{says}: the first start makes the tape a hypertable.")
    if not found.has_tape:
        return note(about, f"{says}: the tape is a plain table, from before the extension.",
                    f"To have it in chunks, while nothing runs, there: {MAKE_HYPERTABLE}")  # fmt: skip
    return good(about, f"{says}: the tape is a hypertable, old trades go chunk by chunk.")


async def _hashes(conn: Connection, theirs: list[int]) -> Check:
    about = "hashes"
    if theirs == await sample_hashes(conn, HashMethod.RECORD):
        return good(about, "Both servers hash rows alike.")
    return note(about, "The two servers hash rows differently: md5 is used, at half the speed.")
