"""Woken at three: is it the source that stands still, or are the analytics behind it?"""

import json
import time
from typing import Any

import pytest
from test_sync import add, execute, sync, trade, with_service

from truetape.embedded.ponder_tables import checkpoint
from truetape.sync.health import Health


def ago(seconds: int) -> int:
    """A Unix second, so many before this moment."""
    return int(time.time()) - seconds


class Ponder:
    """Ponder's own tables, and what they say."""

    def __init__(self, url: str) -> None:
        self.url = url
        execute(url, "CREATE TABLE _ponder_meta (key text, value jsonb); "
                "CREATE TABLE _ponder_checkpoint (chain_id bigint, latest_checkpoint varchar(75), "
                "finalized_checkpoint varchar(75))")  # fmt: skip
        self.says()
        self.reaches(1, ago(0))

    def says(self, beat_seconds_ago: float = 5, ready: int = 1) -> None:
        app = {"is_ready": ready, "heartbeat_at": int((time.time() - beat_seconds_ago) * 1000)}
        execute(self.url, "DELETE FROM _ponder_meta")
        execute(self.url, f"INSERT INTO _ponder_meta VALUES ('app', '{json.dumps(app)}')")

    def reaches(self, chain: int, second: int, block: int = 100) -> None:
        head, final = checkpoint(second, chain, block), checkpoint(second - 600, chain, block - 30)
        execute(self.url, f"DELETE FROM _ponder_checkpoint WHERE chain_id = {chain}")
        execute(self.url, f"INSERT INTO _ponder_checkpoint VALUES ({chain}, '{head}', '{final}')")


@pytest.fixture
def ponder(source_url: str) -> Ponder:
    return Ponder(source_url)


def health(source_url: str, analytics_url: str, **env: Any) -> Health:
    return with_service(source_url, analytics_url, lambda s: s.check_sync_health(), **env)


def green(found: Health) -> bool:
    return (found.status, found.is_healthy, found.lag_minutes, found.missed_trades) == (
        "healthy", True, 0, 0)  # fmt: skip


def test_all_is_well_in_one_word(ponder: Ponder, source_url: str, analytics_url: str) -> None:
    add(source_url, trade("a", ago(60)))
    sync(source_url, analytics_url)
    found = health(source_url, analytics_url)
    assert green(found)
    assert found.message == "Complete."


def test_a_market_without_a_trade_for_hours_is_quiet_and_no_alarm(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("a", ago(3 * 3600)))
    sync(source_url, analytics_url)
    found = health(source_url, analytics_url)
    assert green(found)
    assert found.message == (
        "Complete. No trade for 3 h; Ponder is up to date, so the market is quiet.")  # fmt: skip


def test_a_source_that_cannot_tell_quiet_from_dead_says_so(
    source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("a", ago(3 * 3600)))
    sync(source_url, analytics_url)
    found = health(source_url, analytics_url)
    assert green(found)
    assert "No trade for 3 h; this source does not tell a quiet market" in found.message


def test_a_ponder_that_is_down_is_named_while_the_analytics_are_complete(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("a", ago(60)))
    sync(source_url, analytics_url)
    ponder.says(beat_seconds_ago=125 * 60)
    found = health(source_url, analytics_url)
    assert green(found)
    assert found.message == (
        "Complete. The source is stale: Ponder's last heartbeat was 2 h ago; it is down, or cut off "
        "from its database.")  # fmt: skip


def test_a_chain_that_stands_still_is_named_with_its_block(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("a", ago(60)))
    ponder.reaches(2, ago(40 * 60), block=77)
    sync(source_url, analytics_url)
    found = health(source_url, analytics_url)
    assert green(found)
    assert "The source is stale: Ponder has chain 2 at block 77, 40 min behind" in found.message
    late = health(
        source_url, analytics_url, SYNC_HEALTHY_LAG_MINUTES=50, SYNC_WARNING_LAG_MINUTES=60
    )
    assert late.message == "Complete."


def test_a_ponder_that_still_fills_its_tables_is_not_ready(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("a", ago(86400 * 9)))
    ponder.reaches(1, ago(86400 * 9), block=5)
    ponder.says(ready=0)
    sync(source_url, analytics_url)
    found = health(source_url, analytics_url)
    assert green(found)
    assert found.message == (
        "Complete. Ponder is not ready yet: it fills its tables, and has chain 1 at block 5, "
        "9 days behind the clock.")  # fmt: skip


