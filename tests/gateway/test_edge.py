"""Host, path, headers and body limits: what a client sends and what a service sees of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import HeaderRules, PathAndHost
from shared.errors import BadRequest


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin/x",
        "/v1/echo/..",
        "/v1/./echo",
        "/v1/echo/.",
        "/v1/%2e%2e/admin%2fx",
        "/v1/%2E%2e/echo",
        "/v1/.%2e/echo",
        "/v1/..;/admin",
        "/v1/echo%2fx",
        "/v1/echo%2Fx",
        "/v1/echo%5cx",
        "/v1/echo\\x",
        "/v1/echo%00",
        "/v1/echo%0d%0aX:1",
        "/v1/echo%7f",
        "/v1/echo/%252e%252e/x",
        "/v1/echo%252fx",
        "/v1/echo%",
        "/v1/echo%4",
        "/v1/echo%zz",
        "/v1/echo/%ff%fe",
        "/v1/echo#fragment",
        "/../v1/echo",
    ],
)
def test_ambiguous_paths_are_refused_before_routing(front: Any, path: str) -> None:
    seen = len(front.echo.seen)
    reply = front.get(path)
    assert reply.status == 400
    assert reply.code in ("invalid_path", "bad_request")
    assert len(front.echo.seen) == seen


@pytest.mark.parametrize(
    "path", ["/v1/echo/...", "/v1/echo/a..b", "/v1/echo/.hidden", "/v1/echo/%C3%A9", "/v1/echo/a%20b"]
)
def test_unambiguous_paths_pass(front: Any, path: str) -> None:
    assert front.get(path).status == 200


@pytest.mark.parametrize(
    "host", ["", "a b", "a,b", "user@a", "a/b", "a:port", "a:123456", "[::1", "http://a", "-", "a" * 300, "a?b"]
)
def test_hosts_that_are_none_are_refused(front: Any, host: str) -> None:
    reply = front.send(f"GET /v1/echo HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert reply.status == 400
    assert reply.code == "bad_request"


@pytest.mark.parametrize("host", ["a", "a.example:8080", "127.0.0.1:1", "[::1]:8080", "svc_a.internal"])
def test_hosts_pass(front: Any, host: str) -> None:
    assert front.send(f"GET /v1/echo HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).status == 200
    assert front.header("host") == [host]


@pytest.mark.parametrize(
    "line",
    [
        "Guardian-Identity: v1.gateway.eyJ9.x",
        "guardian-anything: 1",
        "X-Guardian-User: 1",
        "X-Tenant-Id: 1",
        "x_tenant_id: 1",
        "Guardian_Identity: 1",
        "X-Organization-Id: 1",
        "X-User-Id: 1",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-User: root",
        "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "Authorization: Bearer gdn_live_x",
        "Cookie: theme=dark; other=1",
        "Connection: X-Named, close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "TE: trailers",
        "Trailer: X-Late",
        "Upgrade: h2c",
        "Baggage: userId=alice",
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /admin",
        "Expect: something",
    ],
)
def test_what_clients_say_about_themselves_never_passes(front: Any, line: str) -> None:
    name = line.partition(":")[0].lower()
    reply = front.get("/v1/echo", line, "X-Named: 1", "X-Kept: 1")
    assert reply.status == 200
    if name == "guardian-identity":
        assert front.header(name) != ["v1.gateway.eyJ9.x"]
        assert len(front.header(name)) == 1
    else:
        assert front.header(name) == []
    assert front.header("x-kept") == ["1"]
    assert front.header("x-named") == ([] if name == "connection" else ["1"])


def test_connection_cannot_remove_what_frames_the_request(front: Any) -> None:
    front.get("/v1/echo", "Connection: Host, Content-Length, Content-Type", "Content-Type: text/plain")
    assert front.header("host") == ["api.example"]
    assert front.header("content-type") == ["text/plain"]


def test_the_service_learns_the_real_address_not_a_claimed_one(front: Any) -> None:
    front.get("/v1/echo", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6")
    assert front.last["client"][0] == "127.0.0.1"


def test_a_body_at_the_limit_passes_and_one_byte_more_is_413(front: Any) -> None:
    assert front.get(method="POST", body=b"x" * 50_000).json["size"] == 50_000
    reply = front.get(method="POST", body=b"x" * 50_001)
    assert (reply.status, reply.code, reply.closed) == (413, "content_too_large", True)
    assert reply.json["limit"] == 50_000


@pytest.mark.parametrize("size, status", [(50_000, 200), (50_001, 413), (5_000_000, 413)])
def test_a_chunked_body_is_counted_while_it_streams(front: Any, size: int, status: int) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(size)) + b"0\r\n\r\n"
    reply = front.send(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert reply.status == status
    if status == 413:
        assert reply.code == "content_too_large"
        assert reply.closed


def _parts(size: int) -> list[bytes]:
    return [b"x" * min(8192, size - offset) for offset in range(0, size, 8192)]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=20)), max_size=30))
def test_sorting_headers_keeps_order_and_never_lets_underscores_or_identity_pass(
    headers: list[tuple[bytes, bytes]],
) -> None:
    rules = HeaderRules()
    headers = [(name.lower(), value) for name, value in headers]
    passed, noted = rules.sort([*headers, (b"guardian-identity", b"x"), (b"x-tenant-id", b"x")])
    assert not [name for name, _ in passed if b"_" in name or name.startswith(b"guardian-")]
    assert b"x-tenant-id" not in dict(passed)
    remaining = iter([*headers])
    assert all(any(pair == other for other in remaining) for pair in passed)
    assert set(noted) <= {name for name, _ in headers} | {b"connection"}


def test_the_memory_of_header_names_is_bounded() -> None:
    rules = HeaderRules()
    for number in range(10_000):
        rules.sort([(b"x-%d" % number, b"")])
    assert len(rules._rules) <= 4096
    assert rules.sort([(b"guardian-identity", b"x"), (b"cookie", b"y")]) == ([], {b"cookie": b"y"})


@given(st.text(alphabet="/.%2efFE5cC0;\\ab", max_size=30))
def test_no_path_that_passes_has_dot_segments_however_often_it_is_decoded(path: str) -> None:
    from urllib.parse import unquote

    try:
        PathAndHost.check_path(b"/" + path.encode())
    except BadRequest:
        return
    decoded = "/" + path
    for _ in range(3):
        decoded = unquote(decoded)
        segments = [segment.partition(";")[0] for segment in decoded.split("/")]
        assert "." not in segments
        assert ".." not in segments
    assert unquote("/" + path).count("/") == path.count("/") + 1
