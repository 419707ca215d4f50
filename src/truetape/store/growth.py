"""What is dropped with age; with TimescaleDB raw trades go chunk by chunk."""

from dataclasses import dataclass
from datetime import datetime

from truetape.store.apply import Connection, Writer, bounds, fenced
from truetape.trade import DAY, HOUR, Slice

_TIMESCALE = """
SELECT e.extversion, current_setting('timescaledb.license', true), quote_ident(n.nspname)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb'
"""

_HAS_TAPE = """
SELECT EXISTS (SELECT FROM timescaledb_information.hypertables
               WHERE hypertable_schema = 'analytics' AND hypertable_name = 'tape')
"""

MAKE_HYPERTABLE = (
    "SELECT create_hypertable('analytics.tape', 'time', chunk_time_interval => interval '7 days', "
    "create_default_indexes => false, migrate_data => true);"
)
"""By which a plain tape becomes a hypertable without losing its place."""

# Hours are sealed whole: hourly figures are computed from the raw trades of all their hour.
_FIRST_CHUNK = """
SELECT extract(epoch FROM range_start)::bigint, extract(epoch FROM range_end)::bigint
FROM timescaledb_information.chunks
WHERE hypertable_schema = 'analytics' AND hypertable_name = 'tape'
  AND range_end = date_trunc('hour', range_end)
  AND range_end > to_timestamp(%(since)s) AND range_end <= to_timestamp(%(before)s)
ORDER BY range_start LIMIT 1
"""

_FIRST_TRADE = """
SELECT extract(epoch FROM min(time))::bigint FROM analytics.tape WHERE time >= to_timestamp(%(since)s)
"""

_DROP_LOG = """
WITH entries AS (
    DELETE FROM analytics.quarantine WHERE resolved_at < %(before)s RETURNING 1
), past AS (
    DELETE FROM analytics.runs WHERE ended_at < %(before)s RETURNING run_id
), slices AS (
    DELETE FROM analytics.job_results WHERE run_id IN (SELECT run_id FROM past)
)
SELECT (SELECT count(*) FROM entries) + (SELECT count(*) FROM past)
"""


@dataclass(frozen=True)
class Timescale:
    """The extension, as it was found in the analytics database."""

    version: str
    licence: str | None
    schema: str
    """Where its functions are, quoted."""
    has_tape: bool
    """Whether the tape is a hypertable."""


async def timescale(conn: Connection) -> Timescale | None:
    """What there is of TimescaleDB; None: nothing."""
    row = await (await conn.execute(_TIMESCALE)).fetchone()
    if row is None:
        return None
    has_tape = await (await conn.execute(_HAS_TAPE)).fetchone()
    version, licence, schema = row
    return Timescale(version, licence, schema, bool(has_tape and has_tape[0]))


async def drop_log(conn: Connection, before: datetime) -> int:
    """Drops resolved quarantine entries and runs that ended before; how many."""
    async with conn.transaction():
        row = await (await conn.execute(_DROP_LOG, {"before": before})).fetchone()
    return int(row[0]) if row else 0


async def first_part(conn: Connection, since: int, before: int) -> Slice | None:
    """The first part of the tape that can be dropped in one piece: a chunk, or a day (UTC) where there
    are none. None: none lies wholly between the two Unix seconds."""
    between = {"since": since, "before": before}
    found = await timescale(conn)
    if found is not None and found.has_tape:
        row = await (await conn.execute(_FIRST_CHUNK, between)).fetchone()
        return None if row is None else Slice(max(int(row[0]), since), int(row[1]))
    row = await (await conn.execute(_FIRST_TRADE, between)).fetchone()
    if row is None or row[0] is None:
        return None
    day = int(row[0]) // DAY * DAY
    return Slice(max(day, since), day + DAY) if day + DAY <= before else None


async def seal(conn: Connection, writer: Writer, part: Slice) -> None:
    """Drops the raw trades of a part and of all before it; what they fed stays as it is, for good."""
    assert part.end % HOUR == 0, part
    values = bounds(part)
    async with fenced(conn, writer, part):
        await conn.execute("UPDATE analytics.state SET sealed_before = %s", (part.end,))
        await conn.execute("DELETE FROM analytics.vanishing WHERE time < %(to)s", values)
        found = await timescale(conn)
        if found is not None and found.has_tape:
            drop = f"SELECT {found.schema}.drop_chunks('analytics.tape', older_than => %(to)s)"
            await conn.execute(drop, values)
        await conn.execute("DELETE FROM analytics.tape WHERE time < %(to)s", values)
