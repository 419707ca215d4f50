"""Real servers for the tests: one PostgreSQL for the lane, fresh databases for each test."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from testbed.servers import Server, source_and_store
from truetape.store.migrate import migrate

OF_US_ALONE = {
    f"test_{what}.py"
    for what in ("cli", "demo", "doors", "embedded", "exchange", "load", "log", "web")
}
"""About our own processes: what server they work on is all the same to these."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where servers of a kind are chosen, the tests that ask for one: to the others it is all the same.
    In an order by chance, but what takes longest is begun first: the others are done beside it."""
    if {"TRUETAPE_TEST_SOURCE", "TRUETAPE_TEST_STORE"} & set(os.environ):
        others = [
            i
            for i in items
            if not {"servers", "timescale"} & set(getattr(i, "fixturenames", ()))
            or i.path.name in OF_US_ALONE
        ]
        config.hook.pytest_deselected(items=others)
        items[:] = [i for i in items if i not in others]
    items.sort(key=lambda item: not {"e2e", "test_kill.py"} & set(item.path.parts))


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
def servers() -> Iterator[tuple[Server, Server]]:
    """The source's server and that of the analytics: often the same one."""
    with fast_folder() as folder, source_and_store(folder) as both:
        yield both
        _drop_template(both[1])


@pytest.fixture(scope="session")
def server_url(servers: tuple[Server, Server]) -> str:
    """The source's server, as its administrator."""
    return servers[0].url


@pytest.fixture(scope="session")
def store_server_url(servers: tuple[Server, Server]) -> str:
    """The server of the analytics, as its administrator."""
    return servers[1].url


@pytest.fixture
def database(servers: tuple[Server, Server]) -> Iterator["Databases"]:
    made = Databases(*servers)
    yield made
    made.drop()


class Databases:
    """Makes databases and drops them after the test."""

    def __init__(self, source: Server, store: Server) -> None:
        self._source, self._store = source, store
        self._made: list[tuple[Server, str]] = []

    def create(self, purpose: str) -> str:
        """An empty database on the source's server; its URL."""
        return self._create(self._source, purpose)

    def create_store(self, purpose: str = "analytics") -> str:
        """A database for analytics, its schema made, nothing in it; its URL. A copy: making the schema
        takes half a second, that only the tests of its making should pay for."""
        return self._create(self._store, purpose, template=_template(self._store))

    def create_empty_store(self, purpose: str = "analytics") -> str:
        """A database for analytics as an operator would make it; its URL."""
        url = self._create(self._store, purpose)
        _prepare(self._store, url)
        return url

    def _create(self, server: Server, purpose: str, template: str = "template1") -> str:
        name = f"{purpose}_{secrets.token_hex(4)}"
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        self._made.append((server, name))
        return url_of(server, name)

    def drop(self) -> None:
        for server, name in self._made:
            with psycopg.connect(server.url, autocommit=True) as conn:
                conn.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                )
        self._made.clear()


def url_of(server: Server, database: str) -> str:
    parts = conninfo_to_dict(server.url)
    user, password = parts.get("user", ""), parts.get("password", "")
    login = f"{user}:{password}" if password else user
    host = quote(str(parts["host"]), safe="")  # It may be a folder with a socket.
    return f"postgresql://{login}@{host}:{parts['port']}/{database}"


def _prepare(store: Server, url: str) -> None:
    if store.timescale:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION timescaledb")


@cache
def _template(store: Server) -> str:
    """The database that those for analytics are copies of; it stays as long as its server."""
    name = f"template_{secrets.token_hex(4)}"
    with psycopg.connect(store.url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = url_of(store, name)
    _prepare(store, url)
    migrate(url)
    return name


def _drop_template(store: Server) -> None:
    if _template.cache_info().currsize:
        with psycopg.connect(store.url, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(_template(store))))
        _template.cache_clear()


@pytest.fixture
def source_url(database: Databases) -> str:
    """An empty source with the contract's tables and nothing more."""
    url = database.create("source")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
    return url


@pytest.fixture
def analytics_url(database: Databases) -> str:
    """Analytics that hold nothing yet."""
    return database.create_store()


@pytest.fixture
def empty_url(database: Databases) -> str:
    """A database for analytics that nobody has opened yet."""
    return database.create_empty_store()
