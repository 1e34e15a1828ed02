"""What comes from the client of one request: its content, counted, checked, and in whose name it came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gateway.answering import Answering
from gateway.stages import gathered
from gateway.upstream import GATHERED_BYTES
from shared.errors import BadRequest, ContentTooLarge, Problem, ServiceUnavailable

if TYPE_CHECKING:
    from gateway.credentials import Credential
    from gateway.cycle import Cycle
    from gateway.pipeline import Pipeline
    from gateway.stages import Content

_SLOW_SECONDS = 1.0
"""What was changed of a credential is in force after so long, also for content that came meanwhile."""


class Receiving(Answering):
    """The side of an exchange that reads. Whoever receives all of the content may do what was asked."""

    __slots__ = ("_body_left", "_body_seen_at", "_content", "_credential", "_raw_receive", "_reading")

    def __init__(self, core: Pipeline, scope: Any, receive: Any, send: Any) -> None:
        super().__init__(core, scope, send)
        self._raw_receive = receive
        self._body_left = -1  # bytes; -1: no body is expected
        self._body_seen_at = 0.0
        self._reading = False
        self._content: Content | None = None
        self._credential: Credential | None = None

    def _expect_body(self, length: bytes) -> None:
        if not length.isdigit():
            raise BadRequest("Content-Length must be one number.")
        size = int(length) if len(length) < 20 else self.core.max_body_bytes + 1
        if size > self.core.max_body_bytes:
            raise self._too_large()
        if size:
            self._body_left = size

    def _too_large(self) -> Problem:
        limit = self.core.max_body_bytes
        self._extra.append((b"connection", b"close"))  # what is left of the body is not read
        return ContentTooLarge(f"The limit is {limit} bytes.", limit=limit)

    async def piece(self) -> Any:
        """The content's next piece, checked; raises the problem that answers the request."""
        self._reading = self._body_left > 0
        message = await self._raw_receive()
        self._reading = False
        if message["type"] == "http.request":
            more = message.get("more_body", False)
            self._body_seen_at = time.perf_counter()
            self._count(message.get("body", b""))
            if not more:
                await self._finish(waited=True)
        return message

    async def _gathered(self, receive: Any, cycle: Cycle | None) -> tuple[bytes, bool]:
        """All of a small content, or what a larger one begins with; and whether there is more. It has been checked."""
        content = None if cycle is None or receive != self.piece else cycle.whole_content()
        if content is not None:
            self._count(content)
            await self._finish(waited=False)
            return content, False
        begun = bytearray()
        more = await gathered(receive, begun, GATHERED_BYTES)
        return bytes(begun), more

    def _count(self, content: bytes) -> None:
        self._body_left -= len(content)
        if self._body_left < 0:
            raise self._too_large()
        if self._content is not None:
            self._content.update(content)

    async def _finish(self, *, waited: bool) -> None:
        self._body_left = 0
        if waited and time.perf_counter() - self.started > _SLOW_SECONDS:
            await self._check_credential()
        if self._content is not None:
            await self._content.finish(waited=waited)

    async def _check_credential(self) -> None:
        """Raise unless the caller may still do what it might when the head came."""
        core, method, before = self.core, self.scope["method"], self._credential
        public = core.table.is_public(method, self.scope["path"])
        found = await core.authenticator.identify(method, self.noted, public=public)
        if found is before or (
            found is not None and before is not None and found.allows_all_of(before, self._came_at())
        ):
            return
        raise ServiceUnavailable("What this caller may do was changed while its content came; send the request again.")

    def _came_at(self) -> float:
        return time.time() - (time.perf_counter() - self.started)
