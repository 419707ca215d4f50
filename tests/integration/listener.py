"""A client of ``/api/stream``, as a browser is one: events with their ids, and resuming after a break."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from served import PATIENCE


@dataclass(frozen=True)
class Told:
    """An event as it arrived."""

    id: int
    kind: str
    data: dict[str, Any]


class Listener:
    """Listens until closed. ``after`` is what a browser sends as ``Last-Event-ID``."""

    def __init__(self, port: int, after: int | None = None) -> None:
        self.told: list[Told] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        self._connection.request("GET", "/api/stream", headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.headers["Content-Type"].startswith("text/event-stream")
        self._answer.readline()  # The greeting: from here on nothing is missed.
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection.sock is not None:
            self._connection.sock.shutdown(2)
        self._thread.join(5)
        self._connection.close()

    def _listen(self) -> None:
        fields: dict[str, str] = {}
        try:
            for raw in self._answer:
                name, _, value = raw.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    told = Told(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    self.told.append(told)
                    fields = {}
        except (OSError, ValueError, http.client.HTTPException):
            pass  # The other side is gone, or we are.

    @property
    def last(self) -> int:
        return self.told[-1].id

    def of(self, kind: str) -> list[Told]:
        return [t for t in self.told if t.kind == kind]

    def until(self, true: Callable[[Told], bool], what: str, seconds: float = 15) -> Told:
        """Waits for an event; the first that fits."""
        deadline = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < deadline:
            for told in list(self.told):
                if true(told):
                    return told
            time.sleep(0.01)
        raise AssertionError(f"{what}: not told within {seconds} s; {self.told[-3:]}")
