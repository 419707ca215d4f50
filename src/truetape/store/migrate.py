"""Bringing the schema up to date: Alembic, forward only, in one transaction, one process at a time."""

from pathlib import Path

import psycopg

from truetape.connect import first_line, without_password
from truetape.errors import UnreachableError, UsageError

_LOCK = 20_053
_MIGRATIONS = Path(__file__).parent / "migrations"


def versions() -> list[str]:
    """All versions of the schema, ascending; a migration's file is named by its version."""
    return sorted(p.stem for p in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def latest_version() -> str:
    return versions()[-1]


def current_version(conn: psycopg.Connection) -> str | None:
    exists = conn.execute("SELECT to_regclass('analytics.alembic_version')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = conn.execute("SELECT version_num FROM analytics.alembic_version").fetchone()
    return None if row is None else str(row[0])


def migrate(url: str) -> None:
    """Creates or upgrades schema ``analytics``. Does nothing when it is up to date.

    Raises UsageError when the schema is of a newer version or is somebody else's.
    """
    try:
        with psycopg.connect(url, connect_timeout=5) as conn:
            current = _is_current(conn)
        if not current:
            _upgrade(url)
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            "The role of ANALYTICS_DATABASE_URL may not create what it needs "
            f"({first_line(error)}); run in that database: GRANT CREATE ON DATABASE … TO that role."
        ) from error
    except psycopg.OperationalError as error:
        raise UnreachableError(
            f"The analytics database {without_password(url)} cannot be reached: {first_line(error)}."
        ) from error


def _is_current(conn: psycopg.Connection) -> bool:
    version = current_version(conn)
    if version is None:
        return False
    if version not in versions():
        raise UsageError(
            f"Schema analytics in database {conn.info.dbname!r} is of version {version}, newer than "
            f"this program (version {latest_version()}); upgrade truetape."
        )
    return version == latest_version()


def _upgrade(url: str) -> None:
    # Imported only here: half a second that no other start should pay for.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, pool
    from sqlalchemy.exc import DBAPIError

    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url, connect_timeout=5),
        poolclass=pool.NullPool,
    )
    try:
        with engine.begin() as connection:
            conn = connection.connection.driver_connection
            assert isinstance(conn, psycopg.Connection)
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if _is_current(conn):
                return
            _make_room(conn)
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise


def _make_room(conn: psycopg.Connection) -> None:
    """The schema, unless there is one with something in it that is not ours."""
    if current_version(conn) is not None:
        return
    taken = conn.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'analytics' AND c.relkind IN ('r', 'v', 'p') LIMIT 1"
    ).fetchone()
    if taken is not None:
        raise UsageError(
            f"Schema analytics in database {conn.info.dbname!r} holds {taken[0]!r}, which is not "
            "ours; use another database, or move that schema away (ALTER SCHEMA … RENAME)."
        )
    exists = conn.execute("SELECT to_regnamespace('analytics')").fetchone()
    if exists is None or exists[0] is None:
        conn.execute("CREATE SCHEMA analytics")
