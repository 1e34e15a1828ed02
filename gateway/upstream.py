"""A service in another process, as an ASGI application: requests are forwarded over kept HTTP/1.1 connections.

Both bodies stream with back-pressure. A small body is gathered before a connection is taken, so that a slow
client holds none; requests with larger ones may hold half of the connections, so that others get through.
Whatever goes wrong before the answer begins is raised as ``UpstreamUnavailable`` (nothing was sent) or as an
``OSError``; after that, too, and the caller breaks off what it has passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.metrics import GatewayMetrics
from gateway.upstream_connection import HOP_BY_HOP, Connection, NoAnswer
from gateway.upstream_pool import Address, Pool

GATHERED_BYTES = 16_384
_CHUNKED = -1
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_NOT_FORWARDED = HOP_BY_HOP | {b"expect"}


class HttpUpstream:
    """Forwards to ``http://host:port`` or ``unix:/path``.

    ``idle_seconds`` must be less than the service keeps a connection without a request (uvicorn: 5 seconds
    unless told otherwise), so that it is we who close it.
    """

    def __init__(self, base_url: str, *, most: int = 64, idle_seconds: float = 4.0) -> None:
        self.address = Address(base_url)
        self.pool = Pool(self.address, most=most, idle_seconds=idle_seconds)
        self._large_bodies = asyncio.Semaphore(max(1, most // 2))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep connections until the end of the block."""
        self.pool.reopen()
        try:
            yield
        finally:
            self.pool.close()

    def watch(self, service: str, metrics: GatewayMetrics) -> None:
        """Show the connections among the gateway's figures."""
        pool = self.pool
        metrics.watch_connections(service, "open", lambda: pool.open)
        metrics.watch_connections(service, "idle", lambda: pool.idle)
        metrics.watch_connections(service, "waiting", lambda: pool.waiting)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request, length = _head(scope)
        if 0 <= length <= GATHERED_BYTES:
            if length:
                request += await _gathered(receive, length)
            await self._forward(scope["method"], request, length, None, send)
        else:
            async with self._large_bodies:
                await self._forward(scope["method"], request, length, receive, send)

    async def _forward(self, method: str, request: bytes, length: int, receive: Any, send: Any) -> None:
        """``receive`` is None when ``request`` holds all of the body."""
        pool, bodiless = self.pool, method == "HEAD"
        upload: asyncio.Task[None] | None = None
        connection = await pool.take()
        is_ours = True
        try:
            connection.ask(request, bodiless=bodiless, sent=receive is None)
            if receive is not None:
                upload = asyncio.create_task(_upload(connection, receive, length))
            try:
                await connection.answer()
            except NoAnswer:
                if length or method not in _REPEATABLE:
                    raise
                is_ours = False
                connection = await pool.replace(connection)
                is_ours = True
                connection.ask(request, bodiless=bodiless, sent=True)
                await connection.answer()
            await send({"type": "http.response.start", "status": connection.status, "headers": connection.headers})
            while is_ours:
                body, complete = connection.take()
                if complete:  # given back before a slow client has read it all
                    is_ours = False
                    pool.give_back(connection)
                if body or complete:
                    await send({"type": "http.response.body", "body": body, "more_body": not complete})
                if not complete:
                    await connection.news()
        finally:
            if is_ours:
                pool.drop(connection)
            if upload is not None:
                upload.cancel()


def _head(scope: Any) -> tuple[bytes, int]:
    """A request's head, and its body's length or ``_CHUNKED``."""
    query, length, chunked = scope["query_string"], None, False
    target = b"%b?%b" % (scope["raw_path"], query) if query else scope["raw_path"]
    lines = [b"%b %b HTTP/1.1" % (scope["method"].encode(), target)]
    for pair in scope["headers"]:
        name = pair[0]
        if name == b"content-length":
            length = int(pair[1])
        elif name in _NOT_FORWARDED:
            chunked = chunked or name == b"transfer-encoding"
            continue
        lines.append(b": ".join(pair))
    if chunked:
        if length is not None:
            raise ValueError("a request with two lengths")
        length = _CHUNKED
        lines.append(b"transfer-encoding: chunked")
    head = b"\r\n".join([*lines, b"", b""])
    if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
        raise ValueError("a line end inside a request's head")
    return head, length or 0


async def _gathered(receive: Any, length: int) -> bytes:
    """A small body, whole."""
    body, more = b"", True
    while more:
        message = await receive()
        _refuse_disconnect(message)
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) != length:
        raise ValueError("a body of another length than its Content-Length")
    return body


async def _upload(connection: Connection, receive: Any, length: int) -> None:
    """Write a body as it comes; whatever goes wrong ends the request."""
    try:
        left, more = length, True
        while more:
            message = await receive()
            _refuse_disconnect(message)
            body, more = message.get("body", b""), message.get("more_body", False)
            if length == _CHUNKED:
                pieces = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
                await connection.write(*pieces, *([] if more else [b"0\r\n\r\n"]))
            else:
                left -= len(body)
                if left < 0 or (left and not more):
                    raise ValueError("a body of another length than its Content-Length")
                await connection.write(body)
        connection.sent = True
    except Exception as error:
        connection.fail(error)


def _refuse_disconnect(message: Any) -> None:
    if message["type"] == "http.disconnect":
        raise ConnectionAbortedError("the client has left")
