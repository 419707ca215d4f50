"""Who leads, who has written, and whether all is true again."""

import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

from oracle import differences
from served import Served
from test_sync import execute

T = TypeVar("T")

# Each writing of the tape, with who did it and in which epoch of the lease.
AUDIT = """
CREATE TABLE writes (who text, epoch bigint, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.writes SELECT current_setting('truetape.who', true), epoch FROM analytics.lease;
    RETURN NULL;
END $$;
CREATE TRIGGER note_write AFTER INSERT OR UPDATE OR DELETE ON analytics.tape
    FOR EACH STATEMENT EXECUTE FUNCTION note_write()
"""

# Epochs in which more than one has written.
SHARED = "SELECT epoch FROM writes GROUP BY epoch HAVING count(DISTINCT who) <> 1"

# Sessions of ours that hold the lease's row, as whoever writes does, and wait for their client.
WRITING = """
SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND l.relation = 'analytics.lease'::regclass AND l.mode = 'RowShareLock'
  AND (a.state = 'idle in transaction' OR a.wait_event = 'ClientRead')
"""

HANDED_OVER_SECONDS = 5.0


def until(what: str, ask: Callable[[], T], seconds: float = 30) -> T:
    """Asks until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
    return answer


def signed(url: str, who: str) -> str:
    """A URL whose sessions tell who they are."""
    return f"{url}?options={quote(f'-c truetape.who={who}')}"


def lease(analytics_url: str) -> tuple[int | None, int]:
    """The process that leads, if one does, and the epoch."""
    found = execute(
        analytics_url,
        "SELECT split_part(holder, ':', 2), epoch, expires_at > clock_timestamp() "
        "FROM analytics.lease",
    )
    pid, epoch, holds = found[0]
    return (int(pid) if holds else None), int(epoch)


def leads(served: Served, analytics_url: str) -> bool:
    assert served.process is not None
    return lease(analytics_url)[0] == served.process.pid


def hands_over(to: Served, analytics_url: str) -> None:
    """Another leads within five seconds, and works."""
    began = time.monotonic()
    to.until(lambda: leads(to, analytics_url), "the other leads", 20)
    took = time.monotonic() - began
    assert took < HANDED_OVER_SECONDS, f"{took:.1f} s"
    print(f"handed over in {took:.1f} s")
    before = shown(analytics_url)
    to.until(lambda: shown(analytics_url) > before, "the other follows", 20)


def becomes_true(served: Served, source_url: str, analytics_url: str, seconds: float = 60) -> None:
    """The market being quiet: health says healthy, and every figure is what it should be."""
    found: list[str] = []

    def is_true() -> bool:
        health = served.health()
        if (health.get("status"), health.get("missedTrades")) != ("healthy", 0):
            found[:] = [f"health: {health}"]
        else:
            found[:] = differences(source_url, analytics_url)
        return not found

    try:
        served.until(is_true, "true again", seconds)
    except AssertionError as error:
        raise AssertionError(f"{found}\n{error}") from None


def shown(analytics_url: str) -> int:
    """Trades on the tape."""
    return int(execute(analytics_url, "SELECT count(*) FROM analytics.trades")[0][0])
