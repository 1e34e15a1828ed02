"""The gateway's own pages: welcome, API reference, probes and figures. Everything is served from here;
no page loads anything from elsewhere, and none holds an inline script or style.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import orjson
import yaml
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from gateway.addresses import is_loopback, within
from gateway.answers import jwk_set, platform_key
from shared.errors import Forbidden, MethodNotAllowed, NotFound, ServiceUnavailable

if TYPE_CHECKING:
    from gateway.edge import Pair
    from gateway.exchange import Exchange
    from gateway.metrics import GatewayMetrics
    from gateway.routing import Operation, RoutingTable
    from shared.settings import Settings

Answer = tuple[int, list["Pair"], bytes]
Page = Callable[["Exchange"], Awaitable[Answer]]

STATIC = Path(__file__).parent / "static"
CONTRACT = Path(__file__).parent.parent / "openapi" / "openapi.yaml"

_HTML = b"text/html; charset=utf-8"
_SITE_POLICY = (
    b"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REVALIDATE = (b"cache-control", b"public, max-age=300")
_AN_HOUR = (b"cache-control", b"public, max-age=3600")


def only(*methods: str) -> Callable[[Page], Page]:
    """Refuse other methods with 405."""

    def wrap(page: Page) -> Page:
        async def guarded(exchange: Exchange) -> Answer:
            if exchange.scope["method"] not in methods:
                raise MethodNotAllowed(headers={"Allow": ", ".join(methods)})
            return await page(exchange)

        return guarded

    return wrap


class Asset:
    """A file, read when it is first asked for, and kept compressed."""

    def __init__(self, path: Path, content_type: bytes, *headers: Pair) -> None:
        self._path = path
        self._headers = [(b"content-type", content_type), (b"vary", b"Accept-Encoding"), *headers]
        self._zipped: bytes | None = None
        self._etag = b""

    async def __call__(self, exchange: Exchange) -> Answer:
        if self._zipped is None:
            await asyncio.to_thread(self._load)
        asked = dict(exchange.headers)
        headers = [*self._headers, (b"etag", self._etag)]
        if asked.get(b"if-none-match") == self._etag:
            return 304, headers, b""
        zipped: bytes = self._zipped or b""
        if b"gzip" in asked.get(b"accept-encoding", b""):
            return 200, [*headers, (b"content-encoding", b"gzip")], zipped
        return 200, headers, gzip.decompress(zipped)

    def _load(self) -> None:
        content = self._path.read_bytes()
        self._etag = b'"%b"' % hashlib.sha256(content).hexdigest()[:24].encode()
        self._zipped = gzip.compress(content, 6, mtime=0)


def read_contract() -> dict[str, Any] | None:
    """The committed document (a tenth of a second), or None where there is none."""
    if not CONTRACT.is_file():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document: dict[str, Any] = yaml.load(CONTRACT.read_bytes(), loader)  # noqa: S506 (a safe loader, in C)
    return document


class Contract:
    """The merged OpenAPI document, as JSON."""

    def __init__(self, document: Mapping[str, Any] | None) -> None:
        self._body = None if document is None else orjson.dumps(document)

    async def __call__(self, _exchange: Exchange) -> Answer:
        if self._body is None:
            document = await asyncio.to_thread(read_contract)
            if document is None:
                raise NotFound("This gateway was started without an OpenAPI document; 'guardian contracts' writes it.")
            self._body = orjson.dumps(document)
        return 200, [(b"content-type", b"application/json"), _REVALIDATE], self._body


class Probes:
    """``/livez``, ``/readyz`` and ``/metrics``. None of them asks a dependency."""

    def __init__(self, settings: Settings, metrics: GatewayMetrics, trusted: tuple[Any, ...]) -> None:
        self._public = settings.metrics_public
        self._metrics = metrics
        self._trusted = trusted
        self.listening: Callable[[], bool] = lambda: True
        self.started = False
        self.draining = False

    async def livez(self, _exchange: Exchange) -> Answer:
        return 200, [(b"content-type", b"application/json"), (b"cache-control", b"no-store")], b'{"status":"ok"}'

    async def readyz(self, _exchange: Exchange) -> Answer:
        """Ready while traffic should come here. Losing the database makes answers 503 on every gateway
        alike, so it is told but does not count: taking all of them out would help nobody.
        """
        if not self.started or self.draining:
            raise ServiceUnavailable("The gateway is stopping." if self.draining else "The gateway is starting.")
        credentials = "listening" if self.listening() else "database lost"
        body = orjson.dumps({"status": "ok", "credentials": credentials})
        return 200, [(b"content-type", b"application/json"), (b"cache-control", b"no-store")], body

    async def metrics(self, exchange: Exchange) -> Answer:
        if not self._public and not self._near(exchange):
            raise Forbidden("Figures are shown to this machine and to trusted proxies.", code="metrics_not_public")
        body = generate_latest(self._metrics.registry) + generate_latest(REGISTRY)
        return 200, [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"cache-control", b"no-store")], body

    def _near(self, exchange: Exchange) -> bool:
        if within(exchange.client, self._trusted):
            return True
        # A proxy on this machine that nobody declared: the request comes from somewhere else.
        relayed = not {b"forwarded", b"x-forwarded-for"}.isdisjoint(exchange.noted)
        return is_loopback(exchange.client) and not relayed


def welcome(settings: Settings, table: RoutingTable, sign_in: Operation | None) -> Page:
    """``/``: what runs here, where the API reference is, and how to sign in."""
    by_service: dict[str, list[str]] = {}
    for route in table.routes:
        by_service.setdefault(route.service, []).append(route.prefix)
    services = "".join(
        f"<li><h3>{escape(name)}</h3><p>{' '.join(f'<code>{escape(p)}</code>' for p in sorted(prefixes))}</p></li>"
        for name, prefixes in sorted(by_service.items())
    )
    first = "/v1/contacts" if table.match("/v1/contacts") else min((r.prefix for r in table.routes), default="/livez")
    body = Template((STATIC / "welcome.html").read_text()).substitute(
        services=services,
        count=len(by_service),
        first_call=escape(f'curl {settings.base_url}{first} \\\n  -H "Authorization: Bearer gdn_…"'),
        sign_in=_sign_in(settings, sign_in),
        key_hint=_key_hint(settings),
    )
    page = body.encode()
    headers = [(b"content-type", _HTML), (b"content-security-policy", _SITE_POLICY), _REVALIDATE]

    async def answer(_exchange: Exchange) -> Answer:
        return 200, headers, page

    return answer


def _key_hint(settings: Settings) -> str:
    if settings.environment != "development" or not settings.demo:
        return "An administrator of your organisation makes keys; each is shown once."
    # A path can have somebody's name in it, which is told on this machine alone.
    local = is_loopback(settings.host) and settings.public_url is None and not settings.trusted_proxies
    kept = f"<code>{escape(str(settings.home / 'demo.json'))}</code>"
    if not local:
        kept = "<code>demo.json</code>, in the folder <code>GUARDIAN_HOME</code>"
    return f"<code>make run</code> prints a key of the demo organisation and keeps it in {kept}."


def _sign_in(settings: Settings, operation: Operation | None) -> str:
    if operation is None:
        return ""
    method, path = operation
    command = (
        f"curl -X {method} {settings.base_url}{path} \\\n  -H 'Content-Type: application/json' \\\n"
        f'  -c session.txt -d \'{{"email": "…", "password": "…"}}\''
    )
    return (
        "<h3>As a person</h3><p>Sign in with your e-mail and password; the answer sets a session cookie.</p>"
        f'<pre tabindex="0"><code>{escape(command)}</code></pre>'
    )


def answer_key(settings: Settings) -> Page:
    """``/.well-known/guardian-answer-key``: the public half of the platform's own key for answers (RFC 7517 §5)."""
    body = orjson.dumps(jwk_set(platform_key(settings)))

    async def answer(_exchange: Exchange) -> Answer:
        return 200, [(b"content-type", b"application/jwk-set+json"), _AN_HOUR], body

    return answer


