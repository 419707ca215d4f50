"""More calls, connections and half requests than anybody should send: health answers all the same."""

import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from served import Served
from test_sync import add, trade

from truetape.api.load import CALLS_AT_ONCE, REQUEST_SECONDS, UNREAD_SECONDS

CONNECTIONS = 1_000


@pytest.fixture
def served(source_url: str, analytics_url: str, tmp_path: Path) -> Iterator[Served]:
    add(source_url, trade("t1", 1754400000))
    service = Served(
        tmp_path / "serve.log",
        PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url,
        TRUETAPE_API_TOKEN="a token for the tests",
    )  # fmt: skip
    service.start()
    service.until_complete()
    yield service
    assert service.end() == 0


def connected(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=60)


def test_who_calls_too_fast_is_told_when_to_come_back(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    refused = None
    # The limit gives calls back while we ask; a missing page is the quickest of answers.
    for _ in range(CALLS_AT_ONCE * 20):
        connection.request("GET", "/nothing-here")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 429:
            refused = answer
            break
        assert answer.status == 404
    assert refused is not None, "never refused"
    assert refused.headers["Retry-After"] == "1"
    assert b'"error"' in body
    assert served.get("/livez") == {"status": "ok"}, "a supervisor's probe always gets in"
    time.sleep(1)
    assert served.health()["isHealthy"]


def test_guesses_at_the_token_count_as_calls(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    seen = set()
    for _ in range(CALLS_AT_ONCE * 20):
        # Another address in a header is not believed.
        connection.request("POST", "/api/sync/run", headers={
            "Authorization": "Bearer guess", "X-Forwarded-For": "10.0.0.1",
        })  # fmt: skip
        answer = connection.getresponse()
        answer.read()
        seen.add(answer.status)
        if answer.status == 429:
            break
    assert seen == {401, 429}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_many_who_ask_for_health_at_once_are_all_told_the_truth(served: Served) -> None:
    said: list[tuple[int, str]] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        for _ in range(3):
            connection.request("GET", "/api/sync/health")
            answer = connection.getresponse()
            said.append((answer.status, json.load(answer)["message"]))

    askers = [threading.Thread(target=ask) for _ in range(150)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(said) == 450
    assert {status for status, _ in said} == {200}, said
    assert served.process is not None
    assert served.process.poll() is None


def test_who_does_not_read_is_hung_up_on(served: Served) -> None:
    """And nobody else is: it is the operating system that holds what was not read."""
    request = b"GET /static/vendor/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert served.process is not None
    descriptors = Path(f"/proc/{served.process.pid}/fd")
    with ExitStack() as stack:
        before = len(list(descriptors.iterdir()))
        for _ in range(20):
            stack.enter_context(connected(served)).sendall(request * 12)
        served.until(lambda: len(list(descriptors.iterdir())) >= before + 20, "they are served")
        served.until(
            lambda: len(list(descriptors.iterdir())) < before + 10, "hung up on", UNREAD_SECONDS * 2
        )
    assert served.health()["isHealthy"]


def test_idle_connections_and_half_requests_leave_health_answering_and_are_hung_up_on(
    served: Served,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CONNECTIONS), hard))
    try:
        with ExitStack() as stack:
            sockets = [stack.enter_context(connected(served)) for _ in range(CONNECTIONS)]
            # A third says nothing, a third half a head, a third half a body.
            for half_head in sockets[::3]:
                half_head.sendall(b"GET /api/sync/health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            for half_body in sockets[1::3]:
                half_body.sendall(
                    b"POST /api/sync/run HTTP/1.1\r\nHost: localhost\r\n"
                    b"Authorization: Bearer a token for the tests\r\n"
                    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
                )
            began = time.monotonic()
            while time.monotonic() < began + REQUEST_SECONDS / 2:
                asked = time.monotonic()
                assert served.health()["isHealthy"]
                assert time.monotonic() - asked < 2
                for half_head in sockets[::3]:
                    half_head.sendall(b".")  # slowly, so as not to seem idle
                time.sleep(0.5)
            for waiting in sockets:
                waiting.settimeout(REQUEST_SECONDS * 2)
                with suppress(ConnectionResetError):
                    assert waiting.recv(1) == b"", "hung up on without an answer"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stream_and_a_kept_connection_are_not_hung_up_on(served: Served) -> None:
    stream = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    stream.request("GET", "/api/stream")
    events = stream.getresponse()
    assert events.status == 200
    kept = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    port = None
    began = time.monotonic()
    while time.monotonic() < began + REQUEST_SECONDS + 2:
        kept.request("GET", "/livez")
        assert kept.getresponse().read()
        assert kept.sock is not None
        port = port or kept.sock.getsockname()[1]
        assert kept.sock.getsockname()[1] == port, "it is still the same connection"
        time.sleep(1)
    assert events.fp is not None
    assert not events.isclosed()
    stream.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        while stream.sock.recv(1000):  # comments and events, but no end
            pass
