"""Slices of a run are done by workers, in any process: when one dies, freezes, or its leader does, is every
trade still there once, and counted once?"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from load import add_history
from oracle import differences
from served import Served, environment, truetape
from test_sync import execute
from watch import becomes_true, leads, shown, signed, until

from truetape.store.jobs import SILENT_SECONDS

TRADES = 40_000
HOLD_LAST_HOURS = """
SELECT pg_advisory_xact_lock(20054, hour) FROM generate_series(
    extract(epoch FROM now())::integer / 3600 - 1, extract(epoch FROM now())::integer / 3600) hour
"""
SMALL = {"SYNC_BATCH_SIZE": "200", "SYNC_CONCURRENCY": "1"}

# Slices that workers other than this process have in hand.
WORKING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'truetape%%:{pid}:%%'
  AND state = 'idle in transaction'
  AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'analytics.lease'::regclass
              AND mode = 'RowShareLock')
"""
RUN = "SELECT run_id, state, processed, progress FROM analytics.runs WHERE kind = %s ORDER BY run_id DESC LIMIT 1"
WRITES = """
CREATE TABLE writes (who text, trades bigint);
CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.writes SELECT current_setting('truetape.who', true), count(*) FROM came;
    RETURN NULL;
END $$;
CREATE TRIGGER note_write AFTER INSERT ON analytics.tape REFERENCING NEW TABLE AS came
    FOR EACH STATEMENT EXECUTE FUNCTION note_write()
"""
# Neither a row's fault nor one that passes.
REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'not on my watch' USING ERRCODE = 'feature_not_supported';
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON analytics.tape
    FOR EACH ROW WHEN (NEW.trade_id = 'h7777') EXECUTE FUNCTION refuse()
"""
QUEUED = "SELECT count(*) FROM analytics.procrastinate_jobs"


class Workers:
    """``truetape worker`` processes."""

    def __init__(self, folder: Path, source_url: str, analytics_url: str) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._folder, self._source_url, self._analytics_url = folder, source_url, analytics_url

    def start(self) -> subprocess.Popen[str]:
        """A worker that takes slices by now."""
        who = f"worker{len(self.processes)}"
        before = self._registered()
        with (self._folder / f"{who}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "truetape", "worker", "--json"],
                env=environment(
                    PONDER_DATABASE_URL=self._source_url,
                    ANALYTICS_DATABASE_URL=signed(self._analytics_url, who), **SMALL,
                ),
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.processes.append(process)
        until("it takes slices", lambda: self._registered() > before)
        return process

    def _registered(self) -> int:
        query = "SELECT count(*) FROM analytics.procrastinate_workers"
        return int(execute(self._analytics_url, query)[0][0])

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


@pytest.fixture
def workers(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[Workers]:
    add_history(source_url, TRADES)
    truetape("runs", PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url)
    execute(analytics_url, WRITES)
    found = Workers(tmp_path, source_url, analytics_url)
    yield found
    found.end()


@pytest.fixture
def two(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[list[Served]]:
    """Processes that serve, not started yet."""
    served = [
        Served(
            tmp_path / f"{who}.log",
            PONDER_DATABASE_URL=source_url,
            ANALYTICS_DATABASE_URL=signed(analytics_url, who),
            SYNC_FOLLOW="false",
            **SMALL,
        )
        for who in ("leader", "standby")
    ]
    yield served
    for one in served:
        if one.process is not None and one.process.poll() is None:
            one.end(signal.SIGKILL)


def asks(served: Served) -> int:
    """Asks a process, started if it was not, for all that is missing; the run's number."""
    if served.process is None:
        served.start()
    return int(served.post("/api/sync/run?wait=false", status=202)["runId"])


def run_of(kind: str, analytics_url: str) -> tuple[int, str, int, float]:
    found = execute(analytics_url, RUN.replace("%s", f"'{kind}'"))
    return found[0] if found else (0, "", 0, 0.0)


def ended(kind: str, analytics_url: str, seconds: float = 60) -> tuple[int, str, int, float]:
    def has() -> bool:
        return run_of(kind, analytics_url)[1] not in ("", "queued", "running")

    until(f"{kind} has ended", has, seconds)
    return run_of(kind, analytics_url)


def has_slice(process: subprocess.Popen[str], analytics_url: str) -> bool:
    return bool(execute(analytics_url, WORKING.format(pid=process.pid))[0][0])


def brought(analytics_url: str) -> dict[str, int]:
    query = "SELECT who, sum(trades)::bigint FROM writes GROUP BY who"
    return dict(execute(analytics_url, query))


