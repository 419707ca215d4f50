"""Two services are restarted one after the other while trades come: does anybody who asks notice?"""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from load import Load, add_history
from served import Served
from watch import becomes_true, until

FRESH_SECONDS = 3
"""A trade's second, its way to the screen, and the look of who asks."""
STALE_SECONDS = 10
PATHS = ("/api/trades?limit=1", "/api/market/symbols", "/api/sync/health", "/api/sync/stats")


class Client:
    """Asks one of two, and where that one does not answer the other, over and over."""

    def __init__(self, *served: Served) -> None:
        self._places = cycle((served, served[::-1]))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self.answers = 0
        self.failures: list[str] = []
        self.age = self.oldest = 0.0
        """Seconds since the newest trade that was shown: now, and at worst."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _go_on(self) -> None:
        for path in cycle(PATHS):
            if self._stop.wait(0.02):
                return
            why = []
            for served in next(self._places):
                try:
                    with urllib.request.urlopen(served.here + path, timeout=5) as answer:
                        self._see(json.load(answer), path)
                    break
                except (OSError, ValueError) as error:
                    why.append(str(error))
            else:
                self.failures.append(f"{path}: {why}")

    def _see(self, answer: Any, path: str) -> None:
        self.answers += 1
        if path == PATHS[0]:
            self.age = time.time() - answer["trades"][0]["time"]
            self.oldest = max(self.age, self.oldest)


@pytest.fixture
def two(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    add_history(source_url, 3000)
    both = tuple(
        Served(
            tmp_path / f"{who}.log",
            PONDER_DATABASE_URL=source_url,
            ANALYTICS_DATABASE_URL=analytics_url,
        )
        for who in ("first", "second")
    )
    for served in both:
        served.start()
    yield both[0], both[1]
    for served in both:
        if served.process is not None and served.process.poll() is None:
            served.end()


def test_two_services_restarted_in_turn_leave_no_question_unanswered(
    two: tuple[Served, Served], source_url: str, analytics_url: str
) -> None:
    two[0].until_complete()
    with Load(source_url) as load:
        load.grow(50)
        with Client(*two) as client:
            until("fresh", lambda: 0 < client.age < FRESH_SECONDS, 10)
            client.oldest = 0.0
            for served in two * 2:
                before = client.answers
                assert served.end() == 0
                served.start()
                served.until(lambda served=served: served.get("/readyz"), "is ready")
                until("fresh again", lambda: client.age < FRESH_SECONDS, 10)
                assert client.answers > before
        print(f"{client.answers} answers, the newest trade never older than {client.oldest:.1f} s")
    assert client.failures == []
    assert client.oldest < STALE_SECONDS
    becomes_true(two[0], source_url, analytics_url)
