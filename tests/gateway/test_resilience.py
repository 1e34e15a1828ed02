"""The guard in a running gateway: what clients see of a service that is away or too slow, and of a gateway in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.guards import AT_ONCE, LEAST_CALLS, PATIENCE_SECONDS, SHARES
from gateway.shedding import Priority
from gateway.upstream import HttpUpstream
from tests.gateway.upstreams import Visit, always, raw_service

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def front_of(start: Any, offline_settings: Any) -> Callable[..., Any]:
    """A gateway in front of a URL."""

    def begin(url: str, **fields: Any) -> Any:
        settings = offline_settings.model_copy(update=fields)
        return start(settings, upstreams={"echo": HttpUpstream(url)})

    return begin


def test_a_service_that_is_away_is_left_alone_and_found_again(front_of: Any, eventually: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with front_of(f"http://127.0.0.1:{port}") as front:
        waits = []
        for _ in range(LEAST_CALLS + 5):
            reply = front.get()
            assert (reply.status, reply.code) == (503, "upstream_unavailable")
            waits.append(reply.headers["retry-after"])
        assert Counter(waits) == {"2": LEAST_CALLS, "1": 5}  # the last ones did not even try
        with raw_service(always(OK), port=port):
            eventually(lambda: front.get().status == 200, "a good answer")
            assert [front.get().status for _ in range(20)] == [200] * 20


def test_a_service_that_hangs_holds_up_so_many_and_no_more(front_of: Any) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await asyncio.sleep(30)

    inside = int(AT_ONCE * SHARES[Priority.INTERACTIVE])
    with (
        raw_service(script) as service,
        front_of(service.url, request_timeout_seconds=PATIENCE_SECONDS + 1.5) as front,
        ThreadPoolExecutor(2 * AT_ONCE + 20) as threads,
    ):
        began = time.monotonic()
        replies = list(threads.map(lambda _: front.get(), range(inside + AT_ONCE + 10)))
        assert Counter((reply.status, reply.code) for reply in replies) == {
            (504, "upstream_timeout"): inside,
            (503, "overloaded"): AT_ONCE + 10,
        }
        assert {reply.headers["retry-after"] for reply in replies if reply.status == 503} == {"1"}
        assert time.monotonic() - began > PATIENCE_SECONDS
        assert front.get("/livez").status == 200


def test_where_nobody_more_may_wait_nothing_is_spent_on_a_request(
    front_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a look at who asks."""
    with raw_service(always(OK)) as service, front_of(service.url) as front:
        bulkhead = front.gateway._pipeline.guards["echo"].bulkhead
        assert front.get("/v1/private").status == 401
        queue = [(Priority.INTERACTIVE, number, None, 0.0) for number in range(AT_ONCE)]
        monkeypatch.setattr(bulkhead, "_queue", queue)
        assert (front.get("/v1/private").code, len(queue)) == ("overloaded", AT_ONCE)
        queue[-1] = (Priority.BULK, AT_ONCE, None, 0.0)
        assert front.get("/v1/private").status == 401
        monkeypatch.undo()
        assert front.get().status == 200


def test_an_answer_that_has_begun_holds_up_nobody(front_of: Any) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n")
        await asyncio.sleep(30)

    with raw_service(script) as service, front_of(service.url) as front:
        readers = [front.connect() for _ in range(2 * AT_ONCE + 10)]  # more than there are kept connections, too
        for reader in readers:
            reader.sendall(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n")
            assert reader.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_service_is_told_how_long_somebody_waits_however_slow_the_content_came(front_of: Any) -> None:
    seen: list[bytes] = []

    async def script(visit: Visit) -> None:
        seen.append(await visit.head())
        await visit.say(OK)

    with raw_service(script) as service, front_of(service.url, request_timeout_seconds=0.5) as front:
        client = front.connect()
        client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{")
        time.sleep(0.1)
        client.sendall(b"}")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert b"guardian-timeout-ms: 500\r\n" in seen[0]


def test_a_gateway_in_trouble_refuses_before_it_asks_anybody(front_of: Any) -> None:
    with raw_service(always(OK)) as service, front_of(service.url) as front:

        async def late() -> None:
            shedder = front.gateway._pipeline.shedder
            shedder.stop()
            shedder.share = 0.5

        front.call(late)
        seen = Counter(front.get().status for _ in range(100))
        assert set(seen) == {200, 503}
        assert 20 < seen[503] < 80
        assert b'guardian_gateway_shed_total{priority="interactive"}' in front.get("/metrics").body


def test_for_a_client_that_reads_no_answers_nothing_more_is_begun(front_of: Any) -> None:
    asked = 0
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000

    async def script(visit: Visit) -> None:
        nonlocal asked
        while True:
            await visit.head()
            asked += 1
            await visit.say(answer)

    with raw_service(script) as service, front_of(service.url) as front:
        client = front.connect()
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(100):
                client.sendall(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        before = -1
        while before != asked:
            before = asked
            time.sleep(0.3)
        assert 0 < asked < 500  # what the kernel holds for both sides, and no more