def test_workers_share_a_backlog_and_end_when_told(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    processes = [workers.start(), workers.start()]
    asks(two[0])

    def told() -> bool:
        force = two[0].get("/api/sync/stats")["workforce"]
        return bool(force["workers"] == 3 and force["waiting"] > 0)

    until("all that work are told of", told)
    state = ended("standard", analytics_url)
    assert state[1:] == ("succeeded", TRADES, 1.0)
    assert sum(brought(analytics_url).values()) == TRADES
    assert set(brought(analytics_url)) == {"leader", "worker0", "worker1"}
    becomes_true(two[0], source_url, analytics_url)
    for process in processes:
        process.terminate()
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert json.loads(said)["slices"] > 0
    until("nothing is queued", lambda: execute(analytics_url, QUEUED) == [(0,)])


def test_a_worker_that_dies_gives_its_slice_back(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    process = workers.start()
    asks(two[0])
    for again in range(3):
        until("works", lambda p=process: has_slice(p, analytics_url))  # type: ignore[misc]
        process.kill()
        process.wait()
        if again < 2:
            process = workers.start()
    state = ended("standard", analytics_url, SILENT_SECONDS * 4)
    assert state[1:] == ("succeeded", TRADES, 1.0)
    assert sum(brought(analytics_url).values()) == TRADES
    becomes_true(two[0], source_url, analytics_url)


def test_a_worker_that_was_frozen_writes_nothing_twice(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    process = workers.start()
    asks(two[0])

    def stopped_there() -> bool:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        found = has_slice(process, analytics_url)
        if not found:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        return found

    until("frozen with a slice in hand", stopped_there)
    state = ended("standard", analytics_url, SILENT_SECONDS * 4)
    assert state[1:] == ("succeeded", TRADES, 1.0)
    process.send_signal(signal.SIGCONT)
    becomes_true(two[0], source_url, analytics_url)
    assert sum(brought(analytics_url).values()) == TRADES
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_leader_that_dies_leaves_its_run_to_the_next(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    leader, standby = two
    workers.start()
    leader.start()
    leader.until(lambda: leads(leader, analytics_url), "leads")
    standby.start()
    asks(leader)
    until("a part is in", lambda: 1_000 < shown(analytics_url) < TRADES)
    leader.end(signal.SIGKILL)
    state = ended("standard", analytics_url)
    assert state[1:] == ("succeeded", TRADES, 1.0)
    assert sum(brought(analytics_url).values()) == TRADES
    becomes_true(standby, source_url, analytics_url)
    # What a force has done before its leader died is neither done nor counted again.
    since = int(time.time()) - 7200
    standby.post("/api/sync/force?wait=false", {"fromTimestamp": since}, status=202)
    leader.start()
    until("some is forced", lambda: run_of("force", analytics_url)[3] > 0.2)
    standby.end(signal.SIGKILL)
    state = ended("force", analytics_url)
    assert state[1:] == ("succeeded", TRADES, 1.0)
    assert differences(source_url, analytics_url) == []


def test_a_run_can_be_cancelled_from_anywhere(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    urls = {"PONDER_DATABASE_URL": source_url, "ANALYTICS_DATABASE_URL": analytics_url}
    workers.start()
    asked = asks(two[0])
    until("a part is in", lambda: shown(analytics_url) > 1_000)
    with psycopg.connect(analytics_url) as held:  # Or it could be over before it is cancelled.
        held.execute(HOLD_LAST_HOURS)
        listed = truetape("runs", "--cancel", str(asked), "--json", **urls)
    assert json.loads(listed.stdout)[0]["runId"] == asked
    state = ended("standard", analytics_url)
    assert state[1] == "cancelled"
    assert state[2] == shown(analytics_url) < TRADES, "what is counted is what is there"
    until("nothing is queued", lambda: execute(analytics_url, QUEUED) == [(0,)])
    said = truetape("runs", **urls)
    assert "cancelled" in said.stdout
    unknown = truetape("runs", "--cancel", "4711", **urls)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert two[0].post("/api/sync/run")["success"]
    assert differences(source_url, analytics_url) == []


def test_what_no_worker_can_do_ends_the_run_with_the_reason(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    execute(analytics_url, REFUSES)
    two[0].start()
    told: dict[str, Any] = two[0].post("/api/sync/run", status=503)
    assert "not on my watch" in told["error"]
    until("nothing is queued", lambda: execute(analytics_url, QUEUED) == [(0,)])
    execute(analytics_url, "DROP TRIGGER refuse ON analytics.tape")
    assert two[0].post("/api/sync/run")["success"]
    assert differences(source_url, analytics_url) == []


def test_a_worker_waits_for_a_database_that_is_away(
    workers: Workers, two: list[Served], source_url: str, analytics_url: str
) -> None:
    process = workers.start()
    asked = asks(two[0])
    for _ in range(5):
        with suppress(Exception):
            execute(
                analytics_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'truetape%'",
            )
        time.sleep(0.3)
    two[0].until(lambda: ended("standard", analytics_url)[0] >= asked, "ended")
    assert two[0].post("/api/sync/run")["success"]
    assert process.poll() is None, os.strerror(process.returncode or 0)
    assert sum(brought(analytics_url).values()) == TRADES
    assert differences(source_url, analytics_url) == []
