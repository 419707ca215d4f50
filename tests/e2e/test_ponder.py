"""Ponder, real: does every trade get into the analytics once, whatever Ponder goes through?"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from served import PATIENCE
from stack import GRANTS, PONDER_SECONDS, Stack, install, missing_tools, query, until


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    if (why := missing_tools()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(f"make e2e was not run: {why}")
    install()
    # A folder of its own: the servers are run by another user when we are root, and every run of
    # pytest makes the folder of all runs private again.
    with TemporaryDirectory(prefix="truetape-e2e-") as home:
        Path(home).chmod(0o711)
        with Stack(Path(home)) as started:
            yield started


def test_the_history_from_block_0(stack: Stack) -> None:
    stack.settle()
    assert stack.shown() > 100
    assert stack.tape.run("verify").returncode == 0


def test_the_doctor_finds_all_in_order(stack: Stack) -> None:
    """With a role that may only read, and a Redis-compatible server."""
    done = stack.tape.run("doctor", "--json")
    assert [c for c in json.loads(done.stdout) if c["verdict"] == "bad"] == []
    assert done.returncode == 0
    found = {c["about"]: c for c in json.loads(done.stdout)}
    for about in ("ponder build", "ponder position", "source rights", "source rights to come", "redis",
                  "source index on order_book_trades", "source index on trades"):  # fmt: skip
        assert found[about]["verdict"] == "good", found[about]


def test_live(stack: Stack) -> None:
    stack.local("trade", "--rate", "5", "--blocks", "5")
    stack.settle()


def test_many_trades_a_block(stack: Stack) -> None:
    stack.local("trade", "--rate", "40", "--blocks", "3")
    stack.settle()


@pytest.mark.parametrize("depth", [1, 5, 30])
def test_a_reorg(stack: Stack, depth: int) -> None:
    stack.local("trade", "--blocks", "35", "--rate", "1", "--step", "1")
    stack.settle()
    before = stack.matches()
    stack.local("reorg", "--depth", str(depth), "--trades", "4")
    assert before - stack.matches(), "the reorg took trades away"
    stack.settle()


def test_a_chain_that_is_days_behind(stack: Stack) -> None:
    stack.local("trade", "--chain", "beta", "--rate", "3", "--blocks", "4")
    stack.settle()


def test_a_reorg_of_a_chain_that_is_days_behind(stack: Stack) -> None:
    stack.local("trade", "--chain", "beta", "--rate", "2", "--blocks", "6", "--step", "1")
    stack.settle()
    stack.local("reorg", "--chain", "beta", "--depth", "5")
    stack.settle()


def test_both_chains_trade_and_reorg_at_once(stack: Stack) -> None:
    with (
        stack.meanwhile("trade", "--chain", "alpha", "--rate", "5", "--blocks", "6"),
        stack.meanwhile("trade", "--chain", "beta", "--rate", "5", "--blocks", "6"),
    ):
        time.sleep(2.5)
        stack.local("reorg", "--chain", "alpha", "--depth", "2")
        stack.local("reorg", "--chain", "beta", "--depth", "2")
    stack.settle()


def test_kill_9_of_ponder_in_the_midst_of_trading(stack: Stack) -> None:
    """A new one takes back all that is not final, and brings it again seconds later: no figure falls.
    Until then health is green, and says that it is the source that stands still."""
    stack.local("trade", "--rate", "3", "--blocks", "10", "--step", "1")
    stack.settle()

    def is_told() -> bool:
        health = stack.tape.health()
        return bool(health["isHealthy"] and "Ponder's last heartbeat" in health["message"])

    with stack.no_dip():
        with stack.meanwhile("trade", "--rate", "20", "--blocks", "3"):
            time.sleep(1.6)
            stack.kill_ponder()
        until("a stale source in health", is_told)
        stack.local("restart", "--hard")
        stack.ponder_arrives()
    stack.settle()


def test_kill_9_of_ponder_in_the_midst_of_a_reorg(stack: Stack) -> None:
    """Between the deleting of the old blocks and the last of the new ones."""
    stack.local("trade", "--rate", "3", "--blocks", "10", "--step", "1")
    stack.settle()
    before = stack.source_ids()
    with stack.meanwhile("reorg", "--depth", "5"):
        until("the reorg", lambda: before - stack.source_ids(), pause=0.01)
        stack.kill_ponder()
    stack.local("restart")
    stack.settle()


def test_a_redeploy(stack: Stack) -> None:
    """Into a new schema: the views are swapped before the newest blocks are in it."""
    stack.local("trade", "--rate", "3", "--blocks", "10", "--step", "1")
    stack.settle()
    with stack.no_dip():
        stack.local("redeploy")
        stack.local("trade", "--rate", "3", "--blocks", "2")
        stack.ponder_arrives()
    stack.settle()


def test_a_redeploy_while_truetape_is_down(stack: Stack) -> None:
    stack.local("trade", "--rate", "3", "--blocks", "10", "--step", "1")
    stack.settle()
    with stack.no_dip():
        stack.tape.stop()
        stack.local("redeploy")
        stack.tape.start()
        stack.local("trade", "--rate", "3", "--blocks", "2")
        stack.ponder_arrives()
    stack.settle()


def test_a_redeploy_that_loses_the_grants(stack: Stack) -> None:
    """Dropped views take their grants along; health says which GRANT to run, and goes on after it."""
    revoke = GRANTS[1].replace("GRANT", "REVOKE").replace(" TO ", " FROM ")
    query(stack.ponder_url, revoke)
    stack.local("redeploy")
    query(stack.ponder_url, GRANTS[1])

    def says() -> str:
        answer = stack.tape.health_text()
        return answer if "GRANT SELECT ON" in answer else ""

    until("the GRANT in health", says)
    query(stack.ponder_url, "GRANT SELECT ON ALL TABLES IN SCHEMA order_book TO reader")
    stack.local("trade", "--rate", "3", "--blocks", "2")
    stack.settle()


@pytest.mark.parametrize("moment", range(3))
def test_kill_9_of_truetape(stack: Stack, moment: int) -> None:
    """While trades stream in, at three moments of its work."""
    with stack.meanwhile("trade", "--rate", "20", "--blocks", "4"):
        time.sleep(1.2 + 0.17 * moment)
        stack.tape.kill()
        stack.local("reorg", "--depth", "1")
        stack.tape.start()
    stack.settle()


def test_kill_9_of_truetape_in_its_first_catch_up(stack: Stack) -> None:
    fresh = stack.truetape("killed_early")
    fresh.start()
    for _ in range(3):
        fresh.kill()
        fresh.start()
    fresh.stop(signal.SIGINT)
    assert fresh.run("sync").returncode == 0
    assert fresh.run("verify").returncode == 0


BULK = 600_000
"""Trades of an old history, put in by hand to make a catch-up last."""


def test_a_reorg_during_a_catch_up_is_hardly_delayed(stack: Stack) -> None:
    """Ponder's reorg needs its tables for itself: our reads make it wait for less than half a second."""
    stack.local("trade", "--rate", "3", "--blocks", "8", "--step", "1")
    stack.settle()
    stack.tape.stop()
    fresh = stack.truetape("guest")
    try:
        with stack.more_history(BULK):
            fresh.start()
            until("some of it", lambda: stack.shown(fresh) > BULK / 20)
            with stack.ponder_waits() as waits:
                for _ in range(3):
                    stack.local("reorg", "--depth", "5")
                    until(
                        "Ponder at the heads",
                        lambda: stack.reached() == stack.heads(),
                        PONDER_SECONDS,
                    )
            assert stack.shown(fresh) < BULK, (
                "the catch-up was over too soon to be in anybody's way"
            )
            assert sum(waits.values()) < 3 * 0.5, waits
            assert max(waits.values(), default=0) < 0.5 * PATIENCE, waits
    finally:
        fresh.stop()
        stack.tape.start()  # The tests after this one have it in common.
    stack.settle()
