"""What ``truetape doctor`` looks at. Everything is read, nothing is written."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from truetape.connect import first_line, without_password
from truetape.errors import TruetapeError
from truetape.settings import Settings
from truetape.source import Mapping, Shape, Source
from truetape.source.reader import sample_hashes
from truetape.store.migrate import latest_version
from truetape.trade import HashMethod

CLOCK_TOLERANCE_SECONDS = 5


@dataclass(frozen=True)
class Check:
    """One finding: ``good``, ``note`` (works, could be better) or ``bad``; and what to do."""

    verdict: str
    says: str
    advice: str = ""


async def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which one depends on the other."""
    checks = [_home(settings.home)]
    hashes: list[int] | None = None
    if settings.ponder_database_url is None:
        checks.append(
            Check(
                "bad",
                "PONDER_DATABASE_URL is not set.",
                "Set it to the Ponder database's libpq URL.",
            )
        )
    else:
        found, hashes = await _source(settings, settings.ponder_database_url)
        checks += found
    if settings.analytics_database_url is None:
        checks.append(Check("good", f"Analytics: an embedded PostgreSQL below {settings.home}."))
    else:
        checks += await _analytics(settings.analytics_database_url, hashes)
    return checks


def _home(home: Path) -> Check:
    folder = home
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return Check("good", f"TRUETAPE_HOME {home} can be written.")
    return Check(
        "bad", f"TRUETAPE_HOME {home} cannot be written.", "Set TRUETAPE_HOME to a folder of yours."
    )


async def _source(settings: Settings, url: str) -> tuple[list[Check], list[int] | None]:
    try:
        async with Source.open(
            url, schema=settings.ponder_schema, names=Mapping.read(settings.mapping_file)
        ) as source:
            checks = [
                Check("good", f"Source {without_password(url)}: schema {source.shape.schema!r}.")
            ]
            checks += _shape(source.shape)
            async with source.look() as look:
                positions = await look.positions()
            blocks = ", ".join(f"chain {p.chain_id} at block {p.block}" for p in positions)
            checks.append(
                Check("good", f"Ponder tells its position: {blocks}.") if positions
                else Check("note", "Ponder's checkpoints are not to be read.",
                           "Reorgs are looked for in a window of a set age (SYNC_REORG_WINDOW_MINUTES).")
            )  # fmt: skip
            checks += await _server(url, "source")
            return checks, await source.sample_hashes(HashMethod.RECORD)
    except TruetapeError as error:
        return [Check("bad", str(error))], None


def _shape(shape: Shape) -> list[Check]:
    checks = []
    if shape.timestamp_indexed:
        checks.append(Check("good", "The trades have an index on their timestamp."))
    else:
        column = shape.trades.col("timestamp", "t").partition(".")[2]
        checks.append(Check(
            "note", "The trades have no index on their timestamp: looks read the whole table.",
            f"In the source: CREATE INDEX CONCURRENTLY ON {shape.trades.sql} ({column});",
        ))  # fmt: skip
    if shape.trader_columns:
        checks.append(
            Check("good", f"Traders: from {', '.join(shape.trader_columns)} of the trades.")
        )
    elif shape.pairs_fills and shape.fills is not None:
        checks.append(Check("good", f"Traders: paired from the fills in {shape.fills.sql}."))
    else:
        checks.append(Check("note", "No trader data: trader statistics stay empty."))
    if shape.pools is None:
        checks.append(Check("note", "There is no table of pools: symbols stay unknown."))
    return checks


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    conn = await psycopg.AsyncConnection.connect(url, connect_timeout=5, autocommit=True)
    try:
        await conn.execute("SET default_transaction_read_only = on")
        yield conn
    finally:
        await conn.close()


async def _server(url: str, name: str) -> list[Check]:
    async with _connected(url) as conn:
        row = await (
            await conn.execute(
                "SELECT current_setting('server_version'), clock_timestamp(), "
                "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
            )
        ).fetchone()
    assert row is not None
    version, clock, superuser = row
    ahead = (clock - datetime.now(UTC)).total_seconds()
    checks = [Check("good", f"The {name} runs PostgreSQL {version}.")]
    if abs(ahead) > CLOCK_TOLERANCE_SECONDS:
        checks.append(
            Check(
                "note", f"The clock of the {name} is {ahead:+.0f} s from ours.", "Run NTP on both."
            )
        )
    if superuser and name == "source":
        checks.append(
            Check("note", "The source is read as a superuser.", "A role with SELECT is enough.")
        )
    return checks


async def _analytics(url: str, hashes: list[int] | None) -> list[Check]:
    try:
        checks = [Check("good", f"Analytics {without_password(url)} can be reached.")]
        checks += await _server(url, "analytics database")
        async with _connected(url) as conn:
            checks.append(await _schema(conn))
            checks.append(await _timescale(conn))
            if hashes is not None and hashes != await sample_hashes(conn, HashMethod.RECORD):
                checks.append(
                    Check(
                        "note",
                        "The two servers hash rows differently: md5 is used, at half the speed.",
                    )
                )
        return checks
    except psycopg.Error as error:
        place = without_password(url)
        return [
            Check("bad", f"The analytics database {place} cannot be used: {first_line(error)}.")
        ]


async def _schema(conn: psycopg.AsyncConnection[Any]) -> Check:
    row = await (await conn.execute("SELECT to_regclass('analytics.alembic_version')")).fetchone()
    if row is None or row[0] is None:
        return Check("good", "Schema analytics is not there yet; the first start makes it.")
    version = await (
        await conn.execute("SELECT version_num FROM analytics.alembic_version")
    ).fetchone()
    if version is not None and str(version[0]) > latest_version():
        return Check(
            "bad",
            f"Schema analytics is of version {version[0]}, newer than this program.",
            "Upgrade truetape.",
        )
    return Check("good", f"Schema analytics is of version {version[0] if version else 'none'}.")


async def _timescale(conn: psycopg.AsyncConnection[Any]) -> Check:
    row = await (
        await conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    ).fetchone()
    if row is None:
        return Check("good", "No TimescaleDB there: plain tables, the same behaviour.")
    return Check("good", f"TimescaleDB {row[0]} is there.")
