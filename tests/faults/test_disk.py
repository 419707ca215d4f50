"""The disk under the analytics is full: is it told, and is every trade there once there is room?"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from load import Load, add_history
from served import Served
from test_sync import execute
from watch import becomes_true, shown, until

from conftest import passable
from truetape.embedded import EmbeddedPostgres

SIZE_MB = 512
FULL = "No space left on device"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = passable(tmp_path) / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0711", "tmpfs", str(disk)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        why = f"a small disk cannot be mounted: {mounted.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


class Ballast:
    """A file that takes all the room there is."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "ballast"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for block in (2**20, 2**12):
                try:
                    while file.write(bytes(block)) == block:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        self._path.unlink()


def give_up(server: EmbeddedPostgres, analytics_url: str) -> None:
    """PostgreSQL needs room for the next file of its log, and has none."""
    with suppress(psycopg.Error):
        while True:
            execute(analytics_url, "SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS more (); "
                    "DROP TABLE more")  # fmt: skip
    until("the server has given up", lambda: not server._answers())


@pytest.mark.parametrize("how", ["for data", "for the server's log, too"])
def test_a_full_disk_is_told_and_nothing_is_lost(
    how: str, small_disk: Path, source_url: str, tmp_path: Path
) -> None:
    server = EmbeddedPostgres(small_disk / "postgres")
    ballast = Ballast(small_disk)
    server.acquire()
    analytics_url = server.ensure_database("analytics")
    add_history(source_url, 3000)
    log = tmp_path / "serve.log"
    served = Served(log, PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url)
    served.start()
    try:
        with Load(source_url) as load:
            served.until(lambda: shown(analytics_url) > 3050, "follows")
            ballast.fill()

            def told() -> bool:
                ballast.fill()  # whatever the server has given back
                health = served.get("/api/sync/health") or served.get("/api/sync/health", 503)
                return FULL in log.read_text() or FULL in str(health)

            served.until(told, "the full disk is named", 60)
            load.grow(100)
            if how != "for data":
                give_up(server, analytics_url)
            ballast.free()
            if not server._answers():
                server.release()
                server.acquire()
            before = shown(analytics_url)
            load.grow(50)
            served.until(lambda: shown(analytics_url) > before, "goes on", 30)
        becomes_true(served, source_url, analytics_url)
        assert served.post("/api/sync/verify")["complete"]
        assert served.end() == 0
    finally:
        if served.process is not None and served.process.poll() is None:
            served.end(signal.SIGKILL)
        server.release()
