"""What is cut off in the midst of something holds locks. Who lets go of them, and when?"""

import signal
import threading
import time

import psycopg
import pytest
from load import Load
from stage import ServedOn, Stage
from test_sync import execute
from watch import HANDED_OVER_SECONDS, becomes_true, hands_over, until

pytest_plugins = ["staging"]

ASKING = 20056
"""The lock of who asks for a run; `store/runs.py`."""


@pytest.mark.parametrize("how", ["cut off", "frozen"])
def test_a_leader_lost_while_it_asks_for_a_run_keeps_nobody_from_following(
    how: str, stage: Stage, two: tuple[ServedOn, ServedOn]
) -> None:
    """Its session gets the lock when nobody is there any more to give it back."""
    first, second = two
    url = stage.analytics_url
    waits = f"SELECT count(*) FROM pg_locks WHERE objid = {ASKING} AND NOT granted"
    asking = threading.Thread(target=first.post, args=("/api/sync/run?wait=false",))
    with Load(stage.source_url) as load, psycopg.connect(url) as other:
        load.grow(50)
        other.execute("SELECT pg_advisory_xact_lock(%s)", (ASKING,))
        asking.start()
        until("it waits for the lock", lambda: execute(url, waits) != [(0,)])
        assert first.process is not None
        if how == "frozen":
            first.process.send_signal(signal.SIGSTOP)
        else:
            stage.cut_off(first.host, stage.cluster.analytics.host)
        other.rollback()
        began = time.monotonic()
        hands_over(second, url)
        took = time.monotonic() - began
        first.process.send_signal(signal.SIGCONT)
        stage.cluster.network.heal()
    asking.join()
    becomes_true(second, stage.source_url, url)
    assert took < HANDED_OVER_SECONDS + 1, f"{took:.1f} s until it followed"
