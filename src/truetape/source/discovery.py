"""Finding Ponder's tables: which schema, which columns, what types, which ways of reading there are."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from truetape.errors import UsageError
from truetape.source.mapping import CONVENTION, Mapping

INTEGER_TYPES = {"int2", "int4", "int8"}
NUMBER_TYPES = INTEGER_TYPES | {"numeric", "float4", "float8"}
TYPES = {
    "timestamp": INTEGER_TYPES | {"numeric"},
    "price": NUMBER_TYPES,
    "quantity": NUMBER_TYPES,
    "chain_id": INTEGER_TYPES,
    "base_decimals": INTEGER_TYPES | {"numeric"},
    "quote_decimals": INTEGER_TYPES | {"numeric"},
    "latest_checkpoint": {"text", "varchar"},
    "finalized_checkpoint": {"text", "varchar"},
}
"""Column → the types it may have, in whichever table; other columns are read as text."""

NEEDED = ("order_book_trades", "pools")
"""Tables that must be usable if they are there; the others are left out where they are not."""

TRADER_COLUMNS = (("buyer", "seller"), ("maker", "taker"), ("trader",), ("user",))
TRADERS = {column for columns in TRADER_COLUMNS for column in columns}

_TABLES = """
SELECT n.nspname, c.relname, c.oid, c.relkind::text,
       has_schema_privilege(n.oid, 'USAGE') AS usage
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY n.nspname
"""

_COLUMNS = """
SELECT a.attname, t.typname
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

# An index that leads with the column, on the table or, through a plain view, on the table below it.
_INDEXED = """
WITH RECURSIVE below AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT d.refobjid FROM below b
    JOIN pg_rewrite r ON r.ev_class = b.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> b.oid
)
SELECT EXISTS (
    SELECT FROM below b JOIN pg_index i ON i.indrelid = b.oid
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE a.attname = %(column)s AND i.indisvalid AND i.indpred IS NULL
)
"""


@dataclass(frozen=True)
class Table:
    """A table or view of the source, and how to name its columns."""

    schema: str
    name: str
    oid: int
    kind: str
    columns: dict[str, str]
    """Canonical column name → type name, present columns only."""
    actual: dict[str, str]
    """Canonical column name → the name it has in the source."""

    @property
    def sql(self) -> str:
        return sql.Identifier(self.schema, self.name).as_string()

    def has(self, *columns: str) -> bool:
        return all(c in self.columns for c in columns)

    def col(self, column: str, alias: str) -> str:
        return f"{alias}.{sql.Identifier(self.actual[column]).as_string()}"


@dataclass(frozen=True)
class Shape:
    """What was found in the source, and so how it can be read."""

    schema: str
    trades: Table
    pools: Table | None
    fills: Table | None
    orders: Table | None
    checkpoints: Table | None
    meta: Table | None
    timestamp_indexed: bool
    has_pages: bool
    """The trades are an ordinary table, so its pages can be read one range after another."""

    @property
    def trader_columns(self) -> tuple[str, ...]:
        for names in TRADER_COLUMNS:
            if self.trades.has(*names):
                return names
        return ()

    @property
    def pairs_fills(self) -> bool:
        return not self.trader_columns and self.fills is not None and self.orders is not None


async def discover(conn: psycopg.AsyncConnection, schema: str | None, names: Mapping) -> Shape:
    """Looks the source over. Changes nothing; raises one sentence when it cannot be used."""
    chosen = await choose_schema(conn, schema, names)
    found = {name: await _table(conn, chosen, name, names) for name in CONVENTION}
    trades = found["order_book_trades"]
    if trades is None:
        raise UsageError(
            f"Schema {chosen!r} of the source holds no table {names.table('order_book_trades')!r}."
        )
    shape = Shape(
        schema=chosen,
        trades=trades,
        pools=found["pools"],
        fills=found["trades"],
        orders=found["orders"],
        checkpoints=found["_ponder_checkpoint"],
        meta=found["_ponder_meta"],
        timestamp_indexed=await is_indexed(conn, trades, "timestamp"),
        has_pages=trades.kind == "r",
    )
    _check_traders(shape, names)
    return shape


async def is_indexed(conn: psycopg.AsyncConnection, table: Table, column: str) -> bool:
    """Whether an index leads with a column, on the table or, through a view, on the one below."""
    values = {"oid": table.oid, "column": table.actual[column]}
    row = await (await conn.execute(_INDEXED, values)).fetchone()
    return bool(row and row[0])


