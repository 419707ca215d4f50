"""When the database refuses a batch: halve it until the guilty row stands alone, and set that aside.

The other rows of the batch go in. One bad trade never costs its neighbours.
"""

import psycopg

from truetape.connect import first_line, is_transient
from truetape.store.apply import (
    SQL,
    Applied,
    Connection,
    OpenLook,
    Writer,
    apply_staged,
    copy_in,
    fenced,
)
from truetape.trade import Counts, Slice

_STAGE = """
CREATE TEMP TABLE IF NOT EXISTS staged (LIKE batch, n bigint GENERATED ALWAYS AS IDENTITY)
ON COMMIT PRESERVE ROWS;
TRUNCATE staged RESTART IDENTITY
"""
_TAKE = """
INSERT INTO batch SELECT trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id,
                         buyer, seller, coalesce(reason, %(reason)s), row_hash
FROM staged WHERE n >= %(first)s AND n < %(after)s
"""


async def apply_carefully(
    conn: Connection, writer: Writer, open_look: OpenLook, part: Slice
) -> Applied:
    """Like ``apply``, for a slice that was refused. What vanished is left to the next look."""
    async with fenced(conn, writer, part):
        await conn.execute(_STAGE)
        async with open_look(part.rows) as look:
            at = look.at
            statement = SQL["copy_to_batch"].replace("COPY batch", "COPY staged")
            await copy_in(conn, statement, look.all_rows(part))
        row = await (await conn.execute("SELECT count(*) FROM staged")).fetchone()
    after = int(row[0]) + 1 if row else 1
    total, taking = Applied(Counts(), at), writer.going_on()
    todo: list[tuple[int, int]] = [(1, after)] if after > 1 else []
    while todo:
        first, end = todo.pop()
        try:
            done = await _take(conn, taking, part, total, first, end, reason=None)
        except psycopg.Error as error:
            if is_transient(error):
                raise
            if end - first > 1:
                middle = (first + end) // 2
                todo += [(middle, end), (first, middle)]
                continue
            reason = f"refused by the database: {first_line(error)}"
            done = await _take(conn, taking, part, total, first, end, reason=reason)
        total.add(done)
    async with fenced(conn, writer, part):
        await writer.note(conn, Applied(Counts(), at, strays=total.strays))
    return total


async def _take(
    conn: Connection, writer: Writer, part: Slice, whole: Applied, first: int, after: int,
    *, reason: str | None,
) -> Applied:  # fmt: skip
    async with fenced(conn, writer, part):
        await conn.execute(_TAKE, {"first": first, "after": after, "reason": reason})
        applied = await apply_staged(conn, writer, part, whole.look_at)
        await writer.note(conn, applied)
        return applied
