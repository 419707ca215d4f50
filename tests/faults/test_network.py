"""The network fails in every way it can: does the sync go on by itself, with every trade once?"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from load import Load, add_history
from proxy import Proxy
from served import Served
from watch import becomes_true, shown

from truetape.store.lease import LEASE_SECONDS

Fault = Callable[[Served, Proxy, random.Random], None]


def break_off(served: Served, proxy: Proxy, draw: random.Random) -> None:
    """Closed, reset, or reset when what was asked is done and the reply still under way."""
    kinds = ["cut", "reset", "reply lost"] * 3
    draw.shuffle(kinds)
    for kind in kinds:
        time.sleep(draw.uniform(0.1, 0.7))
        if kind == "cut":
            proxy.cut()
        elif kind == "reset":
            proxy.reset()
        else:
            proxy.swallow_replies()
            time.sleep(draw.uniform(0.05, 0.3))
            proxy.reset()
            proxy.thaw()


def freeze(served: Served, proxy: Proxy, draw: random.Random) -> None:
    """For longer than a lease lasts; whoever asks meanwhile is told at once."""
    time.sleep(draw.uniform(0.1, 1))
    proxy.freeze()
    ends = time.monotonic() + LEASE_SECONDS + 1
    while time.monotonic() < ends:
        began = time.monotonic()
        assert served.get("/api/sync/health", 503)
        assert time.monotonic() - began < 2.5
    proxy.thaw()


@pytest.fixture(params=["analytics", "source"])
def between(request: pytest.FixtureRequest, source_url: str, analytics_url: str) -> Iterator[Proxy]:
    """The network to one of the two databases."""
    with Proxy(analytics_url if request.param == "analytics" else source_url) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", [break_off, freeze])
def test_the_network_fails_under_load_and_the_sync_goes_on_by_itself(
    fault: Fault, between: Proxy, source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    add_history(source_url, 3000)
    name = between.url.rpartition("/")[2]
    source = between.url if name.startswith("source") else source_url
    analytics = between.url if name.startswith("analytics") else analytics_url
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source, ANALYTICS_DATABASE_URL=analytics
    )
    served.start()
    try:
        with Load(source_url) as load:
            served.until(lambda: shown(analytics_url) > 3050, "follows")
            fault(served, between, random.Random(seed))
            before = shown(analytics_url)
            load.grow(20)
            served.until(lambda: shown(analytics_url) > before, "goes on", 30)
        becomes_true(served, source_url, analytics_url)
        assert between.connections > 1
        assert served.end() == 0
    finally:
        if served.process is not None and served.process.poll() is None:
            served.end(signal.SIGKILL)