async def choose_schema(conn: psycopg.AsyncConnection, schema: str | None, names: Mapping) -> str:
    """The schema to read: as given, or the only one that holds the trades."""
    wanted = names.table("order_book_trades")
    key = names.speaks_of("order_book_trades")
    place = f"{names.place(key)}: " if key == ("tables", "order_book_trades") else ""
    rows = await (await conn.execute(_TABLES, ([wanted],))).fetchall()
    if schema in {r[0] for r in rows}:
        return str(schema)
    found = [str(r[0]) for r in rows if r[0] != "analytics"]
    if schema is not None:
        others = f" It is in: {', '.join(found)}." if found else ""
        raise UsageError(
            f"{place}PONDER_SCHEMA {schema!r} holds no table {wanted!r} that this role can see.{others}"
        )
    if not found:
        raise UsageError(
            f"{place}The source database holds no table {wanted!r} that this role can see; check "
            "PONDER_DATABASE_URL, or wait until Ponder has created it, or map its name in truetape.toml."
        )
    if len(found) > 1:
        kinds = {str(r[0]): " (views)" if r[3] == "v" else "" for r in rows}
        listed = ", ".join(name + kinds[name] for name in found)
        raise UsageError(
            f"Several schemas hold {wanted!r}: {listed}. Set PONDER_SCHEMA to one of them; to that of "
            "the views, if there are any."
        )
    return found[0]


async def _table(
    conn: psycopg.AsyncConnection, schema: str, name: str, names: Mapping
) -> Table | None:
    """The table with its columns. None when absent or, unless it is needed or mapped, unusable."""
    actual_name, asked = names.table(name), names.speaks_of(name)
    needed = asked is not None or name in NEEDED
    rows = await (await conn.execute(_TABLES, ([actual_name],))).fetchall()
    row = next((r for r in rows if r[0] == schema), None)
    if row is None or actual_name is None:
        if asked is not None:
            raise UsageError(
                f"{names.place(asked)}: schema {schema!r} of the source holds no table {actual_name!r}."
            )
        return None
    oid, place = int(row[2]), f"{schema}.{actual_name}"
    types = {str(c): str(t) for c, t in await (await conn.execute(_COLUMNS, (oid,))).fetchall()}
    try:
        present = _columns(name, place, types, names)
        if not (row[4] and await _may_read(conn, oid, present)):
            raise UsageError(
                f"Role {conn.info.user!r} may not read {place}; run in the source: "
                f"{grants(conn.info.user, schema, actual_name)}"
            )
    except UsageError:
        if needed:
            raise
        return None
    return Table(
        schema, actual_name, oid, str(row[3]), {c: types[a] for c, a in present.items()}, present
    )


def _columns(name: str, place: str, types: dict[str, str], names: Mapping) -> dict[str, str]:
    """Canonical → actual name of the columns that are there, each of a type that can be read."""
    required, optional = CONVENTION[name]
    mapped = names.columns.get(name, {})
    present = {}
    for column in (*required, *optional):
        actual = names.column(name, column)
        told = f"{names.place(('columns', name, column))}: " if column in mapped else ""
        if actual is None or actual not in types:
            if told:
                raise UsageError(
                    f"{told}table {place} of the source has no column {actual!r}; "
                    f"it has {', '.join(types)}."
                )
            if column in required:
                raise UsageError(
                    f"Table {place} of the source has no column {column!r}; "
                    f"map its name in truetape.toml under [columns.{name}]."
                )
            continue
        allowed = TYPES.get(column)
        if allowed is not None and types[actual] not in allowed:
            raise UsageError(
                f"{told}{'c' if told else 'C'}olumn {actual!r} of {place} is of type {types[actual]}; "
                f"it must be one of {', '.join(sorted(allowed))}."
            )
        present[column] = actual
    return present


async def _may_read(conn: psycopg.AsyncConnection, oid: int, present: dict[str, str]) -> bool:
    allowed = await (
        await conn.execute(
            "SELECT bool_and(has_column_privilege(%s::oid, c, 'SELECT')) FROM unnest(%s::text[]) c",
            (oid, list(present.values())),
        )
    ).fetchone()
    return bool(allowed and allowed[0])


def grants(role: str, schema: str, *tables: str) -> str:
    """What the owner has to run, so that a role may read some tables."""
    to = sql.Identifier(role).as_string()
    what = ", ".join(sql.Identifier(schema, table).as_string() for table in tables)
    return (
        f"GRANT USAGE ON SCHEMA {sql.Identifier(schema).as_string()} TO {to}; "
        f"GRANT SELECT ON {what} TO {to};"
    )


def _check_traders(shape: Shape, names: Mapping) -> None:
    """Traders that are mapped, but of no use, would be missed silently."""
    for column in names.columns.get("order_book_trades", {}):
        if column in TRADERS and column not in shape.trader_columns:
            place = names.place(("columns", "order_book_trades", column))
            used = " and ".join(shape.trader_columns)
            raise UsageError(
                f"{place}: {column} is not used, as there are {used}; take the line out."
                if used
                else f"{place}: {column} alone does not tell who traded; give buyer and seller, or "
                "maker and taker, or trader, or user."
            )
