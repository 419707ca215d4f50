"""Raw trades are dropped with age, and nothing that they fed changes: not then, and not ever after."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from oracle import differences_within, expectations
from served import Served, truetape
from system import Cutter, System
from test_sync import POOL, add, execute, sync, trade

from truetape.trade import DAY, HOUR

DAYS = 20
SINCE = (int(time.time()) // DAY - DAYS) * DAY
"""The first trade stands twenty days ago; nothing is kept for more than ten."""
FIGURES = ("candles_1m", "hourly_aggregations", "daily_summaries", "trader_stats", "symbol_metrics")


def figures(analytics_url: str) -> dict[str, list[Any]]:
    with psycopg.connect(analytics_url) as conn:
        return {
            name: sorted(conn.execute(expectations()[name][0].encode()).fetchall(), key=str)
            for name in FIGURES
        }


@pytest.fixture
def old(source_url: str, analytics_url: str) -> Iterator[System]:
    """Twenty days of trades, some an hour, all in."""
    execute(
        source_url,
        "ALTER TABLE order_book_trades ADD buyer text, ADD seller text;"
        "INSERT INTO order_book_trades (id, timestamp, price, quantity, pool_id, side, transaction_id, "
        f"buyer, seller) SELECT 't' || n, {SINCE} + n * 4321, 100 + n % 7, 10 + n % 5, "
        f"CASE n % 3 WHEN 0 THEN '0xbb' ELSE '{POOL}' END, 'buy', 'x', 'b' || n % 4, 's' || n % 5 "
        f"FROM generate_series(0, {DAYS * DAY // 4321 - 1}) n",
    )
    assert sync(source_url, analytics_url).errors == 0
    system = System(source_url, analytics_url, "public", Cutter(), TAPE_RETENTION_DAYS=10)
    system.restart()
    system.run("standard")
    yield system
    system.close()


def tidy(system: System, analytics_url: str) -> None:
    """Until there is nothing more to be sealed."""
    before = -1
    while before != sealed_before(analytics_url):
        before = sealed_before(analytics_url)
        system.look(["tidy"])


def sealed_before(analytics_url: str) -> int:
    [(before,)] = execute(analytics_url, "SELECT sealed_before FROM analytics.state")
    return int(before)


def test_old_trades_go_and_what_they_fed_stays(old: System, analytics_url: str) -> None:
    before = figures(analytics_url)
    tidy(old, analytics_url)
    sealed = sealed_before(analytics_url)
    # By whole days, or by chunks of a week.
    assert SINCE + 2 * DAY < sealed <= time.time() - 10 * DAY
    [(first,)] = execute(
        analytics_url, "SELECT extract(epoch FROM min(time))::bigint FROM analytics.tape"
    )
    assert sealed <= first < sealed + 2 * HOUR
    assert figures(analytics_url) == before
    old.scrub_all()
    old.look(["window", "newest", "vanished", "tail", "proof"])
    proof = old.run("verify").result
    assert proof is not None
    assert (proof["complete"], proof["tradesChecked"]) == (True, DAYS * DAY // 4321)
    assert figures(analytics_url) == before
    health = old.health()
    assert (health.status, health.missed_trades, health.lag_minutes) == ("healthy", 0, 0)
    assert health.sealed == {"before": sealed, "refused": 0}


def test_what_changes_where_all_is_sealed_is_refused_and_shown(
    old: System, source_url: str, analytics_url: str
) -> None:
    tidy(old, analytics_url)
    before, sealed = figures(analytics_url), sealed_before(analytics_url)
    late, moved = SINCE + DAY + 17, SINCE + 2 * DAY
    execute(
        source_url,
        "INSERT INTO order_book_trades (id, timestamp, price, quantity, pool_id) "
        f"VALUES ('late', {late}, 5, 5, '{POOL}');"
        f"DELETE FROM order_book_trades WHERE id = 't2';"
        f"UPDATE order_book_trades SET price = 1 WHERE timestamp BETWEEN {moved} AND {moved + 4320}",
    )
    old.scrub_all()
    for kind in ("standard", "comprehensive"):
        ran = old.run(kind)
        assert (ran.state, ran.total) == ("succeeded", 0), ran.message
    assert figures(analytics_url) == before
    health = old.health()
    assert (health.status, health.missed_trades, health.lag_minutes) == ("degraded", 0, 0)
    assert health.sealed == {"before": sealed, "refused": 3}
    assert "refused" in health.message
    proof = old.run("verify", repair=True).result
    assert proof is not None
    assert sorted(m["kind"] for m in proof["mismatches"]) == ["changed", "extra", "missing"]
    assert not proof["complete"]
    assert figures(analytics_url) == before
    # What is as it was is refused no longer.
    execute(source_url, "DELETE FROM order_book_trades WHERE id = 'late'")
    old.scrub_all()
    assert old.health().sealed["refused"] == 2


def test_a_force_begins_where_trades_are_kept(
    old: System, source_url: str, analytics_url: str
) -> None:
    tidy(old, analytics_url)
    before, sealed = figures(analytics_url), sealed_before(analytics_url)
    settings = {"PONDER_DATABASE_URL": source_url, "ANALYTICS_DATABASE_URL": analytics_url}
    old.by_hand("UPDATE analytics.lease SET expires_at = '-infinity'")
    for further in ((), ("--dry-run",)):
        refused = truetape("force", "--from", str(sealed - 1), *further, **settings)
        assert (refused.returncode, str(sealed) in refused.stderr) == (2, True), refused.stderr
    assert "sealed" in refused.stderr
    done = truetape("force", "--from", str(sealed), **settings)
    assert done.returncode == 0, done.stderr
    assert figures(analytics_url) == before


def test_a_run_that_meets_what_has_been_sealed_meanwhile_changes_nothing(
    old: System, analytics_url: str
) -> None:
    tidy(old, analytics_url)
    before = figures(analytics_url)
    ran = None
    try:
        ran = old.run("force", from_timestamp=SINCE)
    except AssertionError as error:  # It ended otherwise than well, as it should.
        assert "sealed" in str(error)
    assert ran is None
    assert figures(analytics_url) == before


def test_a_row_set_aside_is_not_taken_in_any_more(
    old: System, source_url: str, analytics_url: str
) -> None:
    add_bad = "INSERT INTO order_book_trades (id, timestamp, price, quantity, pool_id) VALUES "
    execute(source_url, f"{add_bad} ('bad', {SINCE + 100}, 'NaN', 5, '{POOL}')")
    assert old.run("comprehensive").errors == 1
    tidy(old, analytics_url)
    before = figures(analytics_url)
    assert sealed_before(analytics_url) > SINCE
    assert old.health().sealed["refused"] == 0
    execute(source_url, "UPDATE order_book_trades SET price = 7 WHERE id = 'bad'")
    execute(
        analytics_url, "UPDATE analytics.sync_log SET status = 'pending' WHERE trade_id = 'bad'"
    )
    old.look(["pending"])
    old.run("retry")
    [(status, reason)] = execute(
        analytics_url,
        "SELECT status, error_message FROM analytics.sync_log WHERE trade_id = 'bad'",
    )
    assert (status, reason.startswith("sealed")) == ("error", True)
    assert figures(analytics_url) == before


def test_only_what_is_proven_is_sealed(old: System, source_url: str, analytics_url: str) -> None:
    """A late trade that nobody has seen yet, a forged figure: taken in and mended, then sealed."""
    add(source_url, (*trade("late", SINCE + DAY + 5), None, None)[:7])
    execute(analytics_url, "UPDATE analytics.days SET trades = 70 WHERE pool_id = '0xbb'")
    tidy(old, analytics_url)
    assert sealed_before(analytics_url) == 0
    old.scrub_all()
    old.look(["proof"])
    tidy(old, analytics_url)
    assert sealed_before(analytics_url) > SINCE
    [(trades,)] = execute(analytics_url, "SELECT sum(trades) FROM analytics.daily_summaries")
    assert trades == DAYS * DAY // 4321 + 1
    assert old.run("verify").result["complete"]  # type: ignore[index]


def test_what_can_still_change_is_kept_however_old(source_url: str, analytics_url: str) -> None:
    """The source has stood still for a month: its newest trades are in the window all the same."""
    add(source_url, *(trade(f"t{n}", SINCE + n * HOUR) for n in range(200)))
    sync(source_url, analytics_url)
    system = System(source_url, analytics_url, "public", Cutter(), TAPE_RETENTION_DAYS=1)
    system.restart()
    system.run("standard")
    system.look(["tidy"])
    last = SINCE + 199 * HOUR
    assert sealed_before(analytics_url) <= last - HOUR
    add(source_url, trade("again", int(time.time())))
    system.look(["tail"])
    assert system.health().missed_trades == 0
    assert execute(
        analytics_url, "SELECT count(*) FROM analytics.trades WHERE trade_id IN ('t199', 'again')"
    ) == [(2,)]
    system.close()


def test_digests_that_cannot_be_made_again_are_compared_by_count(
    old: System, source_url: str, analytics_url: str
) -> None:
    """After a move to servers that hash otherwise."""
    tidy(old, analytics_url)
    sealed = sealed_before(analytics_url)
    execute(analytics_url, "UPDATE analytics.state SET row_hash = 'another'")
    execute(analytics_url, "UPDATE analytics.digests SET hash_sum = hash_sum + 1")
    execute(analytics_url, "UPDATE analytics.lease SET expires_at = '-infinity'")
    assert sync(source_url, analytics_url).total == 0
    old.restart()
    old.scrub_all()
    assert old.health().sealed == {"before": sealed, "refused": 0}
    add(source_url, (*trade("late", SINCE + 5), None, None)[:7])
    old.scrub_all()
    assert old.health().sealed == {"before": sealed, "refused": 1}
    assert differences_within(analytics_url) != [], "the sealed figures stand beside a shorter tape"


def test_settled_errors_and_past_runs_are_dropped(source_url: str, analytics_url: str) -> None:
    now = int(time.time())
    add(source_url, trade("a", now), trade("bad", now, price="NaN"))
    sync(source_url, analytics_url)
    execute(source_url, "UPDATE order_book_trades SET price = 1 WHERE id = 'bad'")
    sync(source_url, analytics_url)
    system = System(source_url, analytics_url, "public", Cutter(), SYNC_LOG_RETENTION_DAYS=7)
    system.restart()
    kept = (
        "SELECT (SELECT count(*) FROM analytics.quarantine), (SELECT count(*) FROM analytics.runs)"
    )
    system.look(["tidy"])
    [(entries, runs)] = execute(analytics_url, kept)
    assert entries == 1
    assert runs >= 2
    execute(
        analytics_url,
        "UPDATE analytics.quarantine SET resolved_at = resolved_at - interval '8 days'",
    )
    execute(analytics_url, "UPDATE analytics.runs SET ended_at = ended_at - interval '8 days' "
            "WHERE run_id = (SELECT min(run_id) FROM analytics.runs)")  # fmt: skip
    system.look(["tidy"])
    assert execute(analytics_url, kept) == [(0, runs - 1)]
    system.close()


def test_all_this_happens_by_itself_and_is_told(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    add(source_url, *(trade(f"t{n}", SINCE + n * HOUR) for n in range(DAYS * 24)))
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source_url,
        ANALYTICS_DATABASE_URL=analytics_url, TAPE_RETENTION_DAYS="10",
    )  # fmt: skip
    served.start()
    try:
        served.until(lambda: sealed_before(analytics_url) > SINCE + 2 * DAY, "sealed", 120)
        told = served.get("/api/sync/stats")["retention"]
        assert told["lastRun"] is not None
        sealed = told["sealedBefore"]
        assert sealed == served.health()["sealed"]["before"] == sealed_before(analytics_url)
        refused = served.post("/api/sync/force", {"fromTimestamp": sealed - 1}, 400)
        assert "sealed" in refused["error"]
        daily = served.get(f"/api/market/daily?poolId={POOL}&limit=100")["candles"]
        assert sum(c["trades"] for c in daily) == DAYS * 24
        assert served.post("/api/sync/verify")["complete"]
    finally:
        served.end()