def test_a_source_that_lacks_its_newest_trades_for_now_is_not_called_complete(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    """A redeployment swaps the views before the newest blocks are in, and nobody has looked since."""
    add(source_url, trade("a", ago(120)), trade("b", ago(60)))
    sync(source_url, analytics_url)
    execute(source_url, "DELETE FROM order_book_trades WHERE id = 'b'")
    ponder.reaches(1, ago(100), block=98)
    # Another process follows, so health relies on what that one has seen; it has not looked yet.
    execute(analytics_url, "UPDATE analytics.lease SET holder = 'other', following = true, "
            "expires_at = now() + interval '1 minute'")  # fmt: skip
    found = health(source_url, analytics_url)
    assert found.message.startswith("The source is being rebuilt; what it lacks for now is kept.")


def test_when_we_are_behind_the_source_is_cleared_of_it(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("a", (now := ago(0)) - 7200))
    sync(source_url, analytics_url)
    add(source_url, trade("b", now - 60))
    found = health(source_url, analytics_url)
    assert (found.is_healthy, found.missed_trades, found.recommendation) == (
        False, 1, "IMMEDIATE_SYNC_REQUIRED")  # fmt: skip
    assert found.message.startswith("1 trade missing; the analytics are 119 minutes behind")
    assert found.message.endswith("Ponder itself is up to date.")


def test_both_behind_are_both_told(ponder: Ponder, source_url: str, analytics_url: str) -> None:
    add(source_url, trade("a", (now := ago(0)) - 7200))
    sync(source_url, analytics_url)
    add(source_url, trade("b", now - 3600))
    ponder.says(beat_seconds_ago=3600)
    found = health(source_url, analytics_url)
    assert not found.is_healthy
    assert "1 trade missing; the analytics are 60 minutes behind." in found.message
    assert "The source is stale: Ponder's last heartbeat was 60 min ago" in found.message


def test_what_was_final_stays_final_while_ponder_starts_anew(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    """Its own table goes back for some seconds; what it once finalized does not."""
    add(source_url, trade("a", ago(60)))
    sync(source_url, analytics_url)
    ponder.reaches(1, ago(0), block=95)
    sync(source_url, analytics_url)
    (chain,) = health(source_url, analytics_url).chains
    assert (chain.complete_through_block, chain.finalized_block) == (95, 70)


def test_held_deletions_are_told_with_the_word_that_lets_them_go(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    """A deep reorg of a young tape looks like a table that was emptied: somebody has to say."""
    add(source_url, *(trade(f"t{i}", ago(60)) for i in range(300)))
    sync(source_url, analytics_url)
    execute(source_url, "DELETE FROM order_book_trades WHERE id LIKE 't1%'")
    sync(source_url, analytics_url)
    found = health(source_url, analytics_url)
    assert (found.status, found.held_deletions["count"]) == ("degraded", 111)
    assert found.message.startswith("111 trades are no longer in the source")
    assert "truetape sync --accept-deletions" in found.message
    ponder.says(ready=0)
    again = health(source_url, analytics_url).message
    assert again.startswith("The source is being rebuilt; what it lacks for now is kept.")


def test_an_empty_source_whose_ponder_is_down(
    ponder: Ponder, source_url: str, analytics_url: str
) -> None:
    ponder.says(beat_seconds_ago=600)
    found = health(source_url, analytics_url)
    assert green(found)
    assert found.message.startswith("The source holds no trades yet. The source is stale")


@pytest.mark.parametrize(
    "value", ["null", "{}", '{"is_ready": "1", "heartbeat_at": "soon"}', "[1]"]
)
def test_a_strange_note_of_ponder_breaks_nothing(
    ponder: Ponder, source_url: str, analytics_url: str, value: str
) -> None:
    add(source_url, trade("a", ago(60)))
    execute(source_url, f"UPDATE _ponder_meta SET value = '{value}'")
    assert sync(source_url, analytics_url).processed == 1
    assert health(source_url, analytics_url).message == "Complete."
