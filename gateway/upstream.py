"""A service in another process, as an ASGI application: requests are forwarded over kept HTTP/1.1 connections.

Both bodies stream with back-pressure. What a body begins with is gathered before a connection is taken, so that
a slow client with a small body holds none; requests with larger ones may hold half of the connections, and those
of one caller (the ``guardian.caller`` of the scope) an eighth, so that others get through.
Whatever goes wrong before the answer begins is raised as ``UpstreamUnavailable`` (nothing was sent) or as an
``OSError``; after that, too, and the caller breaks off what it has passed on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from gateway.edge import Pair
from gateway.metrics import GatewayMetrics
from gateway.problems import ClientLeft, UpstreamUnavailable
from gateway.retries import PAUSE_SECONDS, RetryBudget
from gateway.upstream_connection import HOP_BY_HOP, Connection, NoAnswer
from gateway.upstream_pool import Address, Pool
from gateway.upstream_uploads import Uploads

GATHERED_BYTES = 16_384
Respond = Callable[[int, list[Pair], bytes], None]
_CHUNKED = -1
_random = random.Random()  # noqa: S311 (how long to pause is no secret)
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
        self.retries = RetryBudget()
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
        metrics.watch_retries(service, self.retries)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"])
        content, more = b"", bool(request.head()[1])
        while more and len(content) <= GATHERED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client has left")
            content += message.get("body", b"")
            more = message.get("more_body", False)
        await self.forward(request, content, receive if more else None, send, caller=scope.get("guardian.caller"))

    async def forward(
        self,
        request: Request,
        content: bytes,
        receive: Any,
        send: Any,
        *,
        caller: Hashable,
        respond: Respond | None = None,
    ) -> None:
        """Pass a request on and its answer back.

        ``content`` is what is here of it, ``receive`` where the rest comes from (None: there is none). ``respond`` takes a
        whole answer that came at once; others pass through ``send``, piece by piece.
        """
        head, length = request.head()
        body = _Body(receive, length)
        data = head + body.begin(content) if length else head
        if receive is not None:
            async with self._uploads.slot(caller) as body.uploaded:
                await self._stream(data, body, send, respond, bodiless=request.method == "HEAD")
            return
        await self._answer(await self._asked(request, data), send, respond)

    async def _asked(self, request: Request, data: bytes) -> Connection:
        """A connection with the beginning of an answer, at the second try if need be.

        Tried again is what was never sent; and what was sent, if twice is like once: idempotent methods (RFC 9110
        §9.2.2), and a POST with an ``Idempotency-Key``.
        """
        self.retries.earn()
        bodiless = request.method == "HEAD"
        try:
            return await self._ask(data, bodiless=bodiless)
        except UpstreamUnavailable as error:
            if isinstance(error.__cause__, TimeoutError) or not self.retries.spend():
                raise
        except NoAnswer:
            if not request.is_repeatable or not self.retries.spend():
                raise
        await asyncio.sleep(_random.uniform(0, PAUSE_SECONDS))
        return await self._ask(data, bodiless=bodiless)

    async def _ask(self, request: bytes, *, bodiless: bool) -> Connection:
        connection = await self.pool.take()
        try:
            connection.ask(request, bodiless=bodiless, sent=True)
            await connection.answer()
        except BaseException:
            self.pool.drop(connection)
            raise
        return connection

    async def _stream(self, request: bytes, body: _Body, send: Any, respond: Respond | None, *, bodiless: bool) -> None:
        """``body`` is what ``request`` does not hold yet."""
        connection = await self.pool.take()
        upload: asyncio.Task[None] | None = None
        try:
            try:
                connection.ask(request, bodiless=bodiless, sent=False)
                upload = asyncio.create_task(_upload(connection, body))
                await connection.answer()
            except BaseException:
                self.pool.drop(connection)
                raise
            await self._answer(connection, send, respond)
        finally:
            if upload is not None:
                upload.cancel()

    async def _answer(self, connection: Connection, send: Any, respond: Respond | None) -> None:
        """Pass on what comes, and end with the connection: it is given back before a slow client has read it all."""
        held = True  # the connection may be somebody else's before this ends
        try:
            status, headers = connection.status, connection.headers
            answer, complete = connection.take()
            if complete:
                held = False
                self.pool.give_back(connection)
                if respond is not None:
                    respond(status, headers, answer)
                    return
            else:
                self.pool.let_run(connection)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            while True:
                if answer or complete:
                    await send({"type": "http.response.body", "body": answer, "more_body": not complete})
                if complete:
                    return
                await connection.news()
                answer, complete = connection.take()
                if complete:
                    held = False
                    self.pool.give_back(connection)
        finally:
            if held:
                self.pool.drop(connection)


class Request(NamedTuple):
    """What a request says before its content; header names are lower case."""

    method: str
    raw_path: bytes
    query_string: bytes
    headers: list[Pair]

    @property
    def is_repeatable(self) -> bool:
        """Whether twice is like once."""
        keyed = self.method == "POST" and any(name == b"idempotency-key" for name, _ in self.headers)
        return keyed or self.method in _REPEATABLE

    def head(self) -> tuple[bytes, int]:
        """As it is written, and its content's length or ``_CHUNKED``."""
        method, raw_path, query, pairs = self
        target = b"%b?%b" % (raw_path, query) if query else raw_path
        fields = dict(pairs)
        length = int(fields.get(b"content-length", b"0"))
        if not _NOT_FORWARDED.isdisjoint(fields):
            pairs = [pair for pair in pairs if pair[0] not in _NOT_FORWARDED]
            if b"transfer-encoding" in fields:
                if b"content-length" in fields:
                    raise ValueError("a request with two lengths")
                length = _CHUNKED
                pairs.append((b"transfer-encoding", b"chunked"))
        line = b"%b %b HTTP/1.1" % (method.encode(), target)
        head = b"\r\n".join((line, *map(b": ".join, pairs), b"", b""))
        if head.count(b"\n") != len(pairs) + 2 or head.count(b"\r") != len(pairs) + 2:
            raise ValueError("a line end inside a request's head")
        return head, length


class _Body:
    """A request's body as it comes, in the pieces it is written in; ``more`` is whether some is still to come."""

    uploaded: Callable[[], None]
    """Called when all of it was written: the time that a slow reader takes over the answer is no upload's."""

    def __init__(self, receive: Any, length: int) -> None:
        self._receive = receive
        self._chunked = length == _CHUNKED
        self._left = length
        self.more = receive is not None

    def begin(self, content: bytes) -> bytes:
        """What is written with the head."""
        self._count(content)
        return b"".join(self._framed(content)) if self._chunked else content

    async def pieces(self) -> list[bytes]:
        """What comes next; it may be nothing."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client has left")
        body: bytes = message.get("body", b"")
        self.more = message.get("more_body", False)
        self._count(body)
        return self._framed(body)

    def _count(self, body: bytes) -> None:
        if not self._chunked:
            self._left -= len(body)
            if self._left < 0 or (self._left and not self.more):
                raise ValueError("a body of another length than its Content-Length")

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
