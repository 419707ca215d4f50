"""The machine, and what of it processes take: memory and processor time."""

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


class Stolen:
    """How much of the processors others had that share the machine, as the kernel says, from when this was
    made: a figure of a time with much of it is theirs."""

    def __init__(self) -> None:
        self._before = _ticks()

    @property
    def percent(self) -> float:
        stolen, in_all = (now - then for now, then in zip(_ticks(), self._before, strict=True))
        return round(100 * stolen / in_all, 1) if in_all else 0.0


def _ticks() -> tuple[int, int]:
    """(stolen, in all) of all processors since the start."""
    user, nice, system, idle, iowait, irq, softirq, stolen = map(
        int, Path("/proc/stat").read_text().split()[1:9]
    )
    return stolen, user + nice + system + idle + iowait + irq + softirq + stolen


def cpu_seconds(pid: int, *, with_ended_children: bool = False) -> float:
    """Processor time of a process so far; of one that is gone none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    ticks = map(int, fields[11 : 15 if with_ended_children else 13])
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def server_cpu_seconds(server: EmbeddedPostgres) -> float:
    """Processor time of a server so far, sessions that have ended included."""
    parent, *children = _processes(_postmaster(server))
    own = cpu_seconds(parent, with_ended_children=True)
    return own + sum(cpu_seconds(child) for child in children)


def peak_mb(pid: int | str = "self") -> float:
    """The most memory that a process has had. (What rusage says counts that of whoever started it.)"""
    return _status_kb(pid).get("VmHWM", 0) / 1024


class ServerMemory:
    """Samples the memory of a server's processes: what is theirs alone, and the shared buffers once."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._parent = _postmaster(server)
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
            own, shared = 0, 0
            for pid in _processes(self._parent):
                found = _status_kb(pid)
                own += found.get("RssAnon", 0)
                shared = max(shared, found.get("RssShmem", 0))
            self.peak_mb = max(self.peak_mb, (own + shared) / 1024)


def _postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data / "postmaster.pid").read_text().splitlines()[0])


def _processes(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [parent, *map(int, children.read_text().split())]


def _status_kb(pid: int | str) -> dict[str, int]:
    """What the kernel says of a process's memory, in kB; nothing when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = (line.split() for line in text.splitlines())
    return {w[0].rstrip(":"): int(w[1]) for w in found if len(w) == 3 and w[2] == "kB"}
