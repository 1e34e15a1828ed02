"""Cross-origin reads, for the origins that settings name and for no others."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.edge import Pair
from shared.settings import Settings

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = (
    b"Authorization, Content-Digest, Content-Type, Idempotency-Key, If-Match, If-None-Match, Signature, Signature-Input, "
    b"Traceparent, Tracestate, X-Request-Id"
)
_EXPOSED = (
    b"Content-Digest, ETag, Guardian-Answer-Unsigned, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, "
    b"Retry-After, Server-Timing, Signature, Signature-Input, X-Request-Id"
)
_SECONDS = b"7200"


class Cors:
    """``*`` allows every origin, without cookies; a named origin may send its user's session."""

    def __init__(self, settings: Settings) -> None:
        origins = {origin.strip().rstrip("/").lower().encode() for origin in settings.cors_origins}
        self._any = b"*" in origins
        self._named = origins - {b"*"}
        self.enabled = bool(origins)

    def headers(self, origin: bytes | None) -> list[Pair]:
        """What an answer to a request of ``origin`` carries."""
        if not self.enabled:
            return []
        vary = [(b"vary", b"Origin")]
        if origin is None:
            return vary
        if origin.lower() in self._named:
            return [
                *vary,
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-expose-headers", _EXPOSED),
            ]
        if self._any:
            return [*vary, (b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED)]
        return vary

    def preflight(self, method: str, noted: Mapping[bytes, bytes]) -> list[Pair] | None:
        """The headers that answer a preflight; None when the request is none, or CORS is off."""
        if method != "OPTIONS" or not self.enabled:
            return None
        origin = noted.get(b"origin")
        if origin is None or b"access-control-request-method" not in noted:
            return None
        headers = self.headers(origin)
        if len(headers) > 1:
            headers += [
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", _REQUEST_HEADERS),
                (b"access-control-max-age", _SECONDS),
            ]
        return headers
