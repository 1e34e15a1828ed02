"""A service that streams, for ``make bench-gateway``: ``python -m tests.bench.gateway_upstream <port>``.

``POST`` reads all of the content and says how much it was; ``GET …?bytes=N`` answers with so many; ``GET …?events``
is an event stream whose first event comes at once.
"""

import sys
from typing import Any

import uvicorn

_PIECE = b"x" * 65_536


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The service."""
    if scope["type"] != "http":
        return
    name, _, value = scope["query_string"].decode().partition("=")
    if scope["method"] == "POST":
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await _answer(send, b"%d" % size)
    elif name == "bytes":
        await _stream(send, int(value))
    elif name == "events":
        await _begin(send, [(b"content-type", b"text/event-stream")])
        await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await _answer(send, b"{}")


async def _begin(send: Any, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _answer(send: Any, body: bytes) -> None:
    await _begin(send, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))])
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Any, left: int) -> None:
    await _begin(send, [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % left)])
    while left > 0:
        piece = _PIECE[:left]
        left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off", access_log=False,
                log_level="warning")  # fmt: skip
