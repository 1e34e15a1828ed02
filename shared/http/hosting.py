"""Runs ASGI applications inside one another: a host enters the lifespans of those it serves."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class Hosted:
    """An application in another one's process: its lifespan runs with ``hosting``, its state per request.

    ``Mount`` skips the lifespan of what it mounts, and httpx's ASGI transport buffers whole bodies, so
    neither serves here.
    """

    def __init__(self, app: Any) -> None:
        self.app: Any = app
        self._state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._state:
            scope["state"] = {**scope.get("state", {}), **self._state}
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start the application and stop it at the end of the block."""
        async with self.app.router.lifespan_context(self.app) as state:
            self._state = dict(state or {})
            yield


@asynccontextmanager
async def hosting(apps: Iterable[ASGIApp]) -> AsyncIterator[None]:
    """Enter ``lifespan()`` of every application that has one: those of this process, and proxies to others."""
    async with AsyncExitStack() as stack:
        for app in apps:
            if hasattr(app, "lifespan"):
                await stack.enter_async_context(app.lifespan())
        yield
