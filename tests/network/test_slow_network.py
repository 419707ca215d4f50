"""The network is slow and loses packets: does the sync go on, under one leader, with every trade once?"""

import time

import pytest
from load import Load
from stage import ServedOn, Stage
from watch import becomes_true, lease, shown, until

pytest_plugins = ["staging"]

SLOW_SECONDS = 20


@pytest.mark.parametrize("delay, loss", [(0.1, 0.05), (0.2, 0.1)])
def test_late_and_lost_packets_change_no_leader_and_lose_no_trade(
    delay: float, loss: float, stage: Stage, two: tuple[ServedOn, ServedOn]
) -> None:
    """Each way: an exchange takes twice that, and one in ten, or in five, takes a second more."""
    first, second = two
    network, url = stage.cluster.network, stage.analytics_url
    with Load(stage.source_url) as load:
        load.grow(50)
        with network.slow(
            first.host, second.host, delay=delay, jitter=delay / 4, loss=loss
        ) as line:
            before = shown(url)
            time.sleep(SLOW_SECONDS)
            until("has followed meanwhile", lambda: shown(url) > before, SLOW_SECONDS)
        assert line.lost
        before = shown(url)
        until("goes on", lambda: shown(url) > before, 10)
    becomes_true(first, stage.source_url, url)
    assert lease(url)[1] == 1, "another has led"
    assert '"leader.lost"' not in first.log.read_text()
