"""Two services on hosts of their own, with source, analytics and Valkey on others, and a network between."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from served import Served
from watch import signed

from testbed.cluster import Cluster
from testbed.hosts import Host
from truetape.publish.redis_out import STREAM

WAYS = {
    "both ways": (True, True),
    "it is not heard": (True, False),
    "it hears nothing": (False, True),
}
"""Whether what a host sends is lost, and what it is sent."""


class ServedOn(Served):
    """``truetape serve`` on a host; who asks it is on that host, too."""

    def __init__(self, host: Host, log: Path, **settings: str) -> None:
        super().__init__(log, **settings)
        self.host = host

    def start(self, *, wait: bool = True) -> None:
        with self.host.entered():
            super().start(wait=wait)

    def is_live(self) -> bool:
        return self.get("/livez") is not None

    def _ask(self, request: Any, status: int) -> Any:
        with self.host.entered():
            return super()._ask(request, status)


@dataclass
class Stage:
    """A cluster with databases of a test's own; ``source_url`` and ``analytics_url`` are our way to them."""

    cluster: Cluster
    source_url: str
    analytics_url: str
    folder: Path
    served: list[ServedOn] = field(default_factory=list)

    def serve(self) -> ServedOn:
        """A service on a host where there is none yet; not started."""
        number = len(self.served)
        analytics = self.cluster.analytics.url_on_network(self.analytics_url.rpartition("/")[2])
        served = ServedOn(
            self.cluster.workers[number],
            self.folder / f"{number}.log",
            PONDER_DATABASE_URL=self.cluster.source.url_on_network(
                self.source_url.rpartition("/")[2]
            ),
            ANALYTICS_DATABASE_URL=signed(analytics, f"worker{number}"),
            REDIS_URL=self.cluster.valkey.url_on_network,
        )
        self.served.append(served)
        return served

    def cut_off(self, host: Host, other: Host, way: str = "both ways") -> None:
        """From now on nothing arrives that one sends to the other, or the other way, or both."""
        sends, hears = WAYS[way]
        if sends:
            self.cluster.network.cut(host, other)
        if hears:
            self.cluster.network.cut(other, host)

    def told(self) -> list[int]:
        """The numbers of the events in Redis."""
        with self.cluster.valkey.client() as redis:
            entries = redis.xrange(STREAM)
        return [int(key.decode().partition("-")[0]) for key, _ in cast(Any, entries)]

    def close(self) -> None:
        for served in self.served:
            if served.process is not None and served.process.poll() is None:
                served.process.send_signal(signal.SIGCONT)
                served.end(signal.SIGKILL)
        self.cluster.network.heal()
