"""The page and what it asks for, short of a browser."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served
from system import Cutter, System
from test_sync import add, execute, sync, trade

from truetape.store import history
from truetape.trade import DAY, HOUR, Slice

BASE = 1754400000 // DAY * DAY


@pytest.fixture
def served(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    add(source_url, *(trade(f"t{n}", BASE + n * 60) for n in range(300)))
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url
    )
    served.start()
    served.until_complete()
    yield served
    served.end()


def read(url: str) -> tuple[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode(), answer.headers


def test_all_that_the_page_needs_comes_from_us(served: Served) -> None:
    page, headers = read(f"{served.here}/")
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    seen: set[str] = set()
    wanted = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    assert len(wanted) >= 3
    while wanted:
        path = wanted.pop()
        seen.add(path)
        text, headers = read(served.here + path)
        if path.endswith("js"):
            assert "javascript" in headers["Content-Type"], path
            inside = re.findall(r'from "\./([^"]+)"', text)
            wanted |= {f"/static/{name}" for name in inside} - seen
    assert "/static/vendor/lightweight-charts.mjs" in seen
    ours = [read(served.here + path)[0] for path in seen if "vendor" not in path]
    assert not re.search(r"https?://(?!www\.w3\.org)", page + "".join(ours)), "another host"


def test_history_comes_in_cells_as_fine_as_there_is_room_for(served: Served) -> None:
    cells = served.get("/api/sync/history")
    assert sum(c["processed"] for c in cells) == sum(c["sourceTrades"] for c in cells) == 300
    assert {c["to"] - c["from"] for c in cells} == {300}
    assert {c["state"] for c in cells} == {"synced"}
    served.post("/api/sync/verify")
    assert served.get("/api/sync/history?cells=2")[0]["to"] - BASE == 6 * HOUR
    within = served.get(f"/api/sync/history?from={BASE}&to={BASE + HOUR}")
    assert [c["state"] for c in within] == ["proven"] * 60
    assert served.get(f"/api/sync/history?from={BASE + DAY}&to={BASE + 2 * DAY}") == []
    assert served.get("/api/sync/history?cells=1", 400)["error"]


def test_each_cell_says_what_is_the_matter_with_it(source_url: str, analytics_url: str) -> None:
    add(source_url, *(trade(f"t{n}", BASE + n * HOUR) for n in range(10)))
    add(source_url, trade("bad", BASE + 2 * HOUR, price="NaN"))
    sync(source_url, analytics_url)
    add(source_url, trade("late", BASE + 4 * HOUR + 60))
    execute(source_url, "DELETE FROM order_book_trades WHERE id = 't6'")
    execute(analytics_url, "UPDATE analytics.lease SET expires_at = '-infinity'")
    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()

    async def cells(system: System) -> list[history.Cell]:
        """After a look that mends nothing."""
        compared = system._reconciler.differing(Slice(BASE, BASE + DAY), hashed=True)
        async for _ in compared:
            pass
        async with system._engine.analytics.connection() as conn:
            return await history.cells(conn, BASE, BASE + 10 * HOUR, 11)

    found = {c.start: c for c in system.do(cells(system))}
    system.close()
    states = [found[BASE + n * HOUR].state for n in range(10)]
    assert states == [
        "synced",
        "synced",
        "aside",
        "synced",
        "missing",
        "synced",
        "held",
        *["synced"] * 3,
    ]
    assert (found[BASE + 4 * HOUR].source, found[BASE + 4 * HOUR].processed) == (2, 1)
    assert found[BASE + 6 * HOUR].source == 0
