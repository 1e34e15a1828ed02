"""The gateway in front of services in other processes: what a client sees when they are well, and when not."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.upstream import HttpUpstream
from shared.testing.server import TestServer
from tests.gateway.conftest import Echo
from tests.gateway.upstreams import Visit, always, proxied, raw_service, says
from tests.gateway.world import World, running_world

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def apart(postgres_server: TestServer, start: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose service runs behind a socket."""

    def begin(settings: Any) -> Any:
        return proxied(start, settings.model_copy(update={"max_body_bytes": 64_000_000}), Echo())

    with running_world(postgres_server, begin, tmp_path_factory.mktemp("apart")) as running:
        yield running


def test_the_identity_crosses_the_socket_and_is_verified_there(apart: World, eventually: Callable[..., None]) -> None:
    eventually(apart.listening, "listening")
    key = apart.key("contacts:read")
    assert apart.front.get("/v1/private").status == 401
    forged = "Guardian-Identity: v1.forged"
    assert apart.front.get("/v1/private", f"Authorization: Bearer {key.text}", forged).status == 200
    principal = apart.principal()
    assert principal.actor_id == f"key-{key.public_id}"
    assert principal.scopes == frozenset({"contacts:read"})
    assert apart.front.header("authorization") == []


def test_large_bodies_pass_both_ways(apart: World) -> None:
    reply = apart.front.get(method="POST", body=b"x" * 20_000_000)
    assert reply.json["size"] == 20_000_000
    chunks = b"".join(b"10000\r\n" + b"y" * 0x10000 + b"\r\n" for _ in range(100)) + b"0\r\n\r\n"
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert apart.front.send(head + chunks).json["size"] == 6_553_600


@pytest.fixture
def front_of(start: Any, offline_settings: Any) -> Callable[..., Any]:
    """A gateway in front of a URL."""

    def begin(url: str, *args: Any, **fields: Any) -> Any:
        settings = offline_settings.model_copy(update=fields)
        return start(settings, *args, upstreams={"echo": HttpUpstream(url)})

    return begin


def test_a_service_that_is_away_is_503_and_comes_back(front_of: Any) -> None:
    with raw_service(always(OK)) as service:
        url = service.url
        with front_of(url) as front:
            assert front.get().body == b"ok"
    with front_of(url) as front:
        for method in ("GET", "POST"):
            reply = front.get(method=method, body=b"x" if method == "POST" else b"")
            assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "upstream_unavailable", "2")
            assert reply.json["request_id"] == reply.headers["x-request-id"]
            assert b"127.0.0.1" not in reply.body


def test_a_services_own_problem_passes_unchanged(front_of: Any) -> None:
    body = b'{"code":"insufficient_scope","request_id":"x"}'
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with raw_service(says(head + body)) as service, front_of(service.url) as front:
        reply = front.get()
        assert (reply.status, reply.code, reply.body) == (403, "insufficient_scope", body)


