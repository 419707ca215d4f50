"""Finding Ponder's tables: which schema, which columns, what types, which ways of reading there are."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from truetape.errors import UsageError

INTEGER_TYPES = {"int2", "int4", "int8"}
NUMBER_TYPES = INTEGER_TYPES | {"numeric", "float4", "float8"}

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
class Mapping:
    """Names in the source where they differ from Ponder's order-book convention (truetape.toml)."""

    tables: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)

    def table(self, name: str) -> str:
        return self.tables.get(name, name)

    def column(self, table: str, name: str) -> str:
        return self.columns.get(table, {}).get(name, name)

    @classmethod
    def read(cls, path: Path) -> "Mapping":
        """``[tables]`` and ``[columns.<table>]`` of a TOML file; an absent file is an empty mapping."""
        if not path.exists():
            return cls()
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not valid TOML: {error}.") from error
        if unknown := sorted(document.keys() - {"tables", "columns"}):
            raise UsageError(
                f"{path}: unknown section {unknown[0]!r}; there are [tables] and [columns.<table>]."
            )
        tables, columns = document.get("tables", {}), document.get("columns", {})
        known = {"order_book_trades", "pools", "trades", "orders"}
        for name in [*tables, *columns]:
            if name not in known:
                raise UsageError(
                    f"{path}: unknown table {name!r}; known: {', '.join(sorted(known))}."
                )
        values = [*tables.values(), *(v for t in columns.values() for v in _values(path, t))]
        if wrong := [v for v in values if not isinstance(v, str) or not v]:
            raise UsageError(f"{path}: {wrong[0]!r} is no name; give each name as a string.")
        return cls(tables, columns)


def _values(path: Path, section: object) -> list[object]:
    if not isinstance(section, dict):
        raise UsageError(f"{path}: [columns.<table>] must be a table of names.")
    return list(section.values())


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
        for names in (("buyer", "seller"), ("maker", "taker"), ("trader",), ("user",)):
            if self.trades.has(*names):
                return names
        return ()

    @property
    def pairs_fills(self) -> bool:
        return not self.trader_columns and self.fills is not None and self.orders is not None


_WANTED = {
    "order_book_trades": (
        ("id", "timestamp", "price", "quantity", "pool_id", "side", "transaction_id"),
        ("chain_id", "buyer", "seller", "maker", "taker", "trader", "user"),
    ),
    "pools": (("order_book", "coin"), ("chain_id", "base_decimals", "quote_decimals")),
    "trades": (
        ("id", "transaction_id", "pool_id", "order_id", "price", "quantity", "timestamp"),
        ("chain_id",),
    ),
    "orders": (("id", "user", "side"), ("chain_id",)),
    "_ponder_checkpoint": (
        ("chain_id", "latest_checkpoint", "finalized_checkpoint"),
        ("chain_name", "safe_checkpoint"),
    ),
    "_ponder_meta": (("key", "value"), ()),
}


async def discover(conn: psycopg.AsyncConnection, schema: str | None, names: Mapping) -> Shape:
    """Looks the source over. Changes nothing; raises one sentence when it cannot be used."""
    chosen = await _choose_schema(conn, schema, names)
    trades = await _table(conn, chosen, "order_book_trades", names)
    if trades is None:
        raise UsageError(
            f"Schema {chosen!r} of the source holds no table {names.table('order_book_trades')!r}."
        )
    _check_types(trades)
    fills = await _table(conn, chosen, "trades", names, optional=True)
    orders = await _table(conn, chosen, "orders", names, optional=True)
    timestamp = {"oid": trades.oid, "column": trades.actual["timestamp"]}
    indexed = await (await conn.execute(_INDEXED, timestamp)).fetchone()
    return Shape(
        schema=chosen,
        trades=trades,
        pools=await _table(conn, chosen, "pools", names),
        fills=fills,
        orders=orders,
        checkpoints=await _table(conn, chosen, "_ponder_checkpoint", names, optional=True),
        meta=await _table(conn, chosen, "_ponder_meta", names, optional=True),
        timestamp_indexed=bool(indexed and indexed[0]),
        has_pages=trades.kind == "r",
    )


async def _choose_schema(conn: psycopg.AsyncConnection, schema: str | None, names: Mapping) -> str:
    wanted = names.table("order_book_trades")
    rows = await (await conn.execute(_TABLES, ([wanted],))).fetchall()
    found = [str(r[0]) for r in rows if r[0] != "analytics"]
    if schema is not None:
        if schema in found:
            return schema
        others = f" It is in: {', '.join(found)}." if found else ""
        raise UsageError(
            f"PONDER_SCHEMA {schema!r} holds no table {wanted!r} that this role can see.{others}"
        )
    if not found:
        raise UsageError(
            f"The source database holds no table {wanted!r} that this role can see; check "
            "PONDER_DATABASE_URL, or wait until Ponder has created it, or map its name in truetape.toml."
        )
    if len(found) > 1:
        raise UsageError(
            f"Several schemas hold {wanted!r}: {', '.join(found)}. Set PONDER_SCHEMA to one of them."
        )
    return found[0]


async def _table(
    conn: psycopg.AsyncConnection, schema: str, name: str, names: Mapping, *, optional: bool = False
) -> Table | None:
    """The table with its wanted columns; None when absent (or, if optional, unusable)."""
    actual_name = names.table(name)
    rows = await (await conn.execute(_TABLES, ([actual_name],))).fetchall()
    row = next((r for r in rows if r[0] == schema), None)
    if row is None:
        return None
    oid = int(row[2])
    types = {str(c): str(t) for c, t in await (await conn.execute(_COLUMNS, (oid,))).fetchall()}
    required, extra = _WANTED[name]
    actual = {c: names.column(name, c) for c in (*required, *extra)}
    if missing := [actual[c] for c in required if actual[c] not in types]:
        if optional:
            return None
        raise UsageError(
            f"Table {schema}.{actual_name} of the source has no column {missing[0]!r}; "
            f"map its name in truetape.toml under [columns.{name}]."
        )
    present = {c: a for c, a in actual.items() if a in types}
    allowed = await (
        await conn.execute(
            "SELECT bool_and(has_column_privilege(%s::oid, c, 'SELECT')) FROM unnest(%s::text[]) c",
            (oid, list(present.values())),
        )
    ).fetchone()
    if not (row[4] and allowed and allowed[0]):
        if optional:
            return None
        role = conn.info.user
        what = sql.Identifier(schema, actual_name).as_string()
        grant = sql.Identifier(role).as_string()
        raise UsageError(
            f"Role {role!r} may not read {schema}.{actual_name}; run in the source: "
            f"GRANT USAGE ON SCHEMA {sql.Identifier(schema).as_string()} TO {grant}; "
            f"GRANT SELECT ON {what} TO {grant};"
        )
    return Table(
        schema, actual_name, oid, str(row[3]), {c: types[a] for c, a in present.items()}, present
    )


def _check_types(trades: Table) -> None:
    allowed = {
        "timestamp": INTEGER_TYPES | {"numeric"},
        "price": NUMBER_TYPES,
        "quantity": NUMBER_TYPES,
        "chain_id": INTEGER_TYPES,
    }
    for column, types in allowed.items():
        if trades.has(column) and trades.columns[column] not in types:
            raise UsageError(
                f"Column {trades.actual[column]!r} of {trades.schema}.{trades.name} is of type "
                f"{trades.columns[column]}; it must be one of {', '.join(sorted(types))}."
            )
