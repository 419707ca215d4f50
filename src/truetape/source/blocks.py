"""COPY out of a server, many rows at a time: to be given each by itself costs more than the row does."""

from collections.abc import AsyncGenerator

import psycopg
from psycopg import generators
from psycopg.pq.abc import PGconn

Block = bytes | bytearray | memoryview

BLOCK_BYTES = 64 * 1024
END_BYTES = {2, 21}
"""Sizes of the last message of a binary COPY: its trailer, with the header where there are no rows."""


async def copy_out(conn: psycopg.AsyncConnection, query: str) -> AsyncGenerator[Block, None]:
    """Binary COPY of a SELECT, in blocks of whole rows."""
    statement = f"COPY ({query}) TO STDOUT (FORMAT binary)"
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        async for first in copy:
            block = gather(conn.pgconn, first)
            if block is None:
                failed = (await conn.wait(generators.fetch_many(conn.pgconn)))[0]
                raise psycopg.errors.error_from_result(failed, encoding=conn.info.encoding)
            yield block


def gather(pgconn: PGconn, first: Block) -> bytes | None:
    """A row and those that have come after it, without waiting; None where the server has ended the COPY
    with an error. The end of one that went well is left to psycopg to find."""
    pieces: list[Block] = [first]
    last = size = len(first)
    while size < BLOCK_BYTES and last not in END_BYTES:
        last, piece = pgconn.get_copy_data(1)
        if last <= 0:
            return None if last < 0 else b"".join(pieces)
        pieces.append(piece)
        size += last
    return b"".join(pieces)
