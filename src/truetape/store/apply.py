"""The one way into the tape: a transaction that takes a slice's rows and moves all that they feed."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg
from psycopg.abc import Buffer

from truetape.errors import UsageError
from truetape.store import digests, jobs, outbox
from truetape.store.jobs import Ticket
from truetape.store.lease import Lease, LeaseLostError
from truetape.store.rollups import (
    HOURS,
    MINUTES,
    ROLLUPS,
    TRADER_HOURS,
    WITHIN_DAYS,
    WITHIN_HOURS,
    Rollup,
    seconds,
)
from truetape.store.sqlfile import load
from truetape.trade import DAY, HOUR, MINUTE, Counts, Slice, Standing

SQL = load("truetape.store", "apply.sql")
TRADERS = load("truetape.store.rollups", "traders.sql")

Connection = psycopg.AsyncConnection[Any]
LAST_SECOND = 253_370_764_800
"""The year 9999: no trade stands behind it."""


class Rows(Protocol):
    """The rows of a slice, as the source has them now; binary COPY, the trade's columns first."""

    at: datetime

    def all_rows(self, part: Slice) -> AsyncGenerator[Buffer, None]: ...
    def good_rows(self, part: Slice) -> AsyncGenerator[Buffer, None]: ...
    def bad_rows(self, part: Slice) -> AsyncGenerator[Buffer, None]: ...
    async def count(self, part: Slice) -> int: ...
    async def standing(self) -> Standing: ...


class OpenLook(Protocol):
    """Opens a snapshot of the source for reading some rows."""

    def __call__(self, rows: int = 0) -> Any: ...


@dataclass
class Applied:
    """What one transaction did. ``strays``: ids that left the quarantine unseen."""

    counts: Counts
    look_at: datetime
    look_seconds: float = 0.0
    """How long the snapshot of the source was held."""
    newest: int | None = None
    """The newest Unix second among the rows that came in."""
    strays: list[str] = field(default_factory=list)

    def add(self, other: "Applied") -> None:
        """What another transaction did, too."""
        self.counts.add(other.counts)
        self.look_at = min(self.look_at, other.look_at)
        self.look_seconds += other.look_seconds
        self.newest = max(filter(None, (self.newest, other.newest)), default=None)
        self.strays += other.strays


@dataclass(frozen=True)
class Writer:
    """What every data transaction needs to know."""

    lease: Lease
    row_hash: str
    """SQL of a tape row's hash."""
    durable: bool = True
    """False in a catch-up: a lost tail is only read again, since nobody outside has been told, and
    what comes to an old minute fills it rather than corrects it."""
    ticket: Ticket | None = None
    """The job that it is done for; None: what a leader does by itself."""

    def going_on(self) -> "Writer":
        """For a transaction that is not the last of its job."""
        if self.ticket is None:
            return self
        return replace(self, ticket=replace(self.ticket, ends=False))

    async def note(self, conn: Connection, applied: "Applied") -> None:
        """On the job's account, in the transaction itself. What has strayed keeps a job from its end."""
        if self.ticket is not None:
            writer = self.going_on() if applied.strays else self
            assert writer.ticket is not None
            await jobs.note(conn, writer.ticket, applied.counts)


class SealedError(UsageError):
    """Trades of a time whose raw rows are dropped; ``before``: Unix second."""

    def __init__(self, before: int) -> None:
        super().__init__(
            f"Trades before {datetime.fromtimestamp(before, UTC):%Y-%m-%d %H:%M} UTC are sealed "
            f"(TAPE_RETENTION_DAYS): their raw rows are dropped, and what they fed stays as it is; "
            f"name a time from {before} on."
        )


