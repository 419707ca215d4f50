"""The limits that keep us from being overloaded, without a server."""

import pytest

from truetape.api.load import ADDRESSES_MAX, CallLimit, needs
from truetape.circuit import FAULTS, PROBE_SECONDS, Circuit


def test_an_address_may_come_at_once_so_often_and_then_as_fast_as_calls_are_given_back() -> None:
    limit = CallLimit(per_second=10, at_once=5)
    assert [limit.wait_for("a", 0.0) for _ in range(5)] == [0.0] * 5
    assert limit.wait_for("a", 0.0) == pytest.approx(0.1)
    assert limit.wait_for("a", 0.05) == pytest.approx(0.05)
    assert limit.wait_for("a", 0.1) == 0.0
    assert limit.wait_for("a", 0.1) > 0
    assert [limit.wait_for("a", 60.0) for _ in range(6)][4:] == [0.0, pytest.approx(0.1)]


def test_one_address_takes_nothing_from_another_and_the_quiet_ones_are_forgotten() -> None:
    limit = CallLimit(per_second=1, at_once=1)
    assert limit.wait_for("first", 0.0) == 0.0
    assert limit.wait_for("first", 0.0) > 0
    for number in range(ADDRESSES_MAX):
        assert limit.wait_for(f"other {number}", 0.0) == 0.0
    assert limit.wait_for("first", 0.0) == 0.0, "it was forgotten"


def test_a_circuit_opens_after_faults_in_a_row_and_lets_one_caller_try_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("truetape.circuit.time.monotonic", lambda: now)
    circuit = Circuit("source")
    for _ in range(2):
        for _ in range(FAULTS - 1):
            circuit.failed("away")
        assert circuit.lets_through()
        circuit.succeeded()
    for _ in range(FAULTS):
        circuit.failed("away")
    assert (circuit.state, circuit.why) == ("open", "away")
    assert not circuit.lets_through()
    now += PROBE_SECONDS
    assert [circuit.lets_through() for _ in range(3)] == [True, False, False]
    circuit.succeeded()
    assert circuit.state == "closed"
    assert all(circuit.lets_through() for _ in range(3))


@pytest.mark.parametrize(
    ("path", "servers"),
    [
        ("/", ()),
        ("/livez", ()),
        ("/api/sync/health", ()),
        ("/api/market/candles", ("analytics",)),
        ("/api/sync/runs/7", ("analytics",)),
        ("/api/sync/verify", ("analytics", "source")),
    ],
)
def test_a_call_needs_the_servers_that_it_reads(path: str, servers: tuple[str, ...]) -> None:
    assert needs(path) == servers
