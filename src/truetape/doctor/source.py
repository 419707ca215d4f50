"""The source: is it Ponder's, may we read it, how far is it, and what will break at its next restart."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from truetape.connect import first_line
from truetape.doctor.check import Check, bad, good, note
from truetape.doctor.server import Connection, Server, connected, examine_server
from truetape.errors import TruetapeError, UsageError
from truetape.source import Mapping, Shape, Source
from truetape.source.discovery import NEEDED, Table, choose_schema, grants, is_indexed
from truetape.source.mapping import CONVENTION
from truetape.sync.freshness import Freshness, freshness, span
from truetape.trade import HashMethod, Standing

_RELATIONS = """
SELECT c.relname, c.relkind::text, pg_get_userbyid(c.relowner),
       has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm')
"""

# Whether what the owner makes in the schema from now on can be read by this role, without a new GRANT.
_READABLE_BY_DEFAULT = """
SELECT pg_has_role(%(owner)s, 'USAGE') OR pg_has_role('pg_read_all_data', 'USAGE') OR EXISTS (
    SELECT FROM pg_default_acl d CROSS JOIN aclexplode(d.defaclacl) a
    JOIN pg_roles o ON o.oid = d.defaclrole LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    WHERE o.rolname = %(owner)s AND coalesce(n.nspname, %(schema)s) = %(schema)s
      AND d.defaclobjtype = 'r' AND a.privilege_type = 'SELECT'
      AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
"""

_TABLE_BELOW = """
WITH RECURSIVE below AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT d.refobjid FROM below b
    JOIN pg_rewrite r ON r.ev_class = b.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> b.oid
)
SELECT n.nspname, c.relname
FROM below JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s
WHERE c.relkind IN ('r', 'p')
"""


@dataclass
class Findings:
    """What was found in the source, and what the analytics are to be held against."""

    checks: list[Check] = field(default_factory=list)
    identity: str | None = None
    hashes: list[int] | None = None


async def examine_source(
    url: str, schema: str | None, names: Mapping, *, late_minutes: float
) -> Findings:
    """``late_minutes``: how far behind the clock a chain may be without a word."""
    server = Server("source", url, "PONDER_DATABASE_URL")
    found = Findings(await examine_server(server))
    if found.checks[0].verdict == "bad":
        return found
    about = "source schema"
    try:
        async with connected(url) as conn, conn.transaction():
            chosen = await choose_schema(conn, schema, names)
            if chosen == "analytics":
                raise UsageError("The source's tables stand in schema analytics, which is ours.")
            found.checks.append(good(about, f"Schema {chosen!r} holds the trades."))
            about, rights = "source tables", await _rights(conn, chosen, names)
            found.checks += rights
        if all(check.verdict != "bad" or not _is_needed(check) for check in rights):
            async with Source.open(url, schema=chosen, names=names, connections=1) as source:
                found.checks += await _ponder(source, timedelta(minutes=late_minutes))
                async with connected(url) as conn:
                    found.checks += await _indexes(conn, source.shape)
                found.checks += _contents(source.shape)
                found.identity = source.identity
                found.hashes = await source.sample_hashes(HashMethod.RECORD)
    except TruetapeError as error:
        found.checks.append(bad(about, str(error)))
    except psycopg.Error as error:
        found.checks.append(bad(about, f"The source cannot be read: {first_line(error)}."))
    return found


# -- rights ----------------------------------------------------------------------------------


async def _rights(conn: Connection, schema: str, names: Mapping) -> list[Check]:
    wanted = {actual: name for name in CONVENTION if (actual := names.table(name)) is not None}
    rows = await (await conn.execute(_RELATIONS, (schema, list(wanted)))).fetchall()
    who = "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user"
    role, is_superuser = await (await conn.execute(who)).fetchone() or ("", False)
    checks = [
        bad(
            f"source rights on {wanted[table]}",
            f"Role {role!r} may not read {schema}.{table}.",
            f"In the source: {grants(role, schema, table)}",
        )
        for table, _, _, readable in rows
        if not readable
    ]
    if not checks:
        tables = ", ".join(sorted(table for table, *_ in rows))
        checks.append(good("source rights", f"Role {role!r} may read {tables}."))
    if is_superuser:
        checks.append(note("source role", "The source is read as a superuser.",
                           "A role with SELECT is enough."))  # fmt: skip
    owners = {owner for _, kind, owner, _ in rows if kind == "v"}
    return checks + await _rights_to_come(conn, schema, role, owners)


async def _rights_to_come(
    conn: Connection, schema: str, role: str, owners: set[str]
) -> list[Check]:
    """Ponder drops its views and makes them anew at each restart; grants go with the old ones."""
    about, checks = "source rights to come", []
    for owner in sorted(owners):
        values = {"owner": owner, "schema": schema}
        row = await (await conn.execute(_READABLE_BY_DEFAULT, values)).fetchone()
        if row and row[0]:
            says = f"Views that {owner!r} makes anew can be read without a new GRANT."
            checks.append(good(about, says))
        else:
            by, within, to = (sql.Identifier(x).as_string() for x in (owner, schema, role))
            checks.append(note(
                about, "Ponder makes its views anew at each restart; this role may not read the new ones.",
                f"In the source: ALTER DEFAULT PRIVILEGES FOR ROLE {by} IN SCHEMA {within} "
                f"GRANT SELECT ON TABLES TO {to};",
            ))  # fmt: skip
    return checks


def _is_needed(check: Check) -> bool:
    return check.about in {f"source rights on {name}" for name in NEEDED}


# -- Ponder ----------------------------------------------------------------------------------


async def _ponder(source: Source, tolerated: timedelta) -> list[Check]:
    async with source.look() as look:
        extent = await look.extent()
        standing, at = await look.standing(), look.at
    found = freshness(standing, extent[1] if extent else None, at, tolerated)
    return [
        *_build(standing),
        _readiness(standing, at, found),
        _position(standing),
    ]


def _build(standing: Standing) -> list[Check]:
    app = standing.app
    if "build_id" not in app:
        says = "Ponder does not tell its build: there is no _ponder_meta to read."
        return [note("ponder build", says)]
    checks = [good("ponder build", f"Ponder's build is {app['build_id']}, its tables are of version "
                                   f"{app.get('version', '?')}.")]  # fmt: skip
    if str(app.get("is_dev", 0)) == "1":
        checks.append(note("ponder mode", "This is `ponder dev`: it empties its tables at each change.",
                           "Use `ponder start` with --schema and --views-schema."))  # fmt: skip
    return checks


def _readiness(standing: Standing, at: datetime, found: Freshness) -> Check:
    about = "ponder readiness"
    beat = ""
    if standing.alive_at is not None:
        beat = f"; its last heartbeat was {span(at - standing.alive_at)} ago"
    if found.is_down:
        return bad(about, found.says, "Start Ponder, or read its log. If a newer deployment writes another "
                                "schema, PONDER_SCHEMA names an old one.")  # fmt: skip
    if found.is_current is False:
        return note(about, found.says, "Wait, or read Ponder's log.")
    if standing.ready is None:
        return note(about, f"Ponder does not tell whether it is ready. {found.says}".rstrip())
    return good(about, f"Ponder is ready{beat}. {found.says}".rstrip())


def _position(standing: Standing) -> Check:
    about = "ponder position"
    if not standing.positions:
        return note(about, "Ponder's checkpoints are not there to be read: no blocks in health, and reorgs "
                    "are looked for in a window of a set age.", "See rights on _ponder_checkpoint, or "
                    "SYNC_REORG_WINDOW_MINUTES.")  # fmt: skip
    blocks = ", ".join(
        f"chain {p.chain_id} at block {p.block} ({p.finalized_block} final)"
        for p in standing.positions
    )
    return good(about, f"Ponder tells its position: {blocks}.")


# -- tables ----------------------------------------------------------------------------------


async def _indexes(conn: Connection, shape: Shape) -> list[Check]:
    wanted: list[tuple[str, Table | None, str]] = [("order_book_trades", shape.trades, "timestamp")]
    if shape.pairs_fills:
        wanted += [("trades", shape.fills, "timestamp"), ("orders", shape.orders, "id")]
    checks = []
    for name, table, column in wanted:
        if table is None:
            continue
        about, actual = f"source index on {name}", table.actual[column]
        if await is_indexed(conn, table, column):
            checks.append(good(about, f"Table {table.name} has an index on {actual}."))
        else:
            checks.append(note(
                about, f"Table {table.name} has no index on {actual}: looks read the whole table. (Ponder "
                "makes its indexes when its backfill ends.)", await _how_to_index(conn, table, actual),
            ))  # fmt: skip
    return checks


async def _how_to_index(conn: Connection, table: Table, column: str) -> str:
    """For Ponder and by hand; a view cannot have an index, the table below it can."""
    advice = f"In Ponder's schema file: index().on(table.{column})."
    rows = await (await conn.execute(_TABLE_BELOW, {"oid": table.oid, "column": column})).fetchall()
    if len(rows) == 1:
        what, on = sql.Identifier(*rows[0]).as_string(), sql.Identifier(column).as_string()
        advice += f" By hand, in the source: CREATE INDEX CONCURRENTLY ON {what} ({on});"
    return advice


def _contents(shape: Shape) -> list[Check]:
    if shape.trader_columns:
        columns = " and ".join(shape.trader_columns)
        checks = [good("traders", f"Traders are told by the trades: {columns}.")]
    elif shape.pairs_fills and shape.fills is not None:
        checks = [good("traders", f"Traders are paired from the fills in {shape.fills.name}.")]
    else:
        checks = [note("traders", "There is no trader data: trader statistics stay empty.")]
    if shape.pools is None:
        checks.append(note("pools", "There is no table of pools: symbols stay unknown."))
    return checks
