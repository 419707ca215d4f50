"""The log: for people on a terminal, JSON elsewhere, a line a batch and a run, and nothing that is secret."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from served import Served, environment
from test_sync import add, trade

PRICE, QUANTITY = 987_654_321, 123_456_789_012_345
SECRET = "not-to-be-read-anywhere"


def test_a_service_logs_a_line_a_batch_and_a_run_and_no_secret(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    def own(n: int) -> tuple[object, ...]:
        return trade(f"t{n}", 1754400000 + n, price=PRICE, quantity=QUANTITY)

    add(source_url, *(own(n) for n in range(500)))
    add(source_url, trade("bad", 1754400000, price="NaN", quantity=QUANTITY))
    log = tmp_path / "serve.log"
    served = Served(
        log, PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
        TRUETAPE_API_TOKEN=SECRET, REDIS_URL=f"redis://:{SECRET}@127.0.0.1:1/0", SYNC_FOLLOW="false",
    )  # fmt: skip
    served.start()
    headers = {"Authorization": f"Bearer {SECRET}"}
    assert served.post("/api/sync/run", headers=headers)["processed"] == 500
    served.end()
    text = log.read_text()
    password = source_url.split("//")[1].split("@")[0].partition(":")[2]
    for secret in (SECRET, password, str(PRICE), str(QUANTITY)):
        assert secret and secret not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines]
    assert events.count("run.ended") == 1
    assert 1 <= events.count("batch.committed") <= 2, (
        "the good rows, and the second that holds the bad one"
    )
    ended = lines[events.index("run.ended")]
    assert (ended["processed"], ended["level"]) == (500, "info")
    assert len(lines) < 10, "nothing that is said again and again"


def test_on_a_terminal_it_is_for_people() -> None:
    ours, theirs = pty.openpty()
    program = (
        "from truetape import log; log.configure(); log.get('x').info('batch.committed', trades=3)"
    )
    subprocess.run(
        [sys.executable, "-c", program], stderr=theirs, env=environment(), check=True, timeout=60
    )
    said = os.read(ours, 4096).decode()
    os.close(theirs)
    os.close(ours)
    assert "batch.committed" in said
    assert not said.startswith("{")
