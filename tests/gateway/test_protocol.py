"""The parser table, over raw sockets against the running gateway."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

POST = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /v1/echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="cl+te"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", id="te+cl"),
        pytest.param(POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", id="equal-cl-twice"),
        pytest.param(POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two-cl"),
        pytest.param(POST + b"Content-Length: 5, 5\r\n\r\nhello", id="cl-list"),
        pytest.param(POST + b"Content-Length: +5\r\n\r\nhello", id="cl-sign"),
        pytest.param(POST + b"Content-Length: -5\r\n\r\nhello", id="cl-negative"),
        pytest.param(POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello", id="cl-overflow"),
        pytest.param(POST + b"Content-Length : 5\r\n\r\nhello", id="space-before-colon"),
        pytest.param(b"GET /v1/echo HTTP/1.1\nHost: a\n\n", id="bare-lf"),
        pytest.param(GET + b"X: 1\nY: 2\r\n\r\n", id="bare-lf-in-a-header"),
        pytest.param(GET + b"X: 1\r\n folded\r\n\r\n", id="obs-fold"),
        pytest.param(b"GET /v1/echo HTTP/1.1\r\n Host: a\r\n\r\n", id="leading-space"),
        pytest.param(CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", id="chunk-size-space"),
        pytest.param(CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", id="chunk-size-0x"),
        pytest.param(CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", id="chunk-size-negative"),
        pytest.param(CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", id="chunk-size-overflow"),
        pytest.param(CHUNKED + b"5\r\nhelloXX0\r\n\r\n", id="chunk-without-crlf"),
        pytest.param(CHUNKED + b"5;" + b"e" * 70_000 + b"\r\nhello\r\n0\r\n\r\n", id="70-kB-chunk-extension"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="te-list"),
        pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="te-unknown"),
        pytest.param(POST + b"Transfer-Encoding: identity\r\n\r\nhello", id="te-identity"),
        pytest.param(b"POST /v1/echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="te-1.0"),
        pytest.param(b"GET /v1/echo HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", id="same-host-twice"),
        pytest.param(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two-hosts"),
        pytest.param(b"GET http://evil/v1/echo HTTP/1.1\r\nHost: a\r\n\r\n", id="absolute-form"),
        pytest.param(b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n", id="authority-form"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", id="asterisk-form"),
        pytest.param(b"GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", id="raw-utf8-target"),
        pytest.param(GET + b"X: a\x00b\r\n\r\n", id="nul-in-value"),
        pytest.param(GET + b"X\x01: a\r\n\r\n", id="control-in-name"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls-hello"),
        pytest.param(b"FOO\x7f / HTTP/1.1\r\nHost: a\r\n\r\n", id="bad-method"),
    ],
)
def test_malformed_framing_is_refused_and_the_connection_closed(front: Any, data: bytes) -> None:
    seen = len(front.echo.seen)
    reply = front.send(data)
    assert reply.status == 400
    assert reply.code == "bad_request"
    assert reply.headers["connection"] == "close"
    assert reply.closed
    assert "x-request-id" in reply.headers
    answered = front.echo.seen[seen:]
    assert all(scope["headers"] != [] for scope in answered)
    assert not answered or data.startswith(CHUNKED), "nothing may reach a service but the start of a chunked request"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GET + b"X: " + b"v" * 70_000 + b"\r\n\r\n", id="70-kB-header"),
        pytest.param(GET + b"X: " + b"v" * 70_000, id="70-kB-unfinished-header"),
        pytest.param(GET + b"X:" + b" " * 70_000 + b"v\r\n\r\n", id="70-kB-of-spaces"),
        pytest.param(GET + b"".join(b"X-%d: v\r\n" % i for i in range(5_000)) + b"\r\n", id="5000-headers"),
        pytest.param(GET + b"".join(b"X-%d: v\r\n" % i for i in range(100)) + b"\r\n", id="101-headers"),
        pytest.param(b"GET /v1/echo?" + b"q" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="17-kB-target"),
        pytest.param(CHUNKED + b"0\r\n" + b"".join(b"T-%d: v\r\n" % i for i in range(200)) + b"\r\n", id="trailers"),
    ],
)
def test_too_many_headers_are_refused(front: Any, data: bytes) -> None:
    reply = front.send(data)
    assert (reply.status, reply.code, reply.closed) == (431, "headers_too_large", True)


def test_a_hundred_headers_of_sixteen_kilobytes_pass(front: Any) -> None:
    data = GET + b"".join(b"X-%d: %b\r\n" % (i, b"v" * 140) for i in range(99)) + b"\r\n"
    assert front.send(data).status == 200


def test_http_2_in_the_request_line_is_not_spoken(front: Any) -> None:
    assert front.send(b"GET /v1/echo HTTP/2.0\r\nHost: a\r\n\r\n").status == 505


def test_trailers_never_become_headers(front: Any) -> None:
    reply = front.send(CHUNKED + b"5\r\nhello\r\n0\r\nX-Late: 1\r\nAuthorization: Bearer x\r\n\r\n")
    assert reply.status == 200
    assert reply.json["size"] == 5
    assert not front.header("x-late")


def test_an_honest_chunked_body_of_tiny_chunks_passes(front: Any) -> None:
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(20_000))
    assert front.send(CHUNKED + chunks + b"0\r\n\r\n").json["size"] == 20_000


def test_pipelined_requests_are_answered_in_order(front: Any, read: Callable[..., Any]) -> None:
    client = front.connect()
    client.sendall(GET + b"\r\n" + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + POST + b"Content-Length: 3\r\n\r\nabc")
    reply = read(client, until_closed=True)
    sizes = [part.split(b",")[0] for part in reply.body.split(b'"size":')[1:]]
    assert sizes == [b"0", b"5", b"3"]


def test_a_broken_request_behind_a_good_one_gets_no_answer_of_its_own(front: Any, read: Callable[..., Any]) -> None:
    client = front.connect()
    client.sendall(GET + b"\r\n" + b"BROKEN\r\n\r\n")
    reply = read(client, until_closed=True)
    assert reply.status == 200
    assert reply.closed
    assert b"HTTP/1.1" not in reply.body


def test_expect_continue_is_answered(front: Any) -> None:
    client = front.connect()
    client.sendall(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    assert b'"size":5' in client.recv(65536)


def test_an_upgrade_is_not_offered_and_ends_the_connection(front: Any) -> None:
    reply = front.send(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nleftovers")
    assert reply.status == 200
    assert reply.closed
    assert not front.header("upgrade")


def test_http_1_0_is_answered_and_closed(front: Any) -> None:
    reply = front.send(b"GET /v1/echo HTTP/1.0\r\nHost: a\r\n\r\n")
    assert (reply.status, reply.closed) == (200, True)


@pytest.mark.parametrize(
    "sent, status",
    [
        pytest.param(b"", 0, id="no-bytes"),
        pytest.param(b"GET /v1/ec", 408, id="partial-line"),
        pytest.param(GET + b"X-Half: ", 408, id="partial-header"),
        pytest.param(POST + b"Content-Length: 10\r\n\r\nhell", 408, id="partial-body"),
        pytest.param(CHUNKED + b"5\r\nhe", 408, id="partial-chunk"),
    ],
)
def test_a_silent_client_is_dropped(front: Any, read: Callable[..., Any], sent: bytes, status: int) -> None:
    client = front.connect()
    client.sendall(sent)
    began = time.monotonic()
    reply = read(client)
    assert reply.status == status
    assert reply.closed
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "start, drip, status",
    [
        pytest.param(GET, b"X-Drip: 1\r\n", 408, id="headers"),
        pytest.param(POST + b"Content-Length: 5000\r\n\r\n", b"x", 408, id="body"),
        pytest.param(CHUNKED, b"1\r\nx\r\n", 408, id="chunks"),
    ],
)
def test_a_dripping_client_is_dropped(
    front: Any, read: Callable[..., Any], start: bytes, drip: bytes, status: int
) -> None:
    client = front.connect()
    client.sendall(start)
    client.settimeout(0.05)
    reply = b""
    for _ in range(100):
        try:
            client.sendall(drip)
            reply = client.recv(1000)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if reply:
            break
    assert f"HTTP/1.1 {status}".encode() in reply


def test_a_body_that_keeps_the_minimum_rate_may_take_longer(front: Any, read: Callable[..., Any]) -> None:
    client = front.connect()
    client.sendall(POST + b"Content-Length: 40000\r\n\r\n")
    for _ in range(40):  # 1.2 seconds at three times the least rate; the bare deadline is 0.4
        client.sendall(b"x" * 1000)
        time.sleep(0.03)
    assert read(client).json["size"] == 40_000


def test_an_idle_connection_is_closed(front: Any, read: Callable[..., Any]) -> None:
    client = front.connect()
    client.sendall(GET + b"\r\n")
    reply = read(client)
    assert (reply.status, reply.closed) == (200, False)
    began = time.monotonic()
    assert client.recv(1) == b""
    assert 0.2 < time.monotonic() - began < 3


def test_a_client_that_does_not_read_is_dropped(start: Any, offline_settings: Any, limits: Any) -> None:
    settings = offline_settings.model_copy(update={"max_body_bytes": 200_000_000})
    with start(settings, limits) as front:
        client = front.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"POST /v1/echo?do=mirror HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        client.settimeout(5)
        with pytest.raises(ConnectionError):
            client.sendall(b"x" * 99_000_000)


def test_connections_per_address_are_limited(start: Any, offline_settings: Any, limits: Any) -> None:
    with start(offline_settings, replace(limits, per_address=3, header_seconds=5)) as front:
        held = [front.connect() for _ in range(3)]
        for client in held:
            client.sendall(b"GET")
        reply = front.send(b"")
        assert (reply.status, reply.code) == (503, "too_many_connections")
        held[0].close()
        deadline = time.monotonic() + 5
        while front.get().status != 200:
            assert time.monotonic() < deadline, "a place did not become free"


def test_the_answer_to_an_unread_body_arrives_before_the_connection_closes(front: Any) -> None:
    client = front.connect()
    client.sendall(POST + b"Content-Length: 100000000\r\n\r\n")
    reply = b""
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            client.sendall(b"x" * 65536)
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            reply += piece
    assert b"413" in reply.split(b"\r\n")[0]


def test_an_early_answer_closes_when_the_body_was_not_read(front: Any, read: Callable[..., Any]) -> None:
    client = front.connect()
    client.sendall(b"POST /v1/echo?do=early HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n" + b"x" * 20_000)
    reply = read(client, until_closed=True)
    assert (reply.status, reply.body) == (422, b"no")


def test_the_server_refuses_work_beyond_its_limit(start: Any, offline_settings: Any, limits: Any) -> None:
    with start(offline_settings, limits) as front:
        front.server.config.limit_concurrency = 1
        reply = front.get()
        assert (reply.status, reply.code) == (503, "overloaded")
        assert reply.headers["retry-after"] == "2"


@pytest.mark.parametrize("rest", [b"", GET, b"\r\n"], ids=["complete", "part-of-another", "line-end"])
def test_a_client_that_stops_sending_gets_its_answer(front: Any, read: Callable[..., Any], rest: bytes) -> None:
    client = front.connect()
    client.sendall(GET + b"\r\n" + rest)
    client.shutdown(socket.SHUT_WR)
    reply = read(client, until_closed=True)
    assert (reply.status, reply.complete, reply.closed) == (200, True, True)


def test_a_client_that_stops_sending_gets_all_its_answers(front: Any) -> None:
    client = front.connect()
    client.sendall((GET + b"\r\n") * 3)
    client.shutdown(socket.SHUT_WR)
    data = b""
    while piece := client.recv(65536):
        data += piece
    assert data.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(("length", "content"), [(b"00", b""), (b"005", b"hello")])
def test_a_length_with_zeros_before_it_is_refused(front: Any, read: Any, length: bytes, content: bytes) -> None:
    client = front.connect()
    client.sendall(POST + b"Content-Length: " + length + b"\r\n\r\n" + content)
    assert read(client).status == 400


def test_requests_that_wait_behind_others_are_bounded(front: Any) -> None:
    """The client reads all the while, so that nothing but the number of requests could stop it."""
    most = 0
    client, count = front.connect(), 20_000
    sizes = [number % 50 for number in range(count)]
    asked = b"".join(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size for size in sizes)
    sender = threading.Thread(target=client.sendall, args=(asked,))
    sender.start()
    answers = b""
    while answers.count(b'"size":') < count:
        most = max([most, *(len(each.pipeline) for each in list(front.server.server_state.connections))])
        piece = client.recv(1 << 20)
        assert piece
        answers += piece
    sender.join()
    assert [int(part.split(b",")[0]) for part in answers.split(b'"size":')[1:]] == sizes
    assert 0 < most < 1_000


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"Content-Type"])
def test_a_field_of_one_line_in_two_is_refused(front: Any, name: bytes) -> None:
    """What was signed as one line could be sent as two, and mean something else to the service."""
    reply = front.send(POST + name + b': "x\r\n' + name + b': y"\r\nContent-Length: 0\r\n\r\n')
    assert (reply.status, reply.code, reply.closed) == (400, "bad_request", True)


def test_behind_the_last_answer_of_a_connection_nothing_is_done(front: Any, read: Callable[..., Any]) -> None:
    client, before = front.connect(), len(front.echo.seen)
    last = GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n"
    client.sendall(last + POST + b"Content-Length: 3\r\n\r\nabc" + b"GET /v1/e")
    reply = read(client, until_closed=True)
    assert (reply.status, b"HTTP/1.1" in reply.body) == (200, False)
    time.sleep(0.1)
    assert len(front.echo.seen) == before + 1
