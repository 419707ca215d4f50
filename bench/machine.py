"""The machine, and how much memory a server takes while something runs on it."""

import os
import platform
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from truetape.embedded import EmbeddedPostgres


def machine() -> dict[str, Any]:
    """What a figure depends on besides the program."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "commit": commit.stdout.strip() or None,
    }


class ServerMemory:
    """Samples the memory of a server's processes: what is theirs alone, and the shared buffers once."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._parent = int((server.data / "postmaster.pid").read_text().splitlines()[0])
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

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

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            children = Path(f"/proc/{self._parent}/task/{self._parent}/children")
            pids = [self._parent, *map(int, children.read_text().split())]
            own, shared = 0, 0
            for pid in pids:
                anonymous, common = _memory_kb(pid)
                own += anonymous
                shared = max(shared, common)
            self.peak_mb = max(self.peak_mb, (own + shared) / 1024)


def _memory_kb(pid: int) -> tuple[int, int]:
    """(memory of a process alone, memory that it shares), in kB; zeros when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return tuple(int(found.get(key, "0 kB").split()[0]) for key in ("RssAnon", "RssShmem"))  # type: ignore[return-value]