@asynccontextmanager
async def fenced(
    conn: Connection, writer: Writer, part: Slice, *, shared: bool = False
) -> AsyncIterator[None]:
    """A transaction that only the holder of the lease can commit.

    Nobody else changes or seals the hours of the slice until then; who only adds to them shares them.
    ``conn`` is in autocommit mode. Raises LeaseLostError, and SealedError where some are sealed.
    """
    assert conn.autocommit, "in any other mode BEGIN would be sent twice"
    hours = {"first_hour": part.start // HOUR, "last_hour": (part.end - 1) // HOUR}
    if part.impossible:
        hours = {"first_hour": -1, "last_hour": -1}
    lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    async with AsyncExitStack() as stack:
        async with conn.pipeline():  # Its first statements go out together, BEGIN among them.
            await stack.enter_async_context(psycopg.AsyncTransaction(conn))
            if not writer.durable:
                await conn.execute(SQL["not_durable"])
            held = await conn.execute(SQL["fence"], vars(writer.lease))
            await conn.execute(SQL["lock_hours"].format(lock=lock), hours | vars(writer.lease))
            sealed = await conn.execute(SQL["sealed_before"])
        if await held.fetchone() is None:
            raise LeaseLostError("Another process has taken over the sync; nothing was written.")
        row = await sealed.fetchone()
        if row is not None and part.start < row[0] and not part.impossible:
            raise SealedError(int(row[0]))
        yield


def bounds(part: Slice) -> dict[str, Any]:
    """A slice as the parameters of our statements."""
    return {
        "from": datetime.fromtimestamp(max(part.start, 0), UTC),
        "to": datetime.fromtimestamp(max(part.end, 0), UTC),
    }


class NotEmptyError(Exception):
    """A range that was to be filled in one go holds trades already."""


async def fill(
    conn: Connection, writer: Writer, open_look: OpenLook, part: Slice, pieces: Sequence[Slice]
) -> Applied:
    """Takes in a slice of which we hold nothing, with everything that it feeds, in one transaction.

    ``pieces``: what it is made of, in order; each is read in a snapshot of its own, so that none is held
    for long, and all are reckoned up together: what traders did in an hour is added once, not once a
    piece. Raises NotEmptyError where we do hold something.
    """
    async with fenced(conn, writer, part, shared=True):
        if not await _is_empty(conn, part):
            raise NotEmptyError
        copied, held, at = 0, 0.0, None
        for piece in pieces:
            began = time.monotonic()
            async with open_look(piece.rows) as look:
                at = at or look.at
                good = await copy_in(conn, SQL["copy_to_tape"], look.good_rows(piece))
                copied += good
                if good != await look.count(piece):
                    await copy_in(conn, SQL["copy_to_batch"], look.bad_rows(piece))
                standing = await look.standing()
            held += time.monotonic() - began
        assert at is not None
        behind = await is_behind_itself(conn, standing)
        async with conn.pipeline():
            applied = await _apply_batch(
                conn, writer, part, at, direct=True, retract_from=None, behind=behind
            )
        # Whoever only adds shares the hour, so another may have filled the same range meanwhile;
        # nobody can have taken away, so an equal count at the end means that all of it is ours.
        if applied.counts.inserted != copied:
            raise NotEmptyError
        applied.look_seconds = held
        async with conn.pipeline():
            await _see(conn, standing)
            await writer.note(conn, applied)
        return applied


async def apply(
    conn: Connection,
    writer: Writer,
    open_look: OpenLook,
    part: Slice,
    *,
    retract_from: datetime | None,
) -> Applied:
    """Makes our rows of a slice those of the source, with everything that they feed.

    ``retract_from``: start of the window in which a vanished row goes after a second, not thirty;
    None: nothing that vanished is retracted now (it is noted all the same). Nor is it while the
    source, asked in the very snapshot of the rows, is behind itself.
    """
    async with fenced(conn, writer, part):
        began = time.monotonic()
        async with open_look(part.rows) as look:
            at = look.at
            await copy_in(conn, SQL["copy_to_batch"], look.all_rows(part))
            standing = await look.standing()
        held = time.monotonic() - began
        behind = await is_behind_itself(conn, standing)
        async with conn.pipeline():
            applied = await _apply_batch(
                conn, writer, part, at,
                direct=False, retract_from=None if behind else retract_from, behind=behind,
            )  # fmt: skip
            await _see(conn, standing)
            await writer.note(conn, applied)
        applied.look_seconds = held
        return applied


async def _see(conn: Connection, standing: Standing) -> None:
    """Remembers how far the source is. Last in a transaction, as another batch may wait for these rows;
    whatever the batch was, we have seen them."""
    await see_table(conn, standing)
    for position in sorted(standing.positions, key=lambda p: p.chain_id):
        await conn.execute(SQL["see_chain"], vars(position))


async def see_table(conn: Connection, standing: Standing) -> None:
    """Remembers which table or view the trades stand in, and when it took the place of another."""
    await conn.execute(SQL["see_table"], {"table": standing.table})


async def is_behind_itself(conn: Connection, standing: Standing) -> bool:
    """Whether the source visibly lacks what it has had: then what is gone may come back."""
    if standing.table is None or standing.ready is False:
        return True
    blocks = {p.chain_id: p.block for p in standing.positions}
    seen = {"chains": list(blocks), "blocks": list(blocks.values()), "table": standing.table}
    row = await (await conn.execute(SQL["is_behind"], seen)).fetchone()
    return bool(row and row[0])


async def _apply_batch(
    conn: Connection,
    writer: Writer,
    part: Slice,
    at: datetime,
    *,
    direct: bool,
    retract_from: datetime | None,
    behind: bool,
) -> Applied:
    """What `batch` (and, if ``direct``, the tape's range itself) means for all the rest."""
    values = bounds(part) | {
        "look_at": at,
        "window_from": retract_from,
        "behind": behind,
        "impossible": part.impossible,
    }
    if not direct and not part.impossible:
        await conn.execute(SQL["keep_refused_aside"])
        await conn.execute(SQL["delete_changed"], values)
        await conn.execute(SQL["delete_moved"], values)
        await conn.execute(SQL["forget_returned"], values)
        await conn.execute(SQL["note_vanished"], values)
        if retract_from is not None:
            await conn.execute(SQL["delete_vanished"], values)
        await conn.execute(SQL["insert_fresh"], values)
    scope = SQL["scope_of_impossible" if part.impossible else "scope_of_range"]
    fresh = _range_of_tape() if direct else "SELECT * FROM fresh"
    applied = await _move_all(conn, writer, fresh, values, at, scope=scope)
    since = (
        {}
        if part.settles_from is None
        else {"from": datetime.fromtimestamp(part.settles_from, UTC)}
    )
    await conn.execute(SQL["clear_suspects"], values | since)
    if direct:
        applied.counts.checked = applied.counts.inserted + applied.counts.errors
    return applied


async def apply_staged(conn: Connection, writer: Writer, part: Slice, at: datetime) -> Applied:
    """Takes in some rows of a slice, put into `batch` by the caller, and claims nothing of others."""
    async with conn.pipeline():
        await conn.execute(SQL["delete_changed"], bounds(part))
        await conn.execute(SQL["insert_fresh"], bounds(part))
        return await _move_all(conn, writer, "SELECT * FROM fresh", bounds(part), at, scope="false")


async def _move_all(
    conn: Connection,
    writer: Writer,
    fresh: str,
    values: dict[str, Any],
    at: datetime,
    *,
    scope: str,
) -> Applied:
    """Quarantine, digests and rollups follow what came and went; then all is counted."""
    await conn.execute(SQL["gather_bad"])
    await conn.execute(SQL["resolve"].format(scope=scope), values)
    await conn.execute(SQL["quarantine"])
    await _move_rollups(conn, writer, fresh, values)
    counted = await conn.execute(SQL["counts"].format(fresh=fresh), values)
    stray = await conn.execute(SQL["strays"])
    await _sync(conn)
    counts, newest = await _counts(counted)
    strays = [r[0] for r in await stray.fetchall()]
    return Applied(counts, at, newest=newest, strays=strays)


async def _sync(conn: Connection) -> None:
    """Has all that was sent answered, in a way that tells the server so: it ends a transaction whose
    client is silent for long, but only if it does not wait for more of a pipeline. To leave the pipeline
    would not do: psycopg then sends a Flush behind the Sync, and whatever is sent stops the server's clock."""
    assert conn._pipeline is not None
    await conn._pipeline.sync()


def _range_of_tape() -> str:
    return "SELECT * FROM analytics.tape WHERE time >= %(from)s AND time < %(to)s"


async def _is_empty(conn: Connection, part: Slice) -> bool:
    row = await (await conn.execute(SQL["is_empty"], bounds(part))).fetchone()
    return bool(row and row[0])


async def copy_in(conn: Connection, statement: str, blocks: AsyncGenerator[Buffer, None]) -> int:
    """Rows of the other side into ours; how many. A fault on our side ends the reading there, too:
    left open, it would keep its connection for ever."""
    async with conn.cursor() as cursor:
        async with aclosing(blocks), cursor.copy(statement) as copy:
            async for block in blocks:
                await copy.write(block)
        return cursor.rowcount


async def _move_rollups(
    conn: Connection, writer: Writer, fresh: str, values: dict[str, Any]
) -> None:
    """Adds what came, takes away what went; first all that needs no lock, then digests and each
    rollup from the finest up, always in this order."""
    has_gone = await conn.execute(SQL["has_gone"])
    await _sync(conn)
    row = await has_gone.fetchone()
    gone = bool(row and row[0])
    await conn.execute(fill_minutes(writer.row_hash, fresh), values)
    for rollup in ROLLUPS:
        if rollup is not MINUTES:
            await conn.execute(rollup.fill_delta(fresh), values)
        if gone and rollup is not TRADER_HOURS:
            await conn.execute(rollup.touch)
    if gone or writer.durable:
        await outbox.note_old(conn, late=writer.durable)
    await conn.execute(digests.move(writer.row_hash))
    await _move(conn, MINUTES, gone=gone)
    await _move(conn, HOURS, gone=gone)
    await conn.execute(TRADER_HOURS.merge)
    if gone:
        await _subtract_traders(conn)
    await conn.execute(SQL["lock_days"])
    for rollup in WITHIN_DAYS:
        await _move(conn, rollup, gone=gone)
    await outbox.tell_updates(conn)
    if gone or writer.durable:
        await outbox.tell_corrections(conn)


def fill_minutes(row_hash: str, fresh: str) -> str:
    """What the fresh trades add to the minutes' candles and digests, by one pass over them."""
    second = seconds(fresh, digests.of_second(row_hash))
    return f"""WITH second AS MATERIALIZED ({second}),
        digested AS (INSERT INTO delta_digests {digests.SQL["of_seconds"]})
        INSERT INTO {MINUTES.delta} {MINUTES.of_seconds("second")}"""


async def _move(conn: Connection, rollup: Rollup, *, gone: bool) -> None:
    await conn.execute(rollup.merge)
    if gone:
        await conn.execute(rollup.forget)
        await conn.execute(rollup.recompute)


async def _subtract_traders(conn: Connection) -> None:
    """What traders did can be subtracted, but for the times of their first and last trade: these
    are looked up on the tape, from where the old ones were inwards, in growing steps."""
    for block in ("subtract", "drop_empty", "loosen"):
        await conn.execute(TRADERS[block].format(gone=TRADER_HOURS.compute("SELECT * FROM gone")))
    await conn.execute("ANALYZE loose")  # Taken for small, it would be gone through for each trade.
    for span in (MINUTE, 8 * MINUTE, HOUR):
        for block in ("tighten_first", "tighten_last"):
            await conn.execute(TRADERS[block], {"span": timedelta(seconds=span)})


async def _counts(counted: psycopg.AsyncCursor[Any]) -> tuple[Counts, int | None]:
    row = await counted.fetchone()
    assert row is not None
    n_fresh, newest, n_gone, n_changed, n_spoiled, n_errors, n_seen = row
    counts = Counts(
        inserted=n_fresh - n_changed,
        changed=n_changed,
        retracted=n_gone - n_changed - n_spoiled,
        errors=int(n_errors),
        checked=n_seen,
    )
    return counts, newest


async def rebuild_digests(conn: Connection, row_hash: str, hours: Slice) -> None:
    """Computes the digests of some hours again from the rows."""
    values = bounds(hours)
    await conn.execute(digests.SQL["clear_range"], values)
    await conn.execute(digests.fill_range(row_hash), values)


async def rebuild(conn: Connection, writer: Writer, part: Slice, *, since: int = 0) -> None:
    """Computes every rollup and digest of whole hours again from the tape, whatever they hold.

    The days of these hours follow, from all their hours. Readers see all of it or nothing. ``since``:
    the Unix second from which on its trades count as processed.
    """
    hours = Slice(part.start // HOUR * HOUR, -(-part.end // HOUR) * HOUR)
    days = Slice(part.start // DAY * DAY, -(-part.end // DAY) * DAY)
    async with fenced(conn, writer, hours):
        values = bounds(hours)
        await rebuild_digests(conn, writer.row_hash, hours)
        for rollup in WITHIN_HOURS:
            await _rebuild(conn, rollup, values)
        day_range = {"first_day": days.start // DAY, "last_day": (days.end - 1) // DAY}
        await conn.execute(SQL["lock_day_range"], day_range)
        for rollup in WITHIN_DAYS:
            await _rebuild(conn, rollup, bounds(days))
        if writer.ticket is not None:
            await jobs.note_rebuilt(conn, writer.ticket, since)


async def _rebuild(conn: Connection, rollup: Rollup, values: dict[str, Any]) -> None:
    """Clears and fills a range; candles that come out otherwise than they stood are told."""
    if rollup.is_candles:
        await outbox.note_old_range(conn, rollup, values)
    await conn.execute(rollup.clear_range, values)
    await conn.execute(rollup.fill_range, values)
    if rollup.is_candles:
        await outbox.tell_corrections_of_range(conn, rollup, values)
