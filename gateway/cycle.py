"""One request and its answer on a connection: uvicorn's cycle with our own last resorts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.problems import UpstreamAborted
from gateway.rendering import problem_answer
from shared.errors import Problem

if TYPE_CHECKING:
    from gateway.protocol import GuardedProtocol

logger = logging.getLogger(__name__)


class Outbound:
    """The transport as a cycle sees it: closing waits until the client can have read the answer."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: GuardedProtocol, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = connection.finish


class Cycle(RequestResponseCycle):
    """Runs the application for one request."""

    task: asyncio.Task[None] | None = None
    connection: GuardedProtocol

    def client_gone(self) -> None:
        """The client has left: nothing is worth doing for it any more."""
        self.disconnected = True
        self.message_event.set()
        if self.task is not None and not self.response_complete:
            self.task.cancel()

    async def run_asgi(self, app: Any) -> None:
        """Run the application. A failure before the answer is a 500; later it breaks the connection."""
        try:
            if not await self._run(app):
                await self._give_up()
        finally:
            self.on_response = _nothing

    async def _run(self, app: Any) -> bool:
        try:
            await app(self.scope, self.receive, self.send)
            if self.response_complete or self.disconnected:
                return True
            logger.error("the application returned before its answer was complete")
        except asyncio.CancelledError:
            if self.disconnected:
                return True
            logger.warning("a request was cancelled at shutdown")
        except UpstreamAborted as error:
            logger.warning("an answer was broken off: %s", error)
        except Exception:
            logger.exception("unhandled error in the gateway")
        return self.disconnected or self.response_complete

    async def _give_up(self) -> None:
        if self.response_started:
            self.connection.abort()
        else:
            headers, body = problem_answer(Problem("The error has been logged."))
            await self.send({"type": "http.response.start", "status": 500, "headers": headers})
            await self.send({"type": "http.response.body", "body": body, "more_body": False})


def _nothing() -> None:
    """What a finished cycle still calls when its transport is gone."""
