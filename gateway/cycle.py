"""One request and its answer on a connection.

The part of uvicorn's cycle that the gateway needs, with what it costs in mind: no event object, the head of an answer
written together with the first of its content, one look at all of the head instead of one at each field.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gateway.headers import WITHOUT_CONTENT
from gateway.problems import UpstreamAborted
from gateway.rendering import problem_answer
from shared.errors import Problem

if TYPE_CHECKING:
    from gateway.edge import Pair
    from gateway.protocol import GuardedProtocol

logger = logging.getLogger(__name__)

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b" % (status, status.phrase.encode()) for status in HTTPStatus}
_TEXT = bytes(each for each in range(256) if each == 0x09 or (each >= 0x20 and each != 0x7F))
"""What a field may consist of (RFC 9110 §5.5); the rest of a head must be its line ends."""


class Cycle:
    """Runs the application for one request. ``send`` and ``receive`` are its side of ASGI."""

    __slots__ = (
        "_continue",
        "_head",
        "_left",
        "_news",
        "_waiter",
        "body",
        "chunked",
        "connection",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "task",
    )

    def __init__(self, connection: GuardedProtocol, scope: Any, *, expect_continue: bool, keep_alive: bool) -> None:
        self.connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self._continue = expect_continue
        self.disconnected = False
        self.body = b""
        self.more_body = True
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        self.response_started = False
        self.response_complete = False
        self.chunked = False
        self._head: bytes | None = None
        self._left = 0
        self.task: asyncio.Task[None] | None = None

    # -- what the connection tells -------------------------------------------------------------------
    def wake(self) -> None:
        """Something was received, or will not be."""
        self._news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def client_gone(self) -> None:
        """The client has left: nothing is worth doing for it any more."""
        self.disconnected = True
        self.wake()
        if self.task is not None and not self.response_complete:
            self.task.cancel()

    # -- ASGI ----------------------------------------------------------------------------------------
    async def receive(self) -> dict[str, Any]:
        """The next piece of the content, or that the client has left."""
        connection = self.connection
        if self._continue and not connection.transport.is_closing():
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._continue = False
        if not self._news and not self.disconnected and not self.response_complete:
            if not connection.pipeline:  # or reading would only find more requests that have to wait
                connection.flow.resume_reading()
            self._waiter = connection.loop.create_future()
            await self._waiter
            self._waiter = None
        self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    def whole_content(self) -> bytes | None:
        """All of the content, if it is here and nobody has received any of it; it need not be received then."""
        if self.more_body or not self._news or self.disconnected:
            return None
        self._news = False
        body, self.body = self.body, b""
        return body

    def respond(self, status: int, headers: list[Pair], content: bytes) -> None:
        """The whole answer at once, in place of what ``send`` would be told in two messages."""
        if self.disconnected:
            return
        self.response_started = True
        self._head = self._start(status, headers)
        self._content(content, more=False)

    async def send(self, message: Any) -> None:
        """A part of the answer. Its head waits for the content that comes with it, for as long as nothing else happens."""
        connection = self.connection
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"an answer begins with its start, not with {kind}")
            self._head = self._start(message["status"], message["headers"])
            self.response_started = True
            self._continue = False
            connection.loop.call_soon(self._flush)
        elif kind == "http.response.body" and not self.response_complete:
            self._content(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} does not belong behind what was sent")

    def _start(self, status: int, headers: Any) -> bytes:
        pairs = [*self.connection.server_state.default_headers, *headers]
        fields = dict(pairs)
        if b"connection" in fields or b"transfer-encoding" in fields:
            self.keep_alive = self.keep_alive and b"close" not in fields.get(b"connection", b"").lower()
            pairs = [pair for pair in pairs if pair[0] not in (b"connection", b"transfer-encoding")]
        if not self.keep_alive:
            pairs.append((b"connection", b"close"))
        length = fields.get(b"content-length")
        if self.scope["method"] == "HEAD" or status in WITHOUT_CONTENT:
            self._left = 0
        elif length is None:
            self.chunked = True
            pairs.append((b"transfer-encoding", b"chunked"))
        else:
            self._left = int(length)
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
        head = b"\r\n".join((line, *map(b": ".join, pairs), b"", b""))
        if len(head.translate(None, _TEXT)) != 2 * len(pairs) + 4:
            raise RuntimeError("a control character in the head of an answer")
        return head

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self.disconnected:
            self.connection.transport.write(head)

    def _content(self, content: bytes, *, more: bool) -> None:
        head, self._head = self._head, None
        if self.scope["method"] == "HEAD":
            content = b""
        elif self.chunked:
            content = b"".join(_chunk(content, more=more))
        else:
            self._left -= len(content)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("content of another length than Content-Length")
        if head is not None:
            content = head + content
        transport = self.connection.transport
        if content:
            transport.write(content)
        if not more:
            self.response_complete = True
            self.wake()
            if not self.keep_alive:
                self.connection.finish()
            self.connection.on_response_complete()

    # -- the task ------------------------------------------------------------------------------------
    async def run(self, app: Any) -> None:
        """Run the application. A failure before the answer is a 500; later it breaks the connection."""
        try:
            if self.connection.flow.write_paused:  # who does not read has nothing more done for it
                await self.connection.flow.drain()
            await app(self.scope, self.receive, self.send)
            if self.response_complete or self.disconnected:
                return
            logger.error("the application returned before its answer was complete")
        except asyncio.CancelledError:
            if self.disconnected:
                return
            logger.warning("a request was cancelled at shutdown")
        except UpstreamAborted as error:
            logger.warning("an answer was broken off: %s", error)
        except Exception:
            logger.exception("unhandled error in the gateway")
        finally:
            del self.scope["guardian.cycle"]  # or each request would be garbage that holds itself
        if not (self.disconnected or self.response_complete):
            await self._give_up()

    async def _give_up(self) -> None:
        if self.response_started:
            self._flush()
            self.connection.abort()
        else:
            headers, body = problem_answer(Problem("The error has been logged."))
            await self.send({"type": "http.response.start", "status": 500, "headers": headers})
            await self.send({"type": "http.response.body", "body": body, "more_body": False})


def _chunk(content: bytes, *, more: bool) -> tuple[bytes, ...]:
    chunk = (b"%x\r\n" % len(content), content, b"\r\n") if content else ()
    return chunk if more else (*chunk, b"0\r\n\r\n")
