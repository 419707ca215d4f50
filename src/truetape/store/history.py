"""All history in cells of time, each with what both sides hold: for people who look before they read."""

from dataclasses import dataclass
from datetime import timedelta

from truetape.store import state, tape
from truetape.store.apply import Connection, bounds
from truetape.store.sqlfile import load
from truetape.trade import DAY, HOUR, MINUTE, Slice

SQL = load("truetape.store", "history.sql")

WIDTHS = (
    MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY,
    14 * DAY, 30 * DAY, 90 * DAY,
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """[start, end) in Unix seconds and the trades there: processed, set aside, missing, in excess."""

    start: int
    end: int
    processed: int
    aside: int
    missing: int
    extra: int
    state: str
    """proven, synced, missing, aside, held (vanished trades wait), sealed (refused differences)."""

    @property
    def source(self) -> int:
        """Trades that the source holds there, as of the last look."""
        return self.processed + self.aside + self.missing - self.extra


async def cells(conn: Connection, start: int | None, end: int | None, most: int) -> list[Cell]:
    """The cells of a range (or of all there is) that hold anything; ``most``: of how many at the most
    the range may consist."""
    held = await tape.extent(conn, 0)
    if held is None:
        return []
    first = held[0] if start is None else start
    last = held[1] + 1 if end is None else end
    if first >= last:
        return []
    width = next((w for w in WIDTHS if (last - first) / w <= most - 1), WIDTHS[-1])
    part = Slice(first // width * width, -(-last // width) * width)
    table = "days" if width >= DAY else "hourly_aggregations" if width >= HOUR else "candles_1m"
    values = bounds(part) | {"width": timedelta(seconds=width)}
    rows = await (await conn.execute(SQL["cells"].format(table=table), values)).fetchall()
    known = await state.read(conn)
    return [
        Cell(
            at, at + width, trades, aside, missing, extra,
            _state(known, at + width, aside, missing, extra, minutes, vanished),
        )
        for at, trades, aside, missing, extra, minutes, vanished in rows
    ]  # fmt: skip


def _state(
    known: state.State, end: int, aside: int, missing: int, extra: int, minutes: int, vanished: int
) -> str:
    if minutes and end <= known.sealed_before:
        return "sealed"
    if missing or (minutes and not extra):
        return "missing"
    if vanished or extra:
        return "held"
    if aside:
        return "aside"
    return "proven" if known.verified_through and end <= known.verified_through else "synced"
