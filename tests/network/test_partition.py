"""The leader's network is cut: does the other take over, does only one write, is every trade there once?"""

import random
import signal
import time

import pytest
from load import Load
from stage import WAYS, ServedOn, Stage
from test_sync import execute
from watch import WRITING, becomes_true, hands_over, leads, lease, shown, until

from testbed.hosts import Host
from truetape.store.lease import LEASE_SECONDS

pytest_plugins = ["staging"]


def cut_off_while_it_writes(stage: Stage, host: Host, way: str, draw: random.Random) -> None:
    """In the midst of a transaction, of which the server waits for more."""

    def is_cut_there() -> bool:
        time.sleep(draw.uniform(0, 0.3))
        stage.cut_off(host, stage.cluster.analytics.host, way)
        time.sleep(0.05)
        found = bool(execute(stage.analytics_url, WRITING)[0][0])
        if not found:
            stage.cluster.network.heal()
        return found

    until("cut off at such a moment", is_cut_there, 60)


# At rest it is the longest until another leads where one that hears nothing is still heard.
@pytest.mark.parametrize(
    "way, writing",
    [("it hears nothing", False), *((way, True) for way in WAYS)],
    ids=["at rest", *(f"while it writes, {way}" for way in WAYS)],
)
def test_a_leader_cut_off_from_the_analytics_is_replaced_in_five_seconds_and_writes_no_more(
    stage: Stage, two: tuple[ServedOn, ServedOn], way: str, writing: bool
) -> None:
    first, second = two
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with Load(stage.source_url) as load:
        load.grow(50)
        epoch = lease(stage.analytics_url)[1]
        if writing:
            first.post("/api/sync/force?wait=false", {"fromTimestamp": 1}, 202)
            cut_off_while_it_writes(stage, first.host, way, random.Random(seed))
        else:
            stage.cut_off(first.host, stage.cluster.analytics.host, way)
        hands_over(second, stage.analytics_url)
        began = time.monotonic()
        health = first.get("/api/sync/health", 503)
        assert "analytics" in health["error"]
        assert time.monotonic() - began < 2
        load.grow(100)
        stage.cluster.network.heal()
        first.until(lambda: '"leader.lost"' in first.log.read_text(), "knows that it does not lead")
        first.until(lambda: first.get("/api/sync/health"), "answers again", 20)
        load.grow(100)
        assert leads(second, stage.analytics_url)
        assert lease(stage.analytics_url)[1] == epoch + 1
        second.end(signal.SIGKILL)
        hands_over(first, stage.analytics_url)
    becomes_true(first, stage.source_url, stage.analytics_url)


def test_a_leader_cut_off_from_the_source_alone_says_so_and_goes_on_by_itself(
    stage: Stage, two: tuple[ServedOn, ServedOn]
) -> None:
    """It goes on leading, though the other could read the source: who leads is for the analytics to say."""
    first, second = two
    with Load(stage.source_url) as load:
        load.grow(50)
        stage.cut_off(first.host, stage.cluster.source.host)
        told = first.until(lambda: first.get("/api/sync/health", 503), "says so", 3)
        assert "source" in told["error"]
        load.grow(100)
        seen = second.until(lambda: second.health().get("missedTrades"), "the other counts", 10)
        assert seen > 50
        time.sleep(LEASE_SECONDS)
        assert leads(first, stage.analytics_url)
        stage.cluster.network.heal()
        before = shown(stage.analytics_url)
        first.until(lambda: shown(stage.analytics_url) > before, "goes on", 10)
    becomes_true(first, stage.source_url, stage.analytics_url)
    assert lease(stage.analytics_url)[1] == 1


def test_a_leader_cut_off_from_redis_alone_follows_as_before_and_tells_redis_later(
    stage: Stage, two: tuple[ServedOn, ServedOn]
) -> None:
    first, _ = two
    with Load(stage.source_url) as load:
        load.grow(50)
        until("Redis is told", stage.told)
        stage.cut_off(first.host, stage.cluster.valkey.host)
        first.until(lambda: first.health()["circuits"]["redis"] == "open", "says so", 20)
        for _ in range(3):
            before = shown(stage.analytics_url)
            load.grow(20)
            until("follows", lambda before=before: shown(stage.analytics_url) > before, 3)  # type: ignore[misc]
        stage.cluster.network.heal()
    becomes_true(first, stage.source_url, stage.analytics_url)
    published = execute(stage.analytics_url, "SELECT sequence FROM analytics.published ORDER BY 1")
    numbers = [number for (number,) in published]
    first.until(lambda: stage.told()[-1:] == numbers[-1:], "Redis is told the rest", 20)
    assert stage.told() == numbers == list(range(1, len(numbers) + 1))
