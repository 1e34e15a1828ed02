"""The pipeline's parts, and what happens to a request in which order.

Edge guard → route → authenticate → verify signature → take a quota → trace → forward → headers, in one
object per request and without a framework: the whole of it has some sixty microseconds to spend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.addresses import parse_networks
from gateway.answers import platform_key
from gateway.authenticate import Authenticator
from gateway.cors import Cors
from gateway.deadlines import Deadlines
from gateway.edge import HeaderRules, PathAndHost
from gateway.exchange import Exchange
from gateway.guards import Guard
from gateway.headers import AnswerHeaders
from gateway.metrics import GatewayMetrics
from gateway.operations import Operations
from gateway.pages import Page
from gateway.routing import RoutingTable
from gateway.shedding import Shedder
from gateway.stages import QuotaGate, SignatureVerifier
from gateway.trace import Tracing
from shared.auth import TIMEOUT_HEADER, Claims, IdentitySigner
from shared.settings import Settings


class Pipeline:
    """Everything requests share. An upstream is an ASGI application, by its service's name."""

    def __init__(
        self,
        settings: Settings,
        *,
        upstreams: Mapping[str, Any],
        table: RoutingTable,
        authenticator: Authenticator,
        pages: Mapping[str, Page],
        tracing: Tracing,
        metrics: GatewayMetrics,
        operations: Operations,
        signatures: SignatureVerifier | None = None,
        quotas: QuotaGate | None = None,
    ) -> None:
        missing = {route.service for route in table.routes} - set(upstreams)
        if missing:
            raise ValueError(f"routes lead to services that are not there: {', '.join(sorted(missing))}")
        self.upstreams = dict(upstreams)
        self.guards = {service: Guard() for service in self.upstreams}
        self.shedder = Shedder(lambda: sum(guard.bulkhead.present for guard in self.guards.values()))
        self.operations = operations
        self.table = table
        self.authenticator = authenticator
        self.pages = pages
        self.tracing = tracing
        self.metrics = metrics
        self.signatures = signatures
        self.quotas = quotas
        self.rules = HeaderRules()
        self.guard = PathAndHost()
        self.answers = AnswerHeaders(settings)
        self.cors = Cors(settings)
        self.platform = platform_key(settings)
        self.signer = IdentitySigner(settings.derive_key, "gateway")
        self.trusted = parse_networks(settings.trusted_proxies)
        self.max_body_bytes = settings.max_body_bytes
        self.timeout = settings.request_timeout_seconds
        self.patience = (TIMEOUT_HEADER, b"%d" % (1000 * self.timeout))
        self.anonymous: dict[str, Claims] = {}
        self.deadlines, self.in_flight = Deadlines(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.in_flight += 1
        try:
            await Exchange(self, scope, receive, send).run()
        finally:
            self.in_flight -= 1
