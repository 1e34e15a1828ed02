"""A service in another process, as an ASGI application: requests are forwarded over kept HTTP/1.1 connections.

Both bodies stream with back-pressure. What a body begins with is gathered before a connection is taken, so that
a slow client with a small body holds none; requests with larger ones may hold half of the connections, and those
of one caller (the ``guardian.caller`` of the scope) an eighth, so that others get through.
Whatever goes wrong before the answer begins is raised as ``UpstreamUnavailable`` (nothing was sent) or as an
``OSError``; after that, too, and the caller breaks off what it has passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.metrics import GatewayMetrics
from gateway.upstream_connection import HOP_BY_HOP, Connection, NoAnswer
from gateway.upstream_pool import Address, Pool
from gateway.upstream_uploads import Uploads

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
        self._uploads = Uploads(max(1, most // 2))

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
        method = scope["method"]
        if not length:
            await self._forward(method, request, 0, None, send)
            return
        body = _Body(receive, length)
        request += b"".join(await body.gathered())
        if not body.more:
            await self._forward(method, request, length, None, send)
            return
        async with self._uploads.slot(scope.get("guardian.caller")) as body.uploaded:
            await self._forward(method, request, length, body, send)

    async def _forward(self, method: str, request: bytes, length: int, body: _Body | None, send: Any) -> None:
        """``body`` is what ``request`` does not hold yet, if anything."""
        pool, bodiless = self.pool, method == "HEAD"
        upload: asyncio.Task[None] | None = None
        connection = await pool.take()
        is_ours = True
        try:
            connection.ask(request, bodiless=bodiless, sent=body is None)
            if body is not None:
                upload = asyncio.create_task(_upload(connection, body))
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
                answer, complete = connection.take()
                if complete:  # given back before a slow client has read it all
                    is_ours = False
                    pool.give_back(connection)
                if answer or complete:
                    await send({"type": "http.response.body", "body": answer, "more_body": not complete})
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


class _Body:
    """A request's body as it comes, in the pieces it is written in; ``more`` is whether some is still to come."""

    uploaded: Callable[[], None]
    """Called when all of it was written: the time that a slow reader takes over the answer is no upload's."""

    def __init__(self, receive: Any, length: int) -> None:
        self._receive = receive
        self._chunked = length == _CHUNKED
        self._left = length
        self.more = True

    async def gathered(self) -> list[bytes]:
        """All of a small body, or what a larger one begins with."""
        whole = bytearray()
        while self.more and len(whole) <= GATHERED_BYTES:
            whole += await self._next()
        return self._framed(bytes(whole))

    async def pieces(self) -> list[bytes]:
        """What comes next; it may be nothing."""
        return self._framed(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client has left")
        body: bytes = message.get("body", b"")
        self.more = message.get("more_body", False)
        if not self._chunked:
            self._left -= len(body)
            if self._left < 0 or (self._left and not self.more):
                raise ValueError("a body of another length than its Content-Length")
        return body

    def _framed(self, body: bytes) -> list[bytes]:
        if not self._chunked:
            return [body]
        return [b"%x\r\n" % len(body), body, b"\r\n"] * bool(body) + [b"0\r\n\r\n"] * (not self.more)


async def _upload(connection: Connection, body: _Body) -> None:
    """Write a body as it comes; whatever goes wrong ends the request."""
    try:
        while body.more:
            await connection.write(*await body.pieces())
        connection.sent = True
    except Exception as error:
        connection.fail(error)
    else:
        body.uploaded()
