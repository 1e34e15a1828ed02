"""The gateway passes content on and never reads it: byte for byte, in one process and to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.gateway.upstreams import proxied

PIECE = 7_919


class Recorder:
    """A service that keeps what it was given."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.content = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, content, more = scope, b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        self.content = content
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.scope["headers"] if key == name]


@pytest.fixture(scope="module", params=["inside", "apart"])
def recording(request: pytest.FixtureRequest, start: Any, offline_settings: Any) -> Iterator[tuple[Any, Recorder]]:
    """A gateway with a service that keeps what it is given: in its process, or behind a socket."""
    recorder = Recorder()
    settings = offline_settings.model_copy(update={"max_body_bytes": 1_048_576})

    @contextmanager
    def inside() -> Iterator[Any]:
        with start(settings, upstreams={"echo": recorder}) as front:
            yield front

    with inside() if request.param == "inside" else proxied(start, settings, recorder) as front:
        yield front, recorder


def of_length(content: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(content) + content


def in_chunks(content: bytes) -> bytes:
    pieces = [content[begin : begin + PIECE] for begin in range(0, len(content), PIECE)]
    framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nX-Late: 1\r\n\r\n"


@pytest.mark.parametrize("framed", [of_length, in_chunks])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"a":1,"a":2,"a":{"b":1,"b":2}}', id="duplicate-names"),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, id="deep"),
        pytest.param(b'{"a":NaN,"b":-Infinity,"c":1e400,"d":01}', id="nan"),
        pytest.param(b'{"a":"\xff\xfe\xed\xa0\x80"}', id="invalid-utf-8"),
        pytest.param(b"\xef\xbb\xbf{}", id="bom"),
        pytest.param('{"a":"é"}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'{"a":"\\ud800\\u0000"}', id="lone-surrogate"),
        pytest.param(b'  {"a" :\t1 }\r\n\r\n', id="white-space"),
        pytest.param(b'{"a":1.10,"b":1E+2,"c":12345678901234567890123}', id="numbers"),
        pytest.param(b'{"a":"\\u00e9\\/","\\u0061":1}', id="escapes"),
        pytest.param(b'{"a":', id="half"),
        pytest.param(b"{}{}", id="two"),
        pytest.param(bytes(range(256)) * 4_096, id="any-bytes-up-to-the-limit"),
        pytest.param(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n", id="a-request"),
        pytest.param(b"0\r\n\r\n", id="an-end-of-chunks"),
    ],
)
def test_content_arrives_byte_for_byte(
    recording: tuple[Any, Recorder], content: bytes, framed: Callable[[bytes], bytes]
) -> None:
    front, recorder = recording
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Encoding: x\r\n"
    assert front.send(head + framed(content)).status == 200
    assert recorder.content == content
    assert recorder.values(b"content-type") == [b"application/json"]
    assert recorder.values(b"content-encoding") == [b"x"]
    assert recorder.values(b"x-late") == []


def test_a_request_broken_in_its_first_piece_leaves_no_task(front: Any, eventually: Callable[..., None]) -> None:
    reply = front.send(b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n")
    assert reply.status == 400
    eventually(lambda: all(task.done() for task in front.server.server_state.tasks), "the end of its task")
    assert not front.server.server_state.tasks
