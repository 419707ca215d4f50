"""The home directory of a demo exchange: what ties the process to those who use it.

A locked pid file says that an exchange runs, and a second file is locked by whoever wants it to.
The kernel opens both locks however their holders end.
"""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import IO

from truetape.connect import without_password
from truetape.errors import UsageError

UNWANTED_SECONDS_MAX = 3600.0
LOOK_SECONDS = 30.0


class Home:
    """The files of an exchange: ``exchange.pid``, ``exchange.users``, ``exchange.log``."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.log = path / "exchange.log"
        self._pid = path / "exchange.pid"
        self._users = path / "exchange.users"

    def occupy(self, database_url: str) -> IO[str]:
        """By the exchange itself, as long as the file is open. Refuses where there is one."""
        file = _open(self._pid)
        for _ in range(20):  # a moment's patience: somebody may just be looking
            if _lock(file, fcntl.LOCK_EX):
                file.truncate(0)
                json.dump({"pid": os.getpid(), "database": without_password(database_url)}, file)
                file.flush()
                return file
            time.sleep(0.05)
        file.close()
        raise UsageError(f"A demo exchange already runs from {self.path}.")

    def occupant(self) -> tuple[int, str] | None:
        """Process id and database of the exchange that runs from here."""
        with _open(self._pid) as file:
            if _lock(file, fcntl.LOCK_SH):
                return None
            file.seek(0)
            try:
                note = json.load(file)
            except json.JSONDecodeError:  # it is just moving in
                return None
            return int(note["pid"]), str(note["database"])

    def want(self) -> IO[str]:
        """By a user, as long as the file is open; a kill -9 of the user closes it too."""
        file = _open(self._users)
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def wanted(self) -> bool:
        with _open(self._users) as file:
            return not _lock(file, fcntl.LOCK_EX)

    def end_when_unwanted(self, stop: threading.Event) -> None:
        """Sets ``stop`` once nobody has wanted the exchange for an hour. Runs until then."""
        wanted_at = time.monotonic()
        while not stop.wait(LOOK_SECONDS):
            if self.wanted():
                wanted_at = time.monotonic()
            elif time.monotonic() - wanted_at > UNWANTED_SECONDS_MAX:
                stop.set()

    def last_line(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _open(path: Path) -> IO[str]:
    path.touch(mode=0o600)
    return path.open("r+", encoding="utf-8")


def _lock(file: IO[str], mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
