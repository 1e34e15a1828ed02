"""One connection to a service: raw HTTP/1.1 with httptools' parser, one request at a time.

Everything an answer can be wrong in is decided here, so that what leaves this module is an answer or an
``OSError``: two lengths, other transfer codings, junk, a head without end, bytes nobody asked for, an end
in the middle. No task and no stream object is made per request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable

import httptools

from gateway.edge import Pair, without_named
from gateway.headers import WITHOUT_CONTENT

HEAD_BYTES = 65_536
"""The longest head of an answer, together with the interim answers before it."""
HELD_BYTES = 65_536
"""As much of a body is kept for a slow client before the service has to wait."""

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate te trailer transfer-encoding upgrade".split()
)
_RESET = struct.pack("ii", 1, 0)


class NoAnswer(ConnectionResetError):
    """The service ended the connection before the first byte of an answer."""


class BrokenAnswer(ConnectionAbortedError):
    """The service ended the connection in the middle of its answer."""


class BadAnswer(ConnectionError):
    """What the service sent is not an answer that can be passed on."""


class _Excess(Exception):
    """Raised inside a parser callback: the answer is complete, and more bytes follow it."""


class Connection(asyncio.Protocol):
    """``ask``, ``answer``, then ``take`` and ``news`` until everything was taken."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._lost = lost
        self._parser = httptools.HttpResponseParser(self)
        self._spent = False  # the parser waits for a body that does not come
        self.is_open = False
        self.has_slot = False
        """Whether it is one of the pool's bounded number; the pool's to say."""
        self.rests_since = 0.0
        self.sent = True
        self.failure: Exception | None = None
        self.status = 0
        self.headers: list[Pair] = []
        self._asked = False
        self._complete = False
        self._keep = False
        self._bodiless = False
        self._until_close = False
        self._noted: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._reading_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    # -- for the request under way -------------------------------------------------------------------
    def ask(self, request: bytes, *, bodiless: bool, sent: bool) -> None:
        """Write a request, or its head; an answer to HEAD is ``bodiless``. ``sent``: nothing will follow."""
        self._asked = True
        self._complete = self._keep = self._until_close = False
        self._bodiless = bodiless
        self.sent = sent
        self.status = self._head_bytes = self._held = 0
        self.failure = None
        self.transport.write(request)

    async def answer(self) -> None:
        """Wait for the head of the answer. Raises ``NoAnswer`` and other kinds of ``OSError``."""
        while not self.status and self.failure is None:
            await self.news()
        if self.failure is not None:
            raise self.failure  # also when a head came first: nothing is passed on yet, so an error is cleaner

    def take(self) -> tuple[bytes, bool]:
        """What has come of the body, and whether this is its end."""
        if self.failure is not None:
            raise self.failure
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._held = 0
        if self._reading_paused:
            self._reading_paused = False
            if self.is_open:
                self.transport.resume_reading()
        return body, self._complete

    def news(self) -> asyncio.Future[None]:
        """To be awaited: done when there is more to take, or the connection has failed."""
        waiter = self._waiter = self._loop.create_future()
        if self._pieces or self._complete or self.failure is not None:
            waiter.set_result(None)
        return waiter

    async def write(self, *pieces: bytes) -> None:
        """Write a part of the request's body, and wait while the service does not take it."""
        if self.is_open:
            self.transport.writelines(pieces)
            if self._writable is not None:
                await self._writable

    def fail(self, failure: Exception) -> None:
        """Give up on the request; whoever waits for its answer gets ``failure``."""
        if not self._complete and self.failure is None:
            self.failure = failure
            self._wake()
        self.abort()

    # -- for the pool --------------------------------------------------------------------------------
    def rest(self) -> bool:
        """End the request; whether the connection is good for another one."""
        good = self.is_open and self._keep and self._complete and self.sent
        self._asked = False
        self.rests_since = self._loop.time()
        return good

    def is_quiet(self) -> bool:
        """Whether nothing has come while it rested, also nothing (like an end) the loop has not seen yet."""
        poll = select.poll()
        poll.register(self._descriptor(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """Close at once; with a reset where a request is under way, because a mere end may mean "I have asked all"."""
        if self.is_open and self._asked and not self._complete:
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.is_open = False
        self.transport.abort()

    # -- the transport's callbacks -------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a socket's transport reads and writes
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self._keep = False
            self.abort()  # not an answer to anything: the next request must not get it
            return
        before = self._head_bytes
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if not self._complete:
                self.fail(error.__context__ if isinstance(error.__context__, BadAnswer) else BadAnswer(str(error)))
                return
        if not self.status:
            if self._head_bytes > HEAD_BYTES:
                self.fail(BadAnswer("the head has no end"))
            return
        if self._spent:
            self._parser, self._spent = httptools.HttpResponseParser(self), False
        if before <= HEAD_BYTES < self._head_bytes and self._is_head_too_long():
            self.fail(BadAnswer("the head is too long"))
        self._wake()

    def eof_received(self) -> bool:
        self.is_open = False
        if self._until_close and self.failure is None:
            self._complete = True
            self._wake()
        else:
            self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if not self.sent and isinstance(exc, OSError):
            self._read_what_is_left()
        self._end(exc)
        self.resume_writing()
        self._lost(self)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- the parser's callbacks ----------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._complete:
            raise _Excess
        self.headers = []
        self._noted = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        name = name.lower()
        if name in HOP_BY_HOP:
            noted = self._noted
            noted[name] = noted[name] + b", " + value if name in noted else value
        else:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser, noted = self._parser, self._noted
        status = parser.get_status_code()
        if status < 200 and status != 101:
            return  # an interim answer
        version = parser.get_http_version()
        if version not in ("1.1", "1.0") or not 200 <= status <= 599:
            raise BadAnswer(f"HTTP/{version} with status {status}")
        coding = noted.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            raise BadAnswer("'chunked' is the only transfer coding, in HTTP/1.1 only")
        connection = noted.get(b"connection")
        if connection is not None and connection not in (b"keep-alive", b"close"):
            self.headers = without_named(self.headers, connection)
        self.status = status
        self._keep = parser.should_keep_alive()
        if self._bodiless or status in WITHOUT_CONTENT:
            self._complete = self._spent = True
            if status in WITHOUT_CONTENT:
                self.headers = [pair for pair in self.headers if pair[0] != b"content-length"]
        elif coding is None:
            self._until_close = all(name != b"content-length" for name, _ in self.headers)

    def on_body(self, body: bytes) -> None:
        if self._complete:
            raise _Excess
        self._pieces.append(body)
        self._held += len(body)
        if self._held > HELD_BYTES and not self._reading_paused and self.is_open:
            self._reading_paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            self._spent = False

    # ------------------------------------------------------------------------------------------------
    def _read_what_is_left(self) -> None:
        """A service that answers early may reset the connection; a failed write must not hide the answer."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._descriptor())) as left:
            while self._asked and not self._complete and (data := left.recv(HELD_BYTES, socket.MSG_DONTWAIT)):
                self.data_received(data)

    def _descriptor(self) -> int:
        number: int = self.transport.get_extra_info("socket").fileno()
        return number

    def _end(self, cause: Exception | None) -> None:
        if self._asked and not self._complete and self.failure is None:
            failure = (BrokenAnswer if self._head_bytes else NoAnswer)("the service closed the connection")
            failure.__cause__ = cause
            self.fail(failure)

    def _is_head_too_long(self) -> bool:
        return sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
