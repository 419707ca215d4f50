"""What is cut off in the midst of something holds locks. Who lets go of them, and when?"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from load import Load
from psycopg.pq.abc import PGconn
from served import Served
from stage import ServedOn, Stage
from test_sync import execute
from watch import HANDED_OVER_SECONDS, becomes_true, hands_over, until

from truetape.store.apply import SQL
from truetape.store.sessions import SETTINGS, WRITING

pytest_plugins = ["staging"]

ASKING = 20056
"""The lock of who asks for a run; `store/runs.py`."""
ASKED_SECONDS = 10
HOURS = 20054
"""The locks of hours; `store/apply.sql`."""
LET_GO_SECONDS = 25


@contextmanager
def asking_for_a_run(served: Served, analytics_url: str) -> Iterator[threading.Thread]:
    """Somebody asks it for a run, and it waits for the lock, which it gets at the end."""
    waits = f"SELECT count(*) FROM pg_locks WHERE objid = {ASKING} AND NOT granted"
    asking = threading.Thread(target=served.post, args=("/api/sync/run?wait=false",))
    with psycopg.connect(analytics_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (ASKING,))
        asking.start()
        until("it waits for the lock", lambda: execute(analytics_url, waits) != [(0,)])
        yield asking
        other.rollback()


@pytest.mark.parametrize("how", ["cut off", "frozen"])
def test_a_leader_lost_while_it_asks_for_a_run_keeps_nobody_from_following(
    how: str, stage: Stage, two: tuple[ServedOn, ServedOn]
) -> None:
    """Its session gets the lock when nobody is there any more to give it back."""
    first, second = two
    url = stage.analytics_url
    assert first.process is not None
    with Load(stage.source_url) as load:
        load.grow(50)
        with asking_for_a_run(first, url) as asking:
            if how == "frozen":
                first.process.send_signal(signal.SIGSTOP)
            else:
                stage.cut_off(first.host, stage.cluster.analytics.host)
        began = time.monotonic()
        hands_over(second, url)
        took = time.monotonic() - began
        first.process.send_signal(signal.SIGCONT)
        stage.cluster.network.heal()
    asking.join()
    becomes_true(second, stage.source_url, url)
    assert took < HANDED_OVER_SECONDS + 1, f"{took:.1f} s until it followed"


def test_a_service_that_freezes_while_it_asks_for_a_run_keeps_no_other_from_asking(
    stage: Stage, two: tuple[ServedOn, ServedOn]
) -> None:
    """It does not lead, so that nobody takes over from it."""
    first, second = two
    assert second.process is not None
    with asking_for_a_run(second, stage.analytics_url) as asking:
        second.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert first.post("/api/sync/run?wait=false", status=202)
    took = time.monotonic() - began
    second.process.send_signal(signal.SIGCONT)
    asking.join()
    assert took < ASKED_SECONDS, f"{took:.1f} s"


# -- who is cut off and replaced by nobody: a firewall has forgotten some of its connections ------


def asks(pgconn: PGconn) -> None:
    pgconn.send_query(b"SELECT 1")


def asks_for_much(pgconn: PGconn) -> None:
    pgconn.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)")


def begins_a_copy(pgconn: PGconn) -> None:
    pgconn.send_query(SQL["copy_to_batch"].encode())


def is_in_a_pipeline(pgconn: PGconn) -> None:
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(b"SELECT 1", None)
    pgconn.send_flush_request()


def does_nothing(pgconn: PGconn) -> None:
    pass


DOINGS: tuple[Callable[[PGconn], None], ...] = (
    does_nothing, asks, asks_for_much, begins_a_copy, is_in_a_pipeline,
)  # fmt: skip


@pytest.mark.parametrize("reply", ["arrives", "is lost"])
def test_whatever_a_batch_does_when_its_connection_is_cut_its_hours_are_free_soon(
    reply: str, stage: Stage
) -> None:
    """Not only when TCP gives up, which takes a quarter of an hour where a reply is under way."""
    connections = [begin(stage, hour) for hour in range(len(DOINGS))]
    for conn, doing in zip(connections, DOINGS, strict=True):
        forget(stage, conn, doing, reply_lost=reply == "is lost")
    began, held = time.monotonic(), list(range(len(DOINGS)))
    query = f"SELECT objid FROM pg_locks WHERE classid = {HOURS} ORDER BY objid"
    while held and time.monotonic() < began + LET_GO_SECONDS:
        time.sleep(0.2)
        held = [hour for (hour,) in execute(stage.analytics_url, query)]
    for conn in connections:
        conn.close()
    print(f"free after {time.monotonic() - began:.0f} s")
    assert held == [], [DOINGS[hour].__name__ for hour in held]


def begin(stage: Stage, hour: int) -> psycopg.Connection:
    """A session with the limits of ours, in a batch that has taken an hour."""
    name = stage.analytics_url.rpartition("/")[2]
    with stage.cluster.workers[0].entered():
        conn = psycopg.connect(stage.cluster.analytics.url_on_network(name), autocommit=True)
    conn.execute(SETTINGS)
    conn.execute(WRITING)
    conn.execute(SQL["setup_batch"])
    conn.execute("BEGIN")
    conn.execute("SELECT pg_advisory_xact_lock(%s, %s)", (HOURS, hour))
    return conn


def forget(
    stage: Stage, conn: psycopg.Connection, doing: Callable[[PGconn], None], *, reply_lost: bool
) -> None:
    """Cuts a connection, and no other, while it does something."""
    host, server = stage.cluster.workers[0], stage.cluster.analytics.host
    pid = conn.info.backend_pid
    of_session = f"SELECT client_port FROM pg_stat_activity WHERE pid = {pid}"
    port = execute(stage.analytics_url, of_session)[0][0]
    if reply_lost:
        stage.cluster.network.cut(server, host, port)
    doing(conn.pgconn)
    conn.pgconn.flush()
    time.sleep(0.2)
    stage.cluster.network.cut(server, host, port)
    stage.cluster.network.cut(host, server, port)
