"""uvicorn's httptools protocol, hardened: what ASGI cannot see is decided here.

Framing, header limits, slow clients and the number of connections are checked before an application
runs; errors at this level are problems too, and close the connection. The parser itself (llhttp, in
strict mode) refuses Content-Length beside Transfer-Encoding, repeated Content-Length, bare LF, folded
headers and junk in chunk sizes; this class adds what it lets pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import deque
from itertools import chain
from typing import Any, NoReturn
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.connections import ConnectionGuard
from gateway.cycle import Cycle
from gateway.problems import HeadersTooLarge, RequestTimeout, VersionNotSupported
from gateway.rendering import problem_answer, raw_problem
from shared.errors import BadRequest, Problem, ServiceUnavailable
from shared.signing.message import has_content

logger = logging.getLogger(__name__)

HEAD, BODY, BETWEEN, CLOSING = range(4)
"""What is being read: a request's head, its body, nothing (an answer is pending or the connection idle),
or leftovers that are thrown away because the connection is about to close."""

_ONCE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"idempotency-key")
"""Fields of one line. Of several a signature would cover all, joined, and a service would go by the first."""
_SLICE = 16_384
_QUEUED = 16
"""Requests that wait for their turn on one connection, beyond which nothing more is read of it."""
_RESET = struct.pack("ii", 1, 0)
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class _Refused(Exception):
    """Raised inside a parser callback to stop the parser."""


class GuardedProtocol(HttpToolsProtocol):
    """One client connection."""

    cycle: Cycle  # type: ignore[assignment]  # ours takes the place of uvicorn's
    pipeline: deque[tuple[Cycle, Any]]  # type: ignore[assignment]

    def __init__(self, *args: Any, guard: ConnectionGuard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The parent makes the parser lenient about data behind "Connection: close"; we are not.
        self.parser = httptools.HttpRequestParser(self)
        self.guard = guard
        self.limits = guard.limits
        self.phase = HEAD
        self.running: Cycle | None = None
        self._refusal: Problem | None = None
        self._since = 0.0
        self._head_bytes = 0
        self._body_bytes = self._body_length = 0
        self._messages = 0
        self._chunk_excess = 0
        self._trailer: list[tuple[bytes, bytes]] = []
        self._chunked = False
        self._write_paused_at: float | None = None
        self._half_closed = False
        self._unread = b""  # came already, but there is too much to do before it

    # -- connection ----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        if not self.guard.admit(self, self.client[0] if self.client else "", self.loop):
            self._answer(ServiceUnavailable("This address has too many open connections.", code="too_many_connections"))

    def connection_lost(self, _exc: Exception | None) -> None:
        self.guard.release(self)
        self.phase = CLOSING
        running, self.running = self.running, None
        self.pipeline.clear()
        self.connections.discard(self)
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]  # it holds us
        if running is not None:
            running.client_gone()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that asked all it wants may close its side; True keeps ours open for the answer.

        One that left altogether looks the same until something is written to it, so the time is limited.
        """
        if self.running is None or self.phase == BODY:
            return False
        self._half_closed = True
        self._since = self.loop.time()
        self.cycle.keep_alive = False
        self.phase = CLOSING
        return True

    def data_received(self, data: bytes) -> None:
        if self.phase == CLOSING:
            return
        try:
            if len(data) <= _SLICE:
                self._feed(data)
            else:
                self._feed_slices(data)
        except httptools.HttpParserUpgrade:
            # No upgrade is offered, so the request is answered as it stands (RFC 9110 §7.8), and what
            # follows it on this connection is no HTTP.
            self.cycle.keep_alive = False
            self.phase = CLOSING
        except httptools.HttpParserError as error:
            refusal = self._refusal or BadRequest(f"The request is not valid HTTP/1.1: {error}.")
            self._refuse(refusal)

    def _feed_slices(self, data: bytes) -> None:
        view = memoryview(data)
        offset = 0
        while offset < len(data) and self.phase != CLOSING:
            if len(self.pipeline) >= _QUEUED:
                self._unread = bytes(view[offset:])
                return
            left = self._body_length - self._body_bytes if self.phase == BODY else 0
            piece = view[offset : offset + max(left, _SLICE)]
            offset += len(piece)
            self._feed(piece)

    def _feed(self, data: bytes | memoryview) -> None:
        """Feed the parser, and bound what it takes in without telling us: a head or a chunk's extension.

        An unfinished head is counted in whole feeds, so it is never over the limit by more than a slice.
        """
        if self.phase == BETWEEN:
            self._begin_head()
        phase, message, body_before = self.phase, self._messages, self._body_bytes
        self.parser.feed_data(data)
        if self._messages != message or self.phase != phase:
            return  # what belongs to which message is known to the parser alone
        if phase == HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes:
                self._refuse(HeadersTooLarge(f"The limit is {self.limits.header_bytes} bytes."))
        elif phase == BODY and self._chunked:
            self._chunk_excess += len(data) - (self._body_bytes - body_before)
            if self._chunk_excess > self.limits.header_bytes:
                self._refuse(BadRequest("The chunked body has too much besides data."))

    # -- parser callbacks ----------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._begin_head()

    def _begin_head(self) -> None:
        self.phase = HEAD
        self._since = self.loop.time()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == HEAD:
            self.headers.append((name.lower(), value.rstrip(b" \t")))  # RFC 9110 §5.5
        else:  # a trailer: fields behind the body must not become headers after they were checked
            self._trailer.append((name, value))
            self._check_size(self._trailer)

    def _check_size(self, fields: list[tuple[bytes, bytes]], before: int = 0) -> None:
        limits = self.limits
        if len(fields) > limits.header_fields:
            self._stop(HeadersTooLarge(f"The limit is {limits.header_fields} header fields."))
        if sum(map(len, chain.from_iterable(fields)), before) + 4 * len(fields) > limits.header_bytes:
            self._stop(HeadersTooLarge(f"The limit is {limits.header_bytes} bytes."))

    def on_headers_complete(self) -> None:
        version, headers = self.parser.get_http_version(), self.headers
        self._check_size(headers, len(self.url))
        fields = dict(headers)
        if version not in ("1.1", "1.0"):
            self._stop(VersionNotSupported())
        if b"host" not in fields:
            self._stop(BadRequest("There must be exactly one Host header."))
        if len(fields) < len(headers):
            self._check_repeated(headers)
        length = fields.get(b"content-length", b"0")
        if length[:1] == b"0" and length != b"0":  # who reads 00 as content, and who does not?
            self._stop(BadRequest("Content-Length must be one number, without zeros before it."))
        if not self.url.startswith(b"/") or not self.url.isascii():
            self._stop(BadRequest("The request target must be a path that begins with '/'."))
        if b"#" in self.url:
            self._stop(BadRequest("The request target must not hold a fragment.", code="invalid_path"))
        coding = fields.get(b"transfer-encoding")
        self._chunked = coding is not None
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            self._stop(BadRequest("'chunked' is the only transfer coding, in HTTP/1.1 only."))
        if self.parser.should_upgrade() and (has_content(fields) or self.parser.get_method() == b"CONNECT"):
            # The parser would take the content for what follows the upgrade.
            self._stop(BadRequest("No upgrade is offered; send content without asking for one (Java: HTTP_1_1)."))
        self.phase = BODY
        self._since = self.loop.time()
        self._body_bytes = self._chunk_excess = 0
        self._body_length = int(length)
        self._trailer = []
        self._start_cycle(version, fields.get(b"expect", b"").lower() == b"100-continue")

    def _check_repeated(self, headers: list[tuple[bytes, bytes]]) -> None:
        names = [name for name, _ in headers]
        for name in _ONCE:
            if names.count(name) > 1:
                self._stop(BadRequest(f"There must be exactly one {name.decode()} header."))

    def _start_cycle(self, version: str, expect_100_continue: bool) -> None:
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        method = self.parser.get_method()
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": self.headers,
            "method": _METHODS[method] if method in _METHODS else method.decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
        }
        limit = self.limit_concurrency
        overloaded = limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)
        previous: Any = self.cycle
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = scope["guardian.cycle"] = Cycle(
            self, scope, expect_continue=expect_100_continue, keep_alive=keep_alive
        )
        app = overload if overloaded else self.app
        if previous is None or previous.response_complete:
            self._run(self.cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._chunk_excess -= 2 * len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body = cycle.body + body if cycle.body else body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.wake()

    def on_chunk_header(self) -> None:
        # The line of an honest chunk: its size and line ends. Only what goes beyond is held against it.
        self._chunk_excess = max(self._chunk_excess - 16, -_SLICE)

    def on_message_complete(self) -> None:
        self.phase = BETWEEN
        self._messages += 1
        self._since = self.loop.time()
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.wake()

    # -- the application -----------------------------------------------------------------------------
    def _run(self, cycle: Cycle, app: Any) -> None:
        cycle.task = self.loop.create_task(cycle.run(app))
        self.tasks.add(cycle.task)
        cycle.task.add_done_callback(self.tasks.discard)  # also when it is cancelled before it began
        self.running = cycle

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self.running = None
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._run(cycle, app)
            if not self.pipeline:
                self._read_on()
        elif self.phase == CLOSING:
            self.flow.resume_reading()  # leftovers are thrown away until the client has closed, too
        elif self.phase == BODY:
            # Answered without reading the body: reading it all for nothing would cost more than a new
            # connection does.
            self.finish()
        else:
            self.flow.resume_reading()

    def _read_on(self) -> None:
        self.flow.resume_reading()
        unread, self._unread = self._unread, b""
        if unread:
            self.data_received(unread)

    # -- the end -------------------------------------------------------------------------------------
    def sweep(self, now: float, elapsed: float) -> None:
        """Close the connection when its current phase is overdue."""
        limits, age = self.limits, now - self._since
        if self._write_paused_at is not None and now - self._write_paused_at > limits.write_seconds:
            self.abort()
        elif self._half_closed and self.running is not None and age > limits.half_closed_seconds:
            self.transport.close()
        elif self.phase in (HEAD, BODY) and self.flow.read_paused:
            self._since += elapsed  # it is we who do not read
        elif self.phase == HEAD and age > limits.header_seconds:
            self._refuse(RequestTimeout("The headers took too long."), silent=self._head_bytes == 0)
        elif self.phase == BODY and age > limits.body_seconds + self._body_bytes / limits.body_rate:
            self._refuse(RequestTimeout("The body took too long."))
        elif self.phase == BETWEEN and self.running is None and age > limits.idle_seconds:
            self.transport.close()
        elif self.phase == CLOSING and self.running is None and age > limits.linger_seconds:
            self.transport.abort()

    def _stop(self, problem: Problem) -> NoReturn:
        self._refusal = problem
        raise _Refused

    def _refuse(self, problem: Problem, *, silent: bool = False) -> None:
        """Give up on the connection because of what was read, or was not."""
        running, phase = self.running, self.phase
        if phase == BODY and running is not self.cycle and not self.cycle.response_complete:
            self.abort()  # a queued request's body is broken: its turn to be answered never comes
        elif running is None:
            if silent or phase == CLOSING:
                self.transport.close()
            else:
                self._answer(problem)
        elif phase == BODY and running.response_started:
            self.abort()
        elif phase == BODY:
            running.client_gone()
            self.running = None
            self._answer(problem)
        else:
            # An earlier answer is still to come; one for this request would be taken for it.
            self.cycle.keep_alive = False
            self.phase = CLOSING

    def _answer(self, problem: Problem) -> None:
        logger.info("connection refused: %s", problem, extra={"code": problem.code, "client": self.client})
        self.transport.write(raw_problem(problem, self.server_state.default_headers))
        self.finish()

    def finish(self) -> None:
        """Close after what was written, so that the client can read it although it may still be sending.

        Closing a socket with unread data resets the connection, and a reset overtakes the answer.
        """
        unread = self.phase in (HEAD, BODY)
        self.pipeline.clear()  # no answer can follow
        self._unread = b""
        self.phase = CLOSING
        self._since = self.loop.time()
        if unread and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def abort(self) -> None:
        """Break the connection visibly: the answer under way is incomplete."""
        self.phase = CLOSING
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_paused_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_paused_at = None


async def overload(_scope: Any, _receive: Any, send: Any) -> None:
    """The application of requests that come while the server is at its limit."""
    problem = ServiceUnavailable("The gateway is at its limit of concurrent requests.", code="overloaded")
    head, body = problem_answer(problem)
    await send({"type": "http.response.start", "status": 503, "headers": head})
    await send({"type": "http.response.body", "body": body})
