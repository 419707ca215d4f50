"""What goes out: events written with the data, numbered once it is committed, kept for a while.

An event is a row of the transaction that made it true, so there is none without its data and no data
without it. Numbers are given afterwards, by whoever leads: they only grow, across restarts and leaders.
"""

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from truetape.store.lease import Lease
from truetape.store.rollups import MINUTES, Rollup
from truetape.store.sqlfile import load

SQL = load("truetape.store", "outbox.sql")

AT_ONCE = 500
"""How many events are numbered by one statement."""
KEPT_EVENTS = 20_000
"""How many of the newest events can be read again; about 20 minutes of a lively market."""
KEPT_SUMMARIES = 1_000
FORGET_EVERY = 1_000
"""Events are dropped so many at a time, which leaves one line on what they were about."""
BUCKETS_MAX = 60
"""How many candles an event shows, the newest; ``from`` and ``to`` are of all of them."""

_INTERVALS = {"1 minute": ("1m", 60), "1 hour": ("1h", 3600), "1 day": ("1d", 86_400)}


@dataclass(frozen=True)
class Event:
    """An event with its number; ``data`` is a JSON object."""

    sequence: int
    kind: str
    data: str

    @property
    def text(self) -> str:
        """The event as everybody gets it: its data, and its number first."""
        return f'{{"sequence": {self.sequence}, {self.data[1:]}'


# -- in the data transaction -------------------------------------------------------------------


async def note_old(conn: Any, *, late: bool) -> None:
    """Keeps the minutes that are about to be corrected. ``late``: trades that come to a minute
    before their pool's newest correct it; in a catch-up they only fill it."""
    await conn.execute(SQL["note_old"].format(late=late))


async def note_old_range(conn: Any, rollup: Rollup, values: dict[str, Any]) -> None:
    await conn.execute(SQL["note_old_range"].format(table=rollup.table), values)


async def tell_updates(conn: Any) -> None:
    """What new trades have made of their minutes, corrected ones aside."""
    await conn.execute(updates(SQL["added"]), {"buckets": BUCKETS_MAX})


async def tell_corrections(conn: Any) -> None:
    """What has become of the minutes that ``note_old`` kept."""
    await conn.execute(_corrections(SQL["now_of_old"], MINUTES), {"buckets": BUCKETS_MAX})


async def tell_corrections_of_range(conn: Any, rollup: Rollup, values: dict[str, Any]) -> None:
    """What has become of the candles that ``note_old_range`` kept; they are forgotten then."""
    now = SQL["now_of_range"].format(table=rollup.table)
    await conn.execute(_corrections(now, rollup), values | {"buckets": BUCKETS_MAX})
    await conn.execute(SQL["forget_old"])


@cache
def updates(delta: str) -> str:
    """The statement that tells of buckets of ``delta`` (chain_id, pool_id, bucket, trades)."""
    return SQL["tell_updates"].format(
        delta=delta, head=SQL["head"].format(of="e"), about=_about("e"), candle=_candle("c")
    )


@cache
def _corrections(now: str, rollup: Rollup) -> str:
    interval, seconds = _INTERVALS[rollup.width]
    return SQL["tell_corrections"].format(
        now=now, interval=interval, seconds=seconds, head=SQL["head"].format(of="e"),
        about=_about("e"), old=_candle("(c.old)"), new=_candle("(c.new)"),
    )  # fmt: skip


def _about(of: str) -> str:
    return SQL["about"].format(scales=SQL["scales"], of=of)


def _candle(of: str) -> str:
    return SQL["candle"].format(c=of, price="x.price", quantity="x.quantity")


# -- after it: each a statement of its own ------------------------------------------------------


async def put(conn: Any, kind: str, data: dict[str, Any]) -> None:
    """Something to tell that no data transaction has told."""
    await conn.execute(SQL["put"], {"kind": kind, "data": json.dumps(data)})


class Teller(Protocol):
    """The one who publishes, as a transaction sees him that numbers behind its own COMMIT."""

    def turn(self) -> AbstractAsyncContextManager[int | None]: ...
    async def tell(self, events: list[Event]) -> None: ...


async def number(conn: Any, lease: Lease, in_redis: int) -> list[Event]:
    """Numbers what has been committed; nothing once the lease is another's. One statement."""
    return await numbered(await ask_numbers(conn, lease, in_redis))


async def ask_numbers(conn: Any, lease: Lease, in_redis: int) -> Any:
    """``number`` without waiting for the answer, which ``numbered`` reads."""
    values = vars(lease) | {"in_redis": in_redis, "limit": AT_ONCE}
    return await conn.execute(SQL["number"], values)


async def numbered(cursor: Any) -> list[Event]:
    return sorted((Event(*row) for row in await cursor.fetchall()), key=lambda e: e.sequence)


async def read_after(conn: Any, sequence: int, limit: int) -> list[Event]:
    """The next events after a number."""
    values = {"after": sequence, "limit": limit}
    rows = await (await conn.execute(SQL["read_after"], values)).fetchall()
    return [Event(*row) for row in rows]


async def position(conn: Any) -> tuple[int, int]:
    """(the last number given, the last one known to be in Redis)."""
    row = await (await conn.execute(SQL["position"])).fetchone()
    return int(row[0]), int(row[1])


async def raise_position(conn: Any, sequence: int) -> None:
    """The next numbers are beyond this one."""
    await conn.execute(SQL["raise_position"], {"sequence": sequence})


async def first_unseen(conn: Any, after: int) -> int | None:
    """The first Unix second about which dropped events after a number told; None: any."""
    values = {"after": after, "kept": KEPT_SUMMARIES}
    row = await (await conn.execute(SQL["first_unseen"], values)).fetchone()
    return None if row is None else row[0]


async def forget(conn: Any) -> None:
    """Drops what is older than what is kept."""
    await conn.execute(SQL["forget_events"], {"kept": KEPT_EVENTS})
    await conn.execute(SQL["forget_forgotten"], {"kept": KEPT_SUMMARIES})
