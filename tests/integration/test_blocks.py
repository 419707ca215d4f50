"""COPY in blocks: the bytes are those that psycopg gives row by row, and the faults are the server's own."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from truetape.source.blocks import copy_out

SHAPES = (
    "SELECT 1 WHERE false",
    "SELECT 1",
    "SELECT NULL::integer, -1::bigint FROM generate_series(1, 1000)",
    "SELECT i, repeat('x', i % 300) FROM generate_series(1, 50000) i",
    "SELECT repeat('y', 1000000) FROM generate_series(1, 5)",
)


def on_a_connection(
    url: str, work: Callable[[psycopg.AsyncConnection], Awaitable[None]]
) -> TransactionStatus:
    """Does some work; the state in which it leaves its connection."""

    async def go() -> TransactionStatus:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            await work(conn)
            return conn.info.transaction_status

    return asyncio.run(go())


@pytest.mark.parametrize("query", SHAPES)
def test_the_bytes_are_the_same(query: str, server_url: str) -> None:
    async def both(conn: psycopg.AsyncConnection) -> None:
        blocks = [bytes(block) async for block in copy_out(conn, query)]
        statement = f"COPY ({query}) TO STDOUT (FORMAT binary)"
        async with conn.cursor() as cursor, cursor.copy(statement) as copy:
            rows = [bytes(row) async for row in copy]
        assert b"".join(blocks) == b"".join(rows)
        assert len(blocks) <= max(len(rows) / 10, 6), "many rows at a time"

    assert on_a_connection(server_url, both) == TransactionStatus.IDLE


@pytest.mark.parametrize("row", [5, 40_000])
def test_a_fault_under_way_is_the_servers_own(row: int, server_url: str) -> None:
    async def divide(conn: psycopg.AsyncConnection) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            async for _ in copy_out(
                conn, f"SELECT 1 / ({row} - i) FROM generate_series(1, 50000) i"
            ):
                pass

    assert on_a_connection(server_url, divide) == TransactionStatus.IDLE


def test_who_stops_reading_leaves_the_connection_usable(server_url: str) -> None:
    async def look(conn: psycopg.AsyncConnection) -> None:
        blocks = copy_out(conn, "SELECT i FROM generate_series(1, 5000000) i")
        async for _ in blocks:
            break
        await blocks.aclose()

    assert on_a_connection(server_url, look) == TransactionStatus.IDLE


def test_a_session_that_is_ended_under_way(server_url: str) -> None:
    async def read(conn: psycopg.AsyncConnection) -> None:
        victim, seen = conn.info.backend_pid, 0
        with pytest.raises(psycopg.OperationalError):
            async for _ in copy_out(
                conn, "SELECT repeat('z', 200) FROM generate_series(1, 3000000)"
            ):
                seen += 1
                if seen == 5:
                    async with await psycopg.AsyncConnection.connect(
                        server_url, autocommit=True
                    ) as other:
                        await other.execute("SELECT pg_terminate_backend(%s)", (victim,))
        assert conn.closed

    on_a_connection(server_url, read)