def build_pages(
    settings: Settings,
    table: RoutingTable,
    probes: Probes,
    *,
    openapi: Mapping[str, Any] | None,
    sign_in: Operation | None,
) -> dict[str, Page]:
    """Every path the gateway answers itself."""
    swagger = _swagger_folder()
    style, script, icon = b"text/css; charset=utf-8", b"text/javascript; charset=utf-8", b"image/svg+xml"
    document = (b"content-security-policy", _DOCS_POLICY)
    pages: dict[str, Page] = {
        "/": welcome(settings, table, sign_in),
        "/docs": Asset(STATIC / "docs.html", _HTML, document, _REVALIDATE),
        "/openapi.json": Contract(openapi),
        "/livez": probes.livez,
        "/readyz": probes.readyz,
        "/metrics": probes.metrics,
        "/.well-known/guardian-answer-key": answer_key(settings),
        "/favicon.ico": Asset(STATIC / "favicon.svg", icon, _REVALIDATE),
        "/assets/favicon.svg": Asset(STATIC / "favicon.svg", icon, _REVALIDATE),
        "/assets/welcome.css": Asset(STATIC / "welcome.css", style, _REVALIDATE),
        "/assets/docs.css": Asset(STATIC / "docs.css", style, _REVALIDATE),
        "/assets/docs.js": Asset(STATIC / "docs.js", script, _REVALIDATE),
        "/assets/swagger-ui.css": Asset(swagger / "swagger-ui.css", style, _REVALIDATE),
        "/assets/swagger-ui-bundle.js": Asset(swagger / "swagger-ui-bundle.js", script, _REVALIDATE),
    }
    guard = only("GET", "HEAD")
    return {path: guard(page) for path, page in pages.items()}


def _swagger_folder() -> Path:
    """Swagger UI's files as the package fastapi-offline brings them; found without importing it."""
    spec = find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package fastapi-offline, which holds Swagger UI, is not installed")
    return Path(spec.submodule_search_locations[0]) / "static"
