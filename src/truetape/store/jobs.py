"""What has become of the slices of a run: noted in the very transactions that moved the tape for them.

A job says where to look. That it is done is a row beside the data, never a state of the queue: whatever
the queue forgets or gives out twice, nothing is lost, doubled, or counted twice.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from truetape.store.sqlfile import load
from truetape.trade import Counts

SQL = load("truetape.store", "jobs.sql")
Connection = psycopg.AsyncConnection[Any]
SILENT_SECONDS = 15.0
"""A worker that is silent for so long is taken for dead: what it worked on is given back."""


@dataclass(frozen=True)
class Ticket:
    """On whose account a data transaction goes.

    ``run_id``: None for the scrub; ``start``, ``end``: Unix seconds; ``rows``: how many trades it is
    thought to be about; ``ends``: whether the job is done with this transaction.
    """

    job_id: int
    run_id: int | None
    kind: str
    start: int
    end: int
    rows: int
    ends: bool = True


@dataclass(frozen=True)
class Workforce:
    """Workers that have been heard of lately, wherever they are; slices in their hands, and others."""

    workers: int
    in_hand: int
    waiting: int


@dataclass(frozen=True)
class Standing:
    """How far the jobs of a run are. ``rows``: of those that are done; ``epoch``: who leads now."""

    done: int
    rows: int
    counts: Counts
    failure: str | None
    epoch: int


async def note(conn: Connection, ticket: Ticket, counts: Counts) -> None:
    """In the transaction of the data: what it brought."""
    await conn.execute(SQL["note"], asdict(ticket) | asdict(counts))


async def note_rebuilt(conn: Connection, ticket: Ticket, since: int) -> None:
    """In the transaction that rebuilt: all trades from ``since`` (Unix second) on are processed."""
    await conn.execute(SQL["forget_others"], asdict(ticket))
    await conn.execute(SQL["note_rebuilt"], asdict(ticket) | {"since": since})


async def note_result(
    conn: Connection, ticket: Ticket, result: dict[str, Any] | None, failure: str | None = None
) -> None:
    """Of a job that looks and changes nothing: what it found. Of any: why it could not be done."""
    told = {"result": None if result is None else json.dumps(result), "failure": failure}
    await conn.execute(SQL["note_result"], asdict(ticket) | told)


async def is_wanted(conn: Connection, ticket: Ticket, epoch: int) -> tuple[bool, bool]:
    """Whether somebody still waits for it, and whether anybody leads just now."""
    row = await (await conn.execute(SQL["is_wanted"], asdict(ticket) | {"epoch": epoch})).fetchone()
    assert row is not None
    return bool(row[0]), bool(row[1])


async def done_of(conn: Connection, numbers: list[int]) -> set[int]:
    """Those of some jobs that are done."""
    found = await conn.execute(SQL["done_of"], {"jobs": numbers})
    return {int(row[0]) for row in await found.fetchall()}


async def standing(conn: Connection, run_id: int | None, first: int) -> Standing:
    """``first``: the first job that this leader has asked for."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(SQL["standing"], {"run_id": run_id, "first": first})
        row = await cursor.fetchone()
    assert row is not None
    told = {name: row.pop(name) for name in ("done", "rows", "failure", "epoch")}
    return Standing(counts=Counts(**row), **told)


async def results(conn: Connection, run_id: int | None, first: int) -> list[dict[str, Any]]:
    """What the jobs found, from the oldest slice on."""
    found = await conn.execute(SQL["results"], {"run_id": run_id, "first": first})
    return [row[0] for row in await found.fetchall()]


async def stretches_done(conn: Connection, run_id: int, kind: str) -> list[tuple[int, int]]:
    """The slices that are done, whoever led: [start, end) in Unix seconds, ascending."""
    found = await conn.execute(SQL["stretches_done"], {"run_id": run_id, "kind": kind})
    return [(int(a), int(b)) for a, b in await found.fetchall()]


async def workforce(conn: Connection) -> Workforce:
    """Who works, and on how much."""
    row = await (await conn.execute(SQL["workforce"], {"silent": SILENT_SECONDS})).fetchone()
    assert row is not None
    return Workforce(*row)


async def forget_scrubs(conn: Connection, last: int) -> None:
    """What scrubs have found, up to a job of ours."""
    await conn.execute(SQL["forget_scrubs"], {"last": last})
