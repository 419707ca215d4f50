"""Embedded servers: started or joined, recovered after a kill, stopped by their last user."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import valkey

from truetape.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder that the servers' user may reach even when the tests are run by root."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    yield tmp_path


def write(url: str, value: int) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS kept (v int)")
        conn.execute("INSERT INTO kept VALUES (%s)", (value,))


def kept(url: str) -> list[int]:
    with psycopg.connect(url) as conn:
        return [v for (v,) in conn.execute("SELECT v FROM kept ORDER BY v").fetchall()]


def pid_of(server: EmbeddedPostgres) -> int:
    return int((server.data / "postmaster.pid").read_text().splitlines()[0])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_data_outlives_a_stop_and_the_port_stays(home: Path) -> None:
    with EmbeddedPostgres(home / "pg") as server:
        write(server.url("postgres"), 1)
        port, pid = server.port, pid_of(server)
    assert not is_running(pid)
    with EmbeddedPostgres(home / "pg") as server:
        assert kept(server.url("postgres")) == [1]
        assert server.port == port


def test_committed_rows_outlive_a_kill_of_the_server(home: Path) -> None:
    server = EmbeddedPostgres(home / "pg")
    url = server.acquire()
    write(url, 1)
    os.kill(pid_of(server), signal.SIGKILL)
    time.sleep(0.2)
    with EmbeddedPostgres(home / "pg") as again:
        assert kept(again.url("postgres")) == [1]
    server.release()


def test_the_last_user_stops_it(home: Path) -> None:
    one, two = EmbeddedPostgres(home / "pg"), EmbeddedPostgres(home / "pg")
    assert one.acquire() == two.acquire()
    pid = pid_of(one)
    one.release()
    write(two.url("postgres"), 1)
    two.release()
    assert not is_running(pid)


def test_a_killed_user_leaves_a_server_that_the_next_one_joins(home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from truetape.embedded import EmbeddedPostgres\n"
        "EmbeddedPostgres(Path(sys.argv[1])).acquire(); print('ready', flush=True); time.sleep(60)"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", program, str(home / "pg")], stdout=subprocess.PIPE
    )
    assert user.stdout is not None
    assert user.stdout.readline() == b"ready\n"
    server = EmbeddedPostgres(home / "pg")
    pid = pid_of(server)
    user.kill()
    user.wait()
    assert is_running(pid)
    write(server.acquire(), 1)
    assert pid_of(server) == pid
    server.release()
    assert not is_running(pid)


def test_nobody_else_gets_in(home: Path) -> None:
    with EmbeddedPostgres(home / "pg") as server:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres")
        mode = stat.S_IMODE((home / "pg" / "password").stat().st_mode)
        assert mode == 0o600
        assert stat.S_IMODE((home / "pg" / "data").stat().st_mode) == 0o700


def test_an_incomplete_data_directory_is_refused_and_kept(home: Path) -> None:
    (home / "pg" / "data").mkdir(parents=True)
    (home / "pg" / "data" / "precious").write_text("rows")
    with pytest.raises(EmbeddedError, match="move it away"):
        EmbeddedPostgres(home / "pg").acquire()
    assert (home / "pg" / "data" / "precious").read_text() == "rows"


def test_another_major_version_is_refused_and_kept(home: Path) -> None:
    (home / "pg" / "data").mkdir(parents=True)
    (home / "pg" / "data" / "PG_VERSION").write_text("9")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 9"):
        EmbeddedPostgres(home / "pg").acquire()


def test_a_half_written_cluster_is_no_obstacle(home: Path) -> None:
    (home / "pg" / "data.new-1" / "cluster").mkdir(parents=True)
    with EmbeddedPostgres(home / "pg") as server:
        write(server.url("postgres"), 1)
    assert not (home / "pg" / "data.new-1").exists()


def test_a_database_is_made_once(home: Path) -> None:
    with EmbeddedPostgres(home / "pg") as server:
        assert server.ensure_database("analytics") == server.ensure_database("analytics")


def test_valkey_keeps_what_it_was_told(home: Path) -> None:
    server = EmbeddedValkey(home / "valkey")
    with valkey.Valkey.from_url(server.acquire()) as client:
        client.xadd("chain:1:trades", {"tradeId": "0x1"})
        pid = int(client.info("server")["process_id"])
        time.sleep(1.3)  # the log is written to disk every second
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    with (
        EmbeddedValkey(home / "valkey") as again,
        valkey.Valkey.from_url(again.acquire()) as client,
    ):
        assert client.xlen("chain:1:trades") == 1
    server.release()


def test_valkey_asks_for_the_password(home: Path) -> None:
    with (
        EmbeddedValkey(home / "valkey") as server,
        valkey.Valkey(host="127.0.0.1", port=server.port or 0) as client,
        pytest.raises(valkey.AuthenticationError),
    ):
        client.ping()
