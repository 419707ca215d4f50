"""Somebody who watches the market while it trades: when was a block committed, and when seen."""

import http.client
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

POLL_PAUSE_SECONDS = 0.01
UNDER_WAY_SECONDS = 1.5
"""What was committed as late is waited for."""


@dataclass
class Watch:
    """When each block (by its second) was committed, and when it was seen first: on the stream, and by GET."""

    committed: dict[int, float] = field(default_factory=dict)
    pushed: dict[int, float] = field(default_factory=dict)
    got: dict[int, float] = field(default_factory=dict)
    told: SimpleQueue[int] = field(default_factory=SimpleQueue)
    """The seconds that the stream tells of, as it does."""
    listens: threading.Event = field(default_factory=threading.Event)
    """Set once the stream has begun: what was told before nobody has heard."""

    def latencies_ms(self, seen: dict[int, float]) -> list[tuple[int, float]]:
        """Of each block: its second, and how long it took. What stands behind it tells of it, too: two
        that come late come together."""
        took: list[tuple[int, float]] = []
        earliest = math.inf
        for second in sorted({*self.committed, *seen}, reverse=True):
            earliest = min(earliest, seen.get(second, math.inf))
            if second in self.committed and earliest < math.inf:
                took.append((second, round((earliest - self.committed[second]) * 1000, 1)))
        return took[::-1]

    def figures(self) -> dict[str, Any]:
        """Milliseconds from a block's commit until it was seen."""
        made: dict[str, Any] = {"blocks": len(self.committed)}
        for name, seen in (("pushed", self.pushed), ("got", self.got)):
            took = [ms for _, ms in self.latencies_ms(seen)]
            made |= {
                name: len(took),
                f"{name}P50": percentile(took, 0.5),
                f"{name}P99": percentile(took, 0.99),
                f"{name}Ms": took,
            }
        return made


def percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    return round(sorted(values)[min(int(len(values) * share), len(values) - 1)], 1)


def read_commits(lines: Any, watch: Watch, stop: threading.Event) -> None:
    for line in lines:
        if stop.is_set():
            return
        block = json.loads(line)
        watch.committed[block["second"]] = block["at"]


def newest(connection: http.client.HTTPConnection) -> int:
    """The second of the newest trade, by GET; 0 where there is none."""
    connection.request("GET", "/api/trades?limit=1")
    trades = json.load(connection.getresponse())["trades"]
    return trades[0]["time"] if trades else 0


def poll(port: int, watch: Watch, stop: threading.Event) -> None:
    """Asks for the newest trade over and over. A block is seen when its last trade is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.wait(POLL_PAUSE_SECONDS):
        watch.got.setdefault(newest(connection), time.time())


def ask(port: int, watch: Watch, stop: threading.Event) -> None:
    """Asks for the newest trade whenever the stream has told of one, as a page does that listens to it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.is_set():
        with suppress(Empty):
            second = watch.told.get(timeout=0.2)
            while (shown := newest(connection)) < second and not stop.is_set():
                pass
            watch.got.setdefault(shown, time.time())


def listen(port: int, watch: Watch, stop: threading.Event) -> None:
    """Follows the stream. A block is seen when the last of its pools has told of it; what a catch-up tells of
    older minutes names the newest trade, too, and does not count, nor what a pool tells of a block again."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/api/stream")
    answer = connection.getresponse()
    watch.listens.set()
    last, pools = 0, set[str]()
    while not stop.is_set():
        line = answer.readline()
        at = time.time()
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            second = event.get("lastTrade", 0)
            if last <= second < event.get("to", 0):
                if second > last:
                    watch.told.put(second)
                    pools.clear()
                if event["poolId"] not in pools:
                    watch.pushed[second], last = at, second
                    pools.add(event["poolId"])


@contextmanager
def watching(
    port: int, lines: Any, warm_up_seconds: float = 0, *, polled: bool = False
) -> Iterator[Watch]:
    """Watches while the body runs; what was committed before or is still under way does not count.
    ``polled``: GET is asked every ten milliseconds, not when the stream tells."""
    watch, stop = Watch(), threading.Event()
    threading.Thread(target=read_commits, args=(lines, watch, stop), daemon=True).start()
    watchers = [
        threading.Thread(target=work, args=(port, watch, stop), daemon=True)
        for work in (poll if polled else ask, listen)
    ]
    time.sleep(warm_up_seconds)
    for thread in watchers:
        thread.start()
    watch.listens.wait(UNDER_WAY_SECONDS)
    began = time.time()
    yield watch
    ended = time.time()
    time.sleep(UNDER_WAY_SECONDS)
    stop.set()
    for second, at in list(watch.committed.items()):
        if not began <= at <= ended:
            del watch.committed[second]
