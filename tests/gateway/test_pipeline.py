"""Forwarding: identity, streaming, deadlines, failures and the headers of answers."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.routing import Route
from shared.auth import IdentityVerifier
from shared.errors import ServiceUnavailable
from tests.gateway.conftest import Echo
from tests.gateway.upstreams import proxied


@pytest.fixture(scope="module")
def hosted(start: Any, offline_settings: Any) -> Iterator[Any]:
    """A gateway with the service in its own process."""
    with start(offline_settings) as running:
        yield running


@pytest.fixture(scope="module")
def apart(start: Any, offline_settings: Any, hosted: Any) -> Iterator[Any]:
    """A gateway that reaches the same service over HTTP."""
    with proxied(start, offline_settings, hosted.echo) as running:
        yield running


@pytest.fixture(params=["hosted", "apart"])
def front(request: pytest.FixtureRequest) -> Any:
    """What follows is true wherever the service runs."""
    return request.getfixturevalue(request.param)


def test_the_service_gets_an_identity_addressed_to_it(front: Any, offline_settings: Any) -> None:
    reply = front.get("/v1/echo", "X-Request-Id: client-chosen-1")
    (header,) = front.header("guardian-identity")
    verifier = IdentityVerifier(offline_settings.derive_key, "echo", ["gateway"])
    principal = verifier.verify(header.encode(), time.time())
    assert principal.actor_type == "anonymous"
    assert principal.client_address == "127.0.0.1"
    assert principal.request_id == "client-chosen-1" == reply.headers["x-request-id"]
    assert front.header("x-request-id") == ["client-chosen-1"]


@pytest.mark.parametrize("bad", ["short", "has space in it", "x" * 200, "semi;colon;", "<script>alert</script>"])
def test_an_odd_request_id_is_replaced(front: Any, bad: str) -> None:
    reply = front.get("/v1/echo", f"X-Request-Id: {bad}")
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


def test_an_unknown_path_is_a_404_problem(front: Any) -> None:
    for path in ("/v1/echos", "/v2/echo", "/v1", "/nothing"):
        reply = front.get(path)
        assert (reply.status, reply.code) == (404, "unknown_path")
        assert reply.json["request_id"] == reply.headers["x-request-id"]
        assert reply.json["instance"] == path


def test_without_a_credential_a_private_operation_is_401(front: Any) -> None:
    reply = front.get("/v1/private")
    assert (reply.status, reply.code) == (401, "unauthenticated")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_security_headers_are_on_every_answer(front: Any) -> None:
    for path in ("/v1/echo", "/v1/private", "/nothing", "/livez", "/", "/v1/echo?do=raise"):
        headers = front.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "x-request-id" in headers
        assert re.fullmatch(r"gw;dur=[\d.]+, total;dur=[\d.]+", headers["server-timing"])
        assert "strict-transport-security" not in headers
        assert "server" not in headers
        assert "date" in headers


def test_answers_to_callers_are_not_stored_unless_the_service_says_so(front: Any) -> None:
    assert front.get("/v1/echo").headers["cache-control"] == "no-store"
    assert front.get("/v1/echo?do=headers").headers["cache-control"] == "max-age=60"
    assert front.get("/v1/private").headers["cache-control"] == "no-store"


def test_a_service_cannot_leak_internals_or_loosen_html(front: Any) -> None:
    headers = front.get("/v1/echo?do=headers").headers
    assert "server" not in headers
    assert "guardian-identity" not in headers
    assert headers["x-request-id"] != "another"
    assert "default-src 'self'" in headers["content-security-policy"]


def test_hsts_comes_with_production(start: Any, offline_settings: Any) -> None:
    settings = offline_settings.model_copy(update={"environment": "production"})
    with start(settings) as front:
        assert "max-age=63072000" in front.get().headers["strict-transport-security"]


def test_a_service_that_hangs_is_504_and_cancelled(front: Any, eventually: Callable[..., None]) -> None:
    front.echo.cancelled.clear()
    began = time.monotonic()
    reply = front.get("/v1/echo?do=hang")
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    assert 0.4 < time.monotonic() - began < 3
    eventually(front.echo.cancelled.is_set)


@pytest.mark.parametrize(
    "action, status, code",
    [("raise", 500, "internal_error"), ("refuse", 502, "bad_gateway"), ("nothing", 502, "bad_gateway")],
)
def test_a_service_that_fails_does_not_leak_why(hosted: Any, action: str, status: int, code: str) -> None:
    reply = hosted.get(f"/v1/echo?do={action}")
    assert (reply.status, reply.code) == (status, code)
    assert b"secret" not in reply.body
    assert reply.json["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("action", ["abort", "cut"])
def test_an_answer_broken_off_never_ends_cleanly(front: Any, action: str) -> None:
    reply = front.get(f"/v1/echo?do={action}")
    assert reply.status == 200
    assert not reply.complete
    assert reply.closed


def test_a_client_that_leaves_cancels_the_service(front: Any, raw: Any, eventually: Callable[..., None]) -> None:
    front.echo.cancelled.clear()
    front.echo.entered.clear()
    client = front.connect()
    client.sendall(raw("/v1/echo?do=hang"))
    eventually(front.echo.entered.is_set)
    client.close()
    began = time.monotonic()
    eventually(front.echo.cancelled.is_set)
    assert time.monotonic() - began < 0.4, "cancelled by the deadline, not by the client's leaving"


def test_bodies_stream_both_ways_without_waiting_for_the_end(front: Any) -> None:
    client = front.connect()
    client.sendall(b"POST /v1/echo?do=mirror HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.sendall(b"4e20\r\n" + b"x" * 20_000 + b"\r\n")  # more than is gathered for a service that is apart
    said = b""
    while said.count(b"x") < 20_000:
        said += client.recv(65536)
    assert b"200 OK" in said
    for piece in (b"first", b"second"):
        client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert piece in client.recv(65536)
    client.sendall(b"0\r\n\r\n")
    assert client.recv(65536).endswith(b"0\r\n\r\n")


def test_a_large_body_passes_through_without_being_held(start: Any, offline_settings: Any, read: Any) -> None:
    settings = offline_settings.model_copy(update={"max_body_bytes": 64_000_000})
    with start(settings) as front:
        reply = front.get(method="POST", body=b"x" * 20_000_000)
        assert reply.json["size"] == 20_000_000


def test_a_slow_upload_is_not_the_services_fault(start: Any, offline_settings: Any, limits: Any, read: Any) -> None:
    with start(offline_settings, replace(limits, body_seconds=5)) as front:
        client = front.connect()
        client.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.1)
            client.sendall(b"x")
        assert read(client).json["size"] == 8


def test_head_is_public_where_get_is(front: Any) -> None:
    reply = front.get(method="HEAD")
    assert reply.status == 200
    assert reply.body == b""


def test_in_flight_returns_to_zero_and_requests_are_counted(front: Any, eventually: Callable[..., None]) -> None:
    before = front.get("/metrics").body.decode()
    front.get("/v1/echo")
    front.get("/v1/echo?do=raise")
    after = front.get("/metrics").body.decode()
    for status in ("200", "500"):
        sample = f'guardian_gateway_requests_total{{method="GET",service="echo",status="{status}"}}'
        assert _figure(after, sample) == _figure(before, sample) + 1
    eventually(lambda: front.gateway._pipeline.in_flight == 0)


def _figure(text: str, sample: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(sample))


def test_routes_without_a_service_are_refused_at_the_start(start: Any, offline_settings: Any) -> None:
    from gateway.app import create_gateway

    with pytest.raises(ValueError, match="not there: ghost"):
        create_gateway(offline_settings, {}, [Route("/v1/ghosts", "ghost")])


class _Recorder:
    """A signature stage and a quota stage that write down what they are shown."""

    def __init__(self, on_answer: Any = None) -> None:
        self.calls: list[Any] = []
        self.released: list[Any] = []
        self.refuse = False
        self.on_answer = on_answer

    async def verify(self, call: Any, receive: Any) -> Any:
        self.calls.append(call)
        return receive, None, self.on_answer

    async def take(self, call: Any) -> Any:
        from gateway.stages import Taken
        from shared.errors import QuotaExceeded

        refusal = QuotaExceeded("Enough for today.", retry_after=7) if self.refuse else None
        return Taken([(b"ratelimit", b'"day";r=5;t=9')], lambda status: self.released.append((call, status)), refusal)


def test_the_stages_for_signatures_and_quotas_are_asked(start: Any, offline_settings: Any) -> None:
    stage = _Recorder()
    with start(offline_settings, signatures=stage, quotas=stage) as front:
        reply = front.get("/v1/echo/a?x=1", "Signature: x")
        assert reply.headers["ratelimit"] == '"day";r=5;t=9'
        (call,) = stage.calls
        assert (call.method, call.raw_path, call.query_string) == ("GET", b"/v1/echo/a", b"x=1")
        assert call.route.service == "echo"
        assert (b"signature", b"x") in call.headers
        stage.refuse = True
        reply = front.get("/v1/echo")
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "quota_exceeded", "7")


@pytest.mark.parametrize("apart", [False, True])
def test_an_answer_that_cannot_be_made_final_is_not_given(start: Any, offline_settings: Any, apart: bool) -> None:
    told = []

    async def on_answer(status: int, headers: Any) -> None:
        told.append(status)
        if len(told) == 1:
            raise ServiceUnavailable("The answer cannot be made final right now; try again shortly.")

    stage = _Recorder(on_answer)
    alone = start(offline_settings, signatures=stage)
    with proxied(start, offline_settings, Echo(), signatures=stage) if apart else alone as front:
        reply = front.get("/v1/echo")
        assert (reply.status, reply.code) == (503, "service_unavailable")
        assert int(reply.headers["retry-after"]) > 0
        assert front.get("/v1/echo").status == 200
    assert told == [200, 200]
