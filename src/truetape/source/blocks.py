"""COPY out of a server, many rows at a time: to be given each by itself costs more than the row does."""

from collections.abc import AsyncGenerator

import psycopg
from psycopg import generators
from psycopg.abc import Buffer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

BLOCK_BYTES = 64 * 1024
END_BYTES = {2, 21}
"""Sizes of the last message of a binary COPY: its trailer, with the header where there are no rows."""


async def copy_out(conn: psycopg.AsyncConnection, query: str) -> AsyncGenerator[Buffer, None]:
    """Binary COPY of a SELECT, in blocks of whole rows."""
    statement = f"COPY ({query}) TO STDOUT (FORMAT binary)"
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        async for first in copy:
            block, ended = gather(conn.pgconn, first)
            if ended:
                result = (await conn.wait(generators.fetch_many(conn.pgconn)))[0]
                if result.status != ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(result, encoding=conn.info.encoding)
            yield block
            if ended:
                return


def gather(pgconn: PGconn, first: Buffer) -> tuple[bytes, bool]:
    """A row and those that have come after it, without waiting; whether the server has ended the COPY, as
    it does with an error. The end of one that went well is left to psycopg to find."""
    pieces: list[Buffer] = [first]
    last = size = len(first)
    while size < BLOCK_BYTES and last not in END_BYTES:
        last, piece = pgconn.get_copy_data(1)
        if last == 0:  # libpq takes 16 kB at a time; more may have arrived.
            pgconn.consume_input()
            last, piece = pgconn.get_copy_data(1)
        if last <= 0:
            break
        pieces.append(piece)
        size += last
    return b"".join(pieces), last < 0
