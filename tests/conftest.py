"""Real servers for the tests: one PostgreSQL for the lane, fresh databases for each test."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from truetape.embedded import EmbeddedPostgres

SOURCE_TABLES = """
CREATE TABLE order_book_trades (id text, "timestamp" integer, price numeric, quantity numeric,
    pool_id text, side varchar, transaction_id text);
CREATE TABLE pools (order_book text, coin text);
"""


def passable(directory: Path) -> Path:
    """A folder that a server's other user may pass when we are root; pytest makes them private."""
    for parent in (directory, *directory.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return directory


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder for a server that no test makes crash: in memory, where there is room for it."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as folder:
        yield passable(Path(folder))


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL: that of TRUETAPE_TEST_POSTGRES_URL, or an embedded one of our own."""
    given = os.environ.get("TRUETAPE_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with fast_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres")
        yield server.acquire()
        server.release()


@pytest.fixture
def database(server_url: str) -> Iterator["Databases"]:
    made = Databases(server_url)
    yield made
    made.drop()


class Databases:
    """Makes databases and drops them after the test."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._names: list[str] = []

    def create(self, purpose: str) -> str:
        name = f"{purpose}_{secrets.token_hex(4)}"
        with psycopg.connect(self._server_url, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self._names.append(name)
        parts = conninfo_to_dict(self._server_url)
        user, password = parts.get("user", ""), parts.get("password", "")
        login = f"{user}:{password}" if password else user
        return f"postgresql://{login}@{parts['host']}:{parts['port']}/{name}"

    def drop(self) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as conn:
            for name in self._names:
                conn.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                )


@pytest.fixture
def source_url(database: Databases) -> str:
    """An empty source with the contract's tables and nothing more."""
    url = database.create("source")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
    return url


@pytest.fixture
def analytics_url(database: Databases) -> str:
    return database.create("analytics")
