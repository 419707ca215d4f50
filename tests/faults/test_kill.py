"""The process dies at any moment: is every trade still there, once?"""

import random
import signal
import time
from pathlib import Path

from load import Load, add_history
from served import Served
from test_crash import expire_lease
from watch import becomes_true, leads, lease, until

KILLS = 50
LEADS_SECONDS = 30


def leader(pair: tuple[Served, Served], analytics_url: str) -> Served | None:
    return next((served for served in pair if leads(served, analytics_url)), None)


def test_fifty_kills_in_a_row_under_load_lose_and_double_nothing(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    add_history(source_url, 5000)

    def served() -> Served:
        return Served(
            tmp_path / "serve.log",
            PONDER_DATABASE_URL=source_url,
            ANALYTICS_DATABASE_URL=analytics_url,
        )

    began = time.monotonic()
    last = served()
    last.start()
    try:
        with Load(source_url):
            for _kill in range(KILLS):
                # The next one comes up while this one works, as when a supervisor is quick.
                following = served()
                following.start(wait=False)
                try:
                    if draw.random() < 0.8:
                        pair = (last, following)
                        led = until("leads", lambda p=pair: leader(p, analytics_url), LEADS_SECONDS)  # type: ignore[misc]
                        if led is following:  # It was quicker to come up: it is the one to go.
                            last, following = following, last
                    time.sleep(draw.uniform(0.1, 1))
                finally:
                    last.end(signal.SIGKILL)
                    last = following
                expire_lease(analytics_url)
        epoch = lease(analytics_url)[1]
        print(f"{KILLS} kills, {epoch} leaders, {time.monotonic() - began:.0f} s")
        becomes_true(last, source_url, analytics_url)
        assert lease(analytics_url)[1] > KILLS / 2, "hardly any of them led"
        assert last.post("/api/sync/verify")["complete"]
        assert last.end() == 0
    finally:
        if last.process is not None and last.process.poll() is None:
            last.end(signal.SIGKILL)
