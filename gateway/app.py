"""Composition root of the gateway: a pure ASGI application that starts the services it hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from gateway.addresses import parse_networks
from gateway.authenticate import Authenticator
from gateway.credentials import CHANNEL, Credentials
from gateway.last_used import LastUsed
from gateway.limits import Metering
from gateway.metrics import GatewayMetrics
from gateway.nonces import Nonces
from gateway.operations import Operations
from gateway.pages import Probes, build_pages, read_contract
from gateway.pipeline import Pipeline
from gateway.routing import Operation, Route, RoutingTable
from gateway.signatures import SignatureGate
from gateway.stages import QuotaGate, SignatureVerifier
from gateway.trace import Tracing
from gateway.upstream import HttpUpstream
from shared.db import Database
from shared.db.listener import Listener
from shared.http.hosting import hosting
from shared.settings import Settings
from shared.vault import SIGNING_KEYS, Vault

logger = logging.getLogger(__name__)

LAST_SECONDS = 2.0
"""For giving units back and closing connections when there is no time for a shutdown."""


class Gateway:
    """The gateway as an ASGI application. Its lifespan enters those of the services it hosts."""

    def __init__(self, pipeline: Pipeline, database: Database, parts: _Parts) -> None:
        self._pipeline = pipeline
        self._database = database
        self._parts = parts
        self._stack: AsyncExitStack | None = None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        kind = scope["type"]
        if kind == "http":
            return self._pipeline(scope, receive, send)
        if kind == "lifespan":
            return self._lifespan(receive, send)
        return send({"type": "websocket.close", "code": 1003, "reason": "not supported"})  # type: ignore[no-any-return]

    def drain(self) -> None:
        """Answer ``/readyz`` with 503 from now on, so that no new traffic is sent here."""
        self._parts.probes.draining = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything started: hosted services, database, listener, write-behind."""
        parts = self._parts
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(hosting(self._pipeline.upstreams.values()))
            await self._database.open()
            stack.push_async_callback(self._database.close)
            stack.callback(parts.tracing.close)
            self._pipeline.shedder.start()
            stack.callback(self._pipeline.shedder.stop)
            parts.last_used.start()
            stack.push_async_callback(parts.last_used.stop)
            parts.listener.start()
            stack.push_async_callback(parts.listener.stop)
            stack.push_async_callback(parts.nonces.stop)
            if parts.metering is not None:
                await stack.enter_async_context(parts.metering.running())
            parts.probes.started = True
            try:
                yield
            finally:
                self.drain()

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        stack = AsyncExitStack()
        try:
            await stack.enter_async_context(self.running())
        except Exception as error:
            logger.exception("the gateway cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:  # whoever runs us gives up what is not finished
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await stack.aclose()
            raise
        try:
            await stack.aclose()
        except Exception as error:
            logger.exception("the gateway did not stop cleanly")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


class _Parts:
    """What has a life of its own inside a gateway."""

    def __init__(self, settings: Settings, database: Database) -> None:
        vault = Vault(settings.derive_key(SIGNING_KEYS))
        self.credentials = Credentials(database, vault, settings.credential_grace_seconds)
        self.nonces = Nonces(database)
        self.listener = Listener(
            database, CHANNEL, self.credentials.heard, self._listening, self.credentials.hearing.heard_until
        )
        self.last_used = LastUsed(database)
        self.authenticator = Authenticator(settings, self.credentials, self.last_used)
        self.tracing = Tracing(settings)
        self.metrics = GatewayMetrics()
        self.probes = Probes(settings, self.metrics, parse_networks(settings.trusted_proxies))
        self.probes.listening = lambda: self.listener.connected
        self.metering: Metering | None = None

    def _listening(self, state: bool) -> None:
        self.credentials.listening(state)
        if state:
            self.nonces.begin()


def create_gateway(
    settings: Settings,
    upstreams: Mapping[str, Any],
    routes: Sequence[Route],
    *,
    openapi: Mapping[str, Any] | None = None,
    sign_in: Operation | None = None,
    signatures: SignatureVerifier | None = None,
    quotas: QuotaGate | None = None,
    limited: bool = True,
) -> Gateway:
    """The gateway in front of ``upstreams``: ASGI applications by service name.

    A service in this process is passed as ``Hosted(app)``, one in another as ``HttpUpstream(url)``. ``openapi``
    is the merged document (default: the committed ``openapi/openapi.yaml``), ``sign_in`` the operation the
    welcome page explains. ``quotas`` takes the place of the limits of organisations, which ``limited=False`` leaves out.
    """
    table = RoutingTable(routes)
    database = Database.for_service(settings, "gateway")
    parts = _Parts(settings, database)
    operations = Operations({"paths": {}}, routes)
    if limited and quotas is None:
        openapi = read_contract() if openapi is None else openapi
        if openapi is None:
            logger.error("there is no OpenAPI document: every call costs 1, and routes have no names in limits")
        else:
            operations = Operations(openapi, routes)
        parts.metering = Metering(settings, database, parts.metrics)
        quotas = parts.metering.gate
    pipeline = Pipeline(
        settings,
        upstreams=upstreams,
        table=table,
        authenticator=parts.authenticator,
        pages=build_pages(settings, table, parts.probes, openapi=openapi, sign_in=sign_in),
        tracing=parts.tracing,
        metrics=parts.metrics,
        operations=operations,
        signatures=SignatureGate(parts.nonces) if signatures is None else signatures,
        quotas=quotas,
    )
    _watch(parts, pipeline)
    return Gateway(pipeline, database, parts)


def _watch(parts: _Parts, pipeline: Pipeline) -> None:
    """Show what the gateway does among its figures."""
    watch = parts.metrics.watch
    watch("guardian_gateway_in_flight", "Requests being answered", lambda: pipeline.in_flight)
    watch("guardian_gateway_nonce_calls", "Questions whether signatures are new", lambda: parts.nonces.asked)
    watch("guardian_gateway_key_lookups", "Keys asked of the database", lambda: parts.credentials.keys.lookups)
    watch("guardian_gateway_shed_share", "Share of requests that are refused at once", lambda: pipeline.shedder.share)
    watch("guardian_gateway_loop_late_seconds", "How late the event loop is", lambda: pipeline.shedder.lateness)
    for service, upstream in pipeline.upstreams.items():
        parts.metrics.watch_guard(service, pipeline.guards[service])
        if isinstance(upstream, HttpUpstream):
            upstream.watch(service, parts.metrics)
    watch("guardian_gateway_listening", "1 while changed credentials are heard of", lambda: parts.listener.connected)
