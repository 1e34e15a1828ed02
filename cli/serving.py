"""The server of one service's process: uvicorn, which drains before it ends."""

import asyncio
import logging
import socket
from typing import Any

import uvicorn

from cli.start import BACKLOG, ObeysNoSignals, Stopping, collect_seldom

GRACE_SECONDS = 8
KEEP_ALIVE_SECONDS = 75
"""Longer than whoever pools connections to us keeps them, so that a request never meets a closing one."""


class ServiceServer(ObeysNoSignals, uvicorn.Server):  # type: ignore[misc]
    """Runs one application on a socket. Stopping first says so at ``/readyz`` for ``drain_seconds``."""

    def __init__(self, app: Any, *, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app, loop="uvloop", http="httptools", ws="none", lifespan="on", interface="asgi3", log_config=None,
                access_log=False, proxy_headers=False, server_header=False, date_header=False, backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )  # fmt: skip
        self._state = app.state
        self._drain_seconds = drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so, wait, close the door, finish what was begun."""
        self._state.draining = True
        await asyncio.sleep(self._drain_seconds)
        await super().shutdown(sockets)


async def serve(server: uvicorn.Server, listener: socket.socket, stopping: Stopping) -> None:
    """Serve until asked to stop and what was begun is finished; asked again, give up what was begun."""

    async def obey(limit: asyncio.Timeout) -> None:
        await stopping.asked.wait()
        server.should_exit = True
        await stopping.insisted.wait()
        logging.disable(logging.CRITICAL)  # everything that is cut off now would say so, with a traceback
        limit.reschedule(asyncio.get_running_loop().time())

    collect_seldom()
    limit = asyncio.timeout(None)
    try:
        async with limit:
            obeying = asyncio.create_task(obey(limit))
            try:
                await server.serve(sockets=[listener])
            finally:
                obeying.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
