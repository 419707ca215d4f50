"""The servers that the suites run against, by name.

``embedded`` is what Truetape brings along (PostgreSQL 18). The others are Debian's, unpacked below
``.servers`` by ``debian.sh``; ``timescaledb`` (2.19 on PostgreSQL 17) may be given as a URL instead.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from truetape.embedded import EmbeddedPostgres

HERE = Path(__file__).parent
PREFIXES = HERE.parent / ".servers"

PACKAGES = {
    "postgresql-15": ("bookworm", "postgresql-15"),
    "postgresql-17": ("trixie", "postgresql-17", "postgresql-17-timescaledb"),
    "timescaledb": ("trixie", "postgresql-17", "postgresql-17-timescaledb"),
}
GIVEN = {
    "embedded": "TRUETAPE_TEST_POSTGRES_URL",
    "timescaledb": "TRUETAPE_TEST_TIMESCALE_URL",
}
TIMESCALE = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # Its scheduler would sit in every database that a test copies or drops.
    "timescaledb.max_background_workers": "0",
}


@dataclass(frozen=True)
class Server:
    """A running server; ``url`` is that of its administrator."""

    url: str
    timescale: bool = False


class DebianPostgres(EmbeddedPostgres):
    """A PostgreSQL of a Debian suite, with the life cycle of ours."""

    name = "Debian's PostgreSQL"

    def __init__(self, directory: Path, kind: str) -> None:
        super().__init__(directory)
        self._kind = kind
        if kind == "postgresql-15":  # It does not know them yet.
            self.settings_of_initdb = ()
        suite, *packages = PACKAGES[kind]
        self._prefix = PREFIXES / f"{suite}-{packages[0]}"
        script = [str(HERE / "debian.sh"), str(self._prefix), suite, *packages]
        made = subprocess.run(script, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"{kind} cannot be had: {made.stderr.strip()}")

    def _binary(self, program: str) -> str:
        return str(self._prefix / "bin" / program)

    def _major(self) -> str:
        return self._kind.removeprefix("postgresql-")

    def _command(self, port: int) -> list[str]:
        settings = TIMESCALE if self._kind == "timescaledb" else {}
        further = [a for k, v in settings.items() for a in ("-c", f"{k}={v}")]
        return [*super()._command(port), *further]


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    """A server of a kind, below a folder; or the one whose URL is given."""
    given = os.environ.get(GIVEN.get(kind, ""))
    if given:
        yield Server(given, kind == "timescaledb")
        return
    where = folder / kind
    server = EmbeddedPostgres(where) if kind == "embedded" else DebianPostgres(where, kind)
    with server:
        yield Server(server.acquire(), kind == "timescaledb")


@contextmanager
def source_and_store(folder: Path) -> Iterator[tuple[Server, Server]]:
    """The servers that TRUETAPE_TEST_SOURCE and TRUETAPE_TEST_STORE name; often the same one."""
    source_kind = os.environ.get("TRUETAPE_TEST_SOURCE", "embedded")
    store_kind = os.environ.get("TRUETAPE_TEST_STORE", "embedded")
    with running(source_kind, folder) as source:
        if store_kind == source_kind:
            yield source, source
            return
        with running(store_kind, folder) as store:
            yield source, store