@pytest.mark.parametrize(
    "said", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_a_service_that_does_not_answer_properly_is_502(front_of: Any, said: bytes) -> None:
    with raw_service(says(said)) as service, front_of(service.url) as front:
        reply = front.get()
        assert (reply.status, reply.code) == (502, "bad_gateway")


@pytest.mark.parametrize("head", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
def test_a_service_that_dies_in_its_answer_breaks_the_clients_connection(front_of: Any, head: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n4\r\nhalf")
        await asyncio.sleep(0.05)
        visit.reset()

    with raw_service(script) as service, front_of(service.url) as front:
        reply = front.get()
        assert (reply.status, reply.complete, reply.closed) == (200, False, True)


def test_a_service_that_never_answers_is_504_and_its_connection_closed(front_of: Any) -> None:
    with raw_service(says(b"", close=False)) as service, front_of(service.url) as front:
        began = time.monotonic()
        reply = front.get()
        assert (reply.status, reply.code) == (504, "upstream_timeout")
        assert 0.4 < time.monotonic() - began < 3
        assert service.ended.wait(1)


def test_a_service_that_does_not_read_is_504(front_of: Any) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await asyncio.sleep(5)

    with raw_service(script) as service, front_of(service.url, max_body_bytes=100_000_000) as front:
        reply = front.get(method="POST", body=b"x" * 60_000_000)
        assert (reply.status, reply.code) == (504, "upstream_timeout")


def test_a_slow_upload_is_not_the_services_fault(front_of: Any, start: Any, limits: Any, read: Any) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.reader.readexactly(40_000)
        await visit.say(OK)

    with raw_service(script) as service, front_of(service.url, replace(limits, body_seconds=5)) as front:
        client = front.connect()
        client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(8):
            time.sleep(0.1)
            client.sendall(b"x" * 5000)
        assert read(client).body == b"ok"


@pytest.mark.parametrize("length, sent", [(0, 0), (5, 5), (40_000, 20_000)])
def test_a_client_that_leaves_closes_the_services_connection(front_of: Any, length: int, sent: int) -> None:
    with raw_service(says(b"", close=False)) as service, front_of(service.url, request_timeout_seconds=10) as front:
        client = front.connect()
        client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + b"x" * sent)
        assert service.asked.wait(2)
        client.close()
        assert service.ended.wait(2)


def test_an_early_answer_reaches_a_client_that_is_still_sending(front_of: Any, read: Any) -> None:
    with (
        raw_service(says(b"HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\nno")) as service,
        front_of(service.url) as front,
    ):
        client = front.connect()
        client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n" + b"x" * 20_000)
        reply = read(client, until_closed=True)
        assert (reply.status, reply.body) == (422, b"no")


@pytest.mark.parametrize("size, status", [(50_000, 200), (50_001, 413), (5_000_000, 413)])
def test_a_chunked_body_is_counted_on_its_way_to_the_service(
    start: Any, offline_settings: Any, size: int, status: int
) -> None:
    parts = [min(8192, size - at) for at in range(0, size, 8192)]
    body = b"".join(b"%x\r\n" % part + b"x" * part + b"\r\n" for part in parts) + b"0\r\n\r\n"
    with proxied(start, offline_settings, Echo()) as front:
        reply = front.send(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert reply.status == status
        if status == 413:
            assert (reply.code, reply.closed) == ("content_too_large", True)


def test_uploads_that_drip_hold_up_no_other_organization(apart: World, eventually: Callable[..., None]) -> None:
    eventually(apart.listening, "listening")
    dripping, honest = apart.key("contacts:read"), apart.key("contacts:read")
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n"
    clients = []
    for size in [1] * 30 + [20_000] * 10:
        client = apart.front.connect()
        client.sendall(head % dripping.text.encode() + b"%x\r\n" % size + b"x" * size + b"\r\n")
        clients.append(client)
    for size in (5, 60_000):
        began = time.monotonic()
        upload = b"%x\r\n" % size + b"y" * size + b"\r\n0\r\n\r\n"
        reply = apart.front.send(head % honest.text.encode() + upload)
        assert (reply.status, reply.json["size"]) == (200, size)
        assert time.monotonic() - began < 1
    refused = apart.front.send(head % dripping.text.encode() + b"5000\r\n" + b"y" * 0x5000 + b"\r\n")
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "upstream_busy", "2")
    for client in clients:
        client.close()


def test_the_pools_figures_are_on_the_metrics_page(front_of: Any) -> None:
    with raw_service(always(OK)) as service, front_of(service.url) as front:
        front.get()
        page = front.get("/metrics").body.decode()
        for state, value in (("open", 1), ("idle", 1), ("waiting", 0)):
            assert f'guardian_gateway_upstream_connections{{service="echo",state="{state}"}} {value}.0' in page


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ("actor_id = actor_id", 200, None),
        ("disabled = true", 401, "api_key_revoked"),
        ("scopes = '{}'", 503, "service_unavailable"),
    ],
)
def test_whose_rights_end_while_its_content_comes_slowly_is_refused(
    apart: World, read: Any, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    change: str, status: int, code: str | None,
) -> None:  # fmt: skip
    """Or a stolen key could be used for as long as a last byte may be held back."""
    monkeypatch.setattr("gateway.receiving._SLOW_SECONDS", 0)
    eventually(apart.listening, "listening")
    key, known = apart.key("contacts:read"), apart.front.gateway._parts.credentials.keys
    head = f"POST /v1/private HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key.text}\r\nContent-Length: 2\r\n\r\n"
    client = apart.front.connect()
    client.sendall(head.encode() + b"x")
    eventually(lambda: known.peek(key.public_id.encode()) is not None)
    apart.change(key, change)
    eventually(lambda: known.peek(key.public_id.encode()) is None)
    client.sendall(b"x")
    answer = read(client)
    assert (answer.status, answer.json.get("code")) == (status, code)
