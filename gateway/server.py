"""The HTTP server in front of the gateway: uvicorn with uvloop, httptools and the guarded protocol."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import socket
from typing import Any

import uvicorn

from gateway.addresses import parse_networks
from gateway.app import Gateway
from gateway.connections import ConnectionGuard, ConnectionLimits
from gateway.protocol import GuardedProtocol
from shared.settings import Settings

GRACE_SECONDS = 10
CONCURRENT_REQUESTS = 2_000


def require_fast_server() -> None:
    """Raise ``RuntimeError`` unless uvloop and httptools are there: without them a process does a third."""
    for module in ("uvloop", "httptools"):
        if importlib.util.find_spec(module) is None:
            raise RuntimeError(f"the gateway needs the package {module}; install the locked requirements again")


def connection_limits(settings: Settings) -> ConnectionLimits:
    """The limits of connections that settings name."""
    return ConnectionLimits(
        header_seconds=settings.header_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        idle_seconds=settings.idle_timeout_seconds,
        per_address=settings.connections_per_address,
        uncounted=parse_networks(settings.trusted_proxies),
    )


def server_config(app: Any, settings: Settings, limits: ConnectionLimits | None = None) -> uvicorn.Config:
    """Uvicorn's configuration: forwarded headers and access logs are the pipeline's business, not its."""
    require_fast_server()
    guard = ConnectionGuard(limits or connection_limits(settings))
    protocol: Any = functools.partial(GuardedProtocol, guard=guard)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        forwarded_allow_ips=[],
        server_header=False,
        date_header=True,
        limit_concurrency=CONCURRENT_REQUESTS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class GatewayServer(uvicorn.Server):
    """Runs a gateway. Stopping first says so at ``/readyz`` for ``drain_seconds``, then closes the door."""

    def __init__(
        self,
        app: Gateway,
        settings: Settings,
        *,
        limits: ConnectionLimits | None = None,
        drain_seconds: float = 0.0,
    ) -> None:
        super().__init__(server_config(app, settings, limits))
        self._app = app
        self._drain_seconds = drain_seconds

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal or ``should_exit``; refuses any other event loop than uvloop's."""
        loop = type(asyncio.get_running_loop()).__module__
        if loop != "uvloop":
            raise RuntimeError(f"the gateway must run on uvloop, not on {loop}")
        await super().serve(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.drain()
        await asyncio.sleep(self._drain_seconds)
        await super().shutdown(sockets)
