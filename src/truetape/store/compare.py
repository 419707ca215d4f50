"""Comparing the two sides by digests: which slices of the tape have to be looked at row by row."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace

from psycopg.abc import Buffer

from truetape.store import digests
from truetape.store.apply import Connection, bounds, copy_in
from truetape.store.sqlfile import load
from truetape.trade import HOUR, IMPOSSIBLE, MINUTE, Slice

SQL = load("truetape.store", "compare.sql")

MAX_SLICE_HOURS = 168
"""A slice locks its hours one by one; a sparse tape is cut at this."""


@dataclass(frozen=True)
class Minute:
    """A minute as the two sides hold it, in trades. ``start`` in Unix seconds."""

    start: int
    theirs: int
    ours: int
    differs: bool
    pages: tuple[int, int] | None


async def holds_any(conn: Connection, part: Slice) -> bool:
    """Whether we hold anything in a slice, by its rows or by its digests."""
    row = await (await conn.execute(SQL["holds_any"], bounds(part))).fetchone()
    return bool(row and row[0])


async def take_in(conn: Connection, blocks: AsyncGenerator[Buffer, None]) -> None:
    """Adds a survey of the source to what is compared in this transaction."""
    await copy_in(conn, SQL["copy_survey"], blocks)


async def forget_survey(conn: Connection) -> None:
    """What was taken in is no longer compared."""
    await conn.execute(SQL["forget_survey"])


async def compare(
    conn: Connection,
    part: Slice,
    *,
    hashed: bool,
    by_chain: bool,
    paged: bool,
    repair_unpaired: bool = False,
    rehash: str | None = None,
    note: bool = True,
) -> list[Minute]:
    """The minutes of a slice as the survey taken in and our digests have them, ascending.

    What differs is noted as suspect (unless ``note`` is off), so that health knows before it is mended. ``rehash``: the
    SQL of a row's hash, to compare with digests computed from our rows now, not the stored ones. ``repair_unpaired``: minutes
    with trades whose fills did not match count as different. Not ``by_chain``: the survey is of all chains in one.
    """
    ours = SQL["stored"]
    if rehash is not None:
        ours = digests.of_range(rehash)
    if not by_chain:
        ours = SQL["in_one"].format(ours=ours)
    noted = SQL["note"] + (SQL["forget_returned"] if hashed else "") if note else ""
    statement = SQL["compare"].format(ours=ours, hashed=hashed, noted=noted)
    values = bounds(part) | {"repair_unpaired": repair_unpaired}
    rows = await (await conn.execute(statement, values)).fetchall()
    return [
        Minute(int(m), int(theirs), int(ours), bool(differs),
               (int(first), int(last)) if paged and first is not None else None)
        for m, theirs, ours, differs, first, last in rows
    ]  # fmt: skip


async def impossible(conn: Connection) -> Slice | None:
    """The slice of impossible timestamps, if the two sides differ there."""
    await conn.execute(SQL["clear_impossible"])
    noted = await conn.execute(SQL["note_impossible"])
    return IMPOSSIBLE if noted.rowcount else None


async def count_ours(conn: Connection, part: Slice) -> int:
    """Trades of ours in a slice of whole minutes, set-aside ones included, by the digests."""
    row = await (await conn.execute(SQL["count_ours"], bounds(part))).fetchone()
    return int(row[0]) if row else 0


@dataclass
class _Open:
    """A slice in the making."""

    start: int
    end: int = 0
    rows: int = 0
    ours: int = 0
    pages: tuple[int, int] | None = None

    def extend(self, minute: Minute) -> None:
        self.end = minute.start + MINUTE
        self.rows += minute.theirs
        self.ours += minute.ours
        if minute.pages is not None:
            low, high = self.pages or minute.pages
            self.pages = (min(low, minute.pages[0]), max(high, minute.pages[1]))

    def takes(self, minute: Minute, batch_size: int) -> bool:
        return (
            self.rows + minute.theirs <= batch_size
            and (self.ours == 0) == (minute.ours == 0)
            and minute.start + MINUTE - self.start <= MAX_SLICE_HOURS * HOUR
        )

    @property
    def slice(self) -> Slice:
        return Slice(self.start, self.end, self.rows, self.ours, self.pages)


@dataclass(frozen=True)
class Unit:
    """Whole hours that are rebuilt in one transaction, and the batches that their rows come in."""

    hours: Slice
    pieces: tuple[Slice, ...]


def units(found: Iterable[Minute], batch_size: int) -> list[Unit]:
    """Groups minutes into units of about a batch; an hour with more trades stands alone."""
    by_hour: dict[int, list[Minute]] = {}
    for minute in found:
        by_hour.setdefault(minute.start // HOUR * HOUR, []).append(replace(minute, differs=True))
    groups: list[tuple[int, int, list[Minute]]] = []
    rows = 0
    for hour, inside in sorted(by_hour.items()):
        count = sum(m.theirs for m in inside)
        if groups and rows + count <= batch_size and hour < groups[-1][0] + MAX_SLICE_HOURS * HOUR:
            groups[-1] = (groups[-1][0], hour + HOUR, groups[-1][2] + inside)
            rows += count
        else:
            groups.append((hour, hour + HOUR, inside))
            rows = count
    return [Unit(Slice(a, b, sum(m.theirs for m in ms)), tuple(cut(ms, batch_size)))
            for a, b, ms in groups]  # fmt: skip


def cut(found: Iterable[Minute], batch_size: int) -> list[Slice]:
    """Slices of at most ``batch_size`` rows (a larger minute stands alone) over what differs.

    A slice does not mix minutes that we hold nothing of with others: those go straight in.
    """
    slices: list[Slice] = []
    current: _Open | None = None
    for minute in found:
        if current is not None and not (minute.differs and current.takes(minute, batch_size)):
            slices.append(current.slice)
            current = None
        if minute.differs:
            current = current or _Open(minute.start)
            current.extend(minute)
    if current is not None:
        slices.append(current.slice)
    return slices
