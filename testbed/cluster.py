"""Source, analytics and Valkey, each on a host of its own.

To us they speak through the file system as well, which no network cuts: ``url`` is that way,
``url_on_network`` the one that other hosts have.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from redis import Redis

from testbed.hosts import Host, Network
from truetape.embedded import EmbeddedPostgres, EmbeddedValkey

HBA = "host all all 10.0.0.0/8 scram-sha-256\n"


class PostgresOn(EmbeddedPostgres):
    """An embedded PostgreSQL that other hosts reach, too."""

    def __init__(self, directory: Path, host: Host) -> None:
        super().__init__(directory)
        self.host = host

    def acquire(self) -> str:
        with self.host.entered():
            return super().acquire()

    def url(self, database: str) -> str:
        return f"postgresql://{self._login}@{quote(str(self.data), safe='')}:{self.port}/{database}"

    def url_on_network(self, database: str) -> str:
        return f"postgresql://{self._login}@{self.host.address}:{self.port}/{database}"

    @property
    def _login(self) -> str:
        return f"postgres:{self._password()}"

    def _initialise(self) -> None:
        super()._initialise()
        with (self.data / "pg_hba.conf").open("a") as hba:
            hba.write(HBA)

    def _command(self, port: int) -> list[str]:
        return [
            *super()._command(port), "-c", f"listen_addresses={self.host.address}",
            "-c", f"unix_socket_directories={self.data}",
        ]  # fmt: skip


class ValkeyOn(EmbeddedValkey):
    """An embedded Valkey that other hosts reach, too."""

    def __init__(self, directory: Path, host: Host) -> None:
        super().__init__(directory)
        self.host = host

    def acquire(self) -> str:
        with self.host.entered():
            return super().acquire()

    def release(self) -> None:
        with self.host.entered():  # It is asked for its process id.
            super().release()

    @property
    def url_on_network(self) -> str:
        return f"redis://:{self._password()}@{self.host.address}:{self.port}/0"

    @contextmanager
    def client(self) -> Iterator[Redis]:
        with self.host.entered(), Redis.from_url(self._url()) as redis:
            yield redis

    def _command(self, port: int) -> list[str]:
        return [*super()._command(port), "--bind", f"127.0.0.1 {self.host.address}"]


@dataclass
class Cluster:
    """The servers, and hosts on which ``truetape serve`` may run."""

    network: Network
    source: PostgresOn
    analytics: PostgresOn
    valkey: ValkeyOn
    workers: list[Host]


@contextmanager
def running(folder: Path, workers: int) -> Iterator[Cluster]:
    """All of it, below a folder."""
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        source = PostgresOn(folder / "source", network.host("source"))
        analytics = PostgresOn(folder / "analytics", network.host("analytics"))
        valkey = ValkeyOn(folder / "valkey", network.host("valkey"))
        for server in (source, analytics, valkey):
            stack.enter_context(server)
        hosts = [network.host(f"worker {number}") for number in range(1, workers + 1)]
        yield Cluster(network, source, analytics, valkey, hosts)
