"""What the histories (tests/histories) have found, each as short as it can be told."""

import asyncio
import secrets
from typing import Any

import pytest
from oracle import differences
from system import Cutter, System
from test_sync import add, execute, sync, trade, with_service

from truetape import DataSyncService
from truetape.errors import UnreadableError
from truetape.source import Source
from truetape.trade import MINUTE, Slice

BASE = 1754400000
POSITION = """
CREATE TABLE _ponder_checkpoint (chain_name text PRIMARY KEY, chain_id bigint,
    safe_checkpoint varchar(75), latest_checkpoint varchar(75), finalized_checkpoint varchar(75))
"""


def test_a_trade_that_was_missed_and_then_vanished_is_missed_no_longer(
    source_url: str, analytics_url: str
) -> None:
    """It stood before all that either side holds, and nobody looked there again."""
    add(source_url, trade("early", BASE - 10**6), trade("t", BASE))

    async def story(service: DataSyncService) -> None:
        assert (await service.check_sync_health()).missed_trades == 2
        await asyncio.to_thread(
            execute, source_url, "DELETE FROM order_book_trades WHERE id = 'early'"
        )
        assert (await service.sync_missed_data()).processed == 1
        health = await service.check_sync_health()
        assert (health.missed_trades, health.lag_minutes) == (0, 0), health

    with_service(source_url, analytics_url, story)


def test_the_window_of_a_chain_that_has_finalized_nothing_does_not_start_in_1970(
    source_url: str, analytics_url: str
) -> None:
    """Half a century was surveyed, every half minute."""
    execute(source_url, POSITION)
    nothing, here = "0" * 75, f"{BASE:010d}{1:016d}{5:016d}{0:033d}"
    execute(
        source_url, f"INSERT INTO _ponder_checkpoint VALUES ('1', 1, '{nothing}', '{here}', '{nothing}')"
    )  # fmt: skip
    add(source_url, trade("t", BASE))
    sync(source_url, analytics_url)
    surveys = 0

    async def story(system: System) -> None:
        source = system._reconciler.source
        look = source.look

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal surveys
            surveys += 1
            return look(*args, **kwargs)

        source.look = counted  # type: ignore[method-assign]

    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()
    system.do(story(system))
    system.look(["window"])
    system.close()
    assert 0 < surveys < 10


def test_a_figure_forged_where_there_are_no_trades_is_found(
    source_url: str, analytics_url: str
) -> None:
    add(source_url, trade("t", BASE))
    sync(source_url, analytics_url)
    for table in ("candles_1m", "hourly_aggregations"):
        execute(
            analytics_url,
            f"INSERT INTO analytics.{table} SELECT * FROM jsonb_populate_record("
            f'(SELECT c FROM analytics.{table} c), \'{{"bucket": "2031-01-01T00:00:00Z"}}\')',
        )
    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()
    found = system.run("verify").result
    assert found is not None
    assert not found["complete"]
    system.scrub_all()
    verified = system.run("verify").result
    assert verified is not None
    assert verified["complete"]
    system.close()
    assert differences(source_url, analytics_url) == []


def test_two_looks_at_once_at_rows_with_impossible_times(
    source_url: str, analytics_url: str
) -> None:
    """Both noted that the sides differ, and the second failed on the note of the first."""
    add(source_url, trade("t", BASE))
    sync(source_url, analytics_url)
    add(source_url, trade("never", -1))

    async def story(system: System) -> None:
        for _ in range(5):
            differ = system._reconciler.impossible_differs
            found = await asyncio.gather(*(differ() for _ in range(2)))
            assert all(found)

    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()
    system.do(story(system))
    system.close()


def test_what_others_take_in_while_it_is_counted_is_compared_by_its_rows(
    source_url: str, analytics_url: str
) -> None:
    """Where nothing was held when it began, a survey only counts; an equal count would say too much."""
    add(source_url, trade("t", BASE))
    sync(source_url, analytics_url)
    execute(source_url, "UPDATE order_book_trades SET price = price + 1")
    part = Slice(BASE // MINUTE * MINUTE, BASE // MINUTE * MINUTE + MINUTE)

    async def story(system: System) -> None:
        for held in (True, False):
            minutes = await system._reconciler._compare(
                part, [part], asyncio.Event(), held, hashed=True, rehash=False, note=True
            )
            assert [(m.theirs, m.ours, m.differs) for m in minutes] == [(1, 1, True)]

    system = System(source_url, analytics_url, "public", Cutter())
    system.restart()
    system.do(story(system))
    system.close()


def test_a_schema_whose_usage_is_revoked_under_way_is_told_with_the_grant(source_url: str) -> None:
    """Ponder makes its schema anew at a deploy; the rights on it go with the old one."""
    role = f"user_{secrets.token_hex(4)}"
    execute(source_url, f"CREATE SCHEMA p; CREATE ROLE {role} LOGIN PASSWORD 'r'")
    for table in ("order_book_trades", "pools"):
        execute(source_url, f"ALTER TABLE {table} SET SCHEMA p")
    allow = f"GRANT USAGE ON SCHEMA p TO {role}"
    execute(source_url, f"{allow}; GRANT SELECT ON ALL TABLES IN SCHEMA p TO {role}")
    url = source_url.replace(source_url.split("//")[1].split("@")[0], f"{role}:r")

    async def run() -> None:
        async with Source.open(url) as source:
            assert (await source.newest.tail(1)).news.rows == 0
            execute(source_url, f"REVOKE USAGE ON SCHEMA p FROM {role}")
            with pytest.raises(UnreadableError, match="GRANT USAGE ON SCHEMA"):
                await source.newest.tail(1)
            with pytest.raises(UnreadableError, match="GRANT USAGE ON SCHEMA"):
                async with source.look():
                    pass
            execute(source_url, allow)
            assert (await source.newest.tail(1)).news.rows == 0

    try:
        asyncio.run(run())
    finally:
        execute(source_url, f"DROP OWNED BY {role}; DROP ROLE {role}")
