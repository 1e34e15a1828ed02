"""Headers of every answer: what a service may not say, and what the gateway adds."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.edge import Pair
from shared.settings import Settings

_REPLACED = (
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate "
    "server date x-powered-by guardian-identity x-request-id traceparent tracestate "
    "x-content-type-options referrer-policy strict-transport-security x-frame-options "
    "access-control-allow-origin access-control-allow-credentials access-control-expose-headers"
)
_ALWAYS: tuple[Pair, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_HSTS: Pair = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
_CSP_OF_DATA: Pair = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_CSP_OF_HTML: Pair = (
    b"content-security-policy",
    b"default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'",
)
_NO_STORE: Pair = (b"cache-control", b"no-store")

_DROP, _CSP, _CACHE, _TYPE = range(1, 5)


class AnswerHeaders:
    """Makes the headers a client receives from those a service sent."""

    def __init__(self, settings: Settings) -> None:
        self._rules = {name.encode(): _DROP for name in _REPLACED.split()}
        self._rules |= {b"content-security-policy": _CSP, b"cache-control": _CACHE, b"content-type": _TYPE}
        self._plain = _ALWAYS
        self._secure = (*_ALWAYS, _HSTS)
        if settings.environment == "production":
            self._plain = self._secure

    def make(self, sent: Iterable[Pair], *, secure: bool, private: bool) -> list[Pair]:
        """``private`` answers belong to a caller and are not stored unless the service says otherwise."""
        rules = self._rules
        made: list[Pair] = []
        policy, cache = _CSP_OF_DATA, False
        for pair in sent:
            rule = rules.get(pair[0])
            if rule is None:
                made.append(pair)
            elif rule == _TYPE:
                made.append(pair)
                if policy is _CSP_OF_DATA and pair[1].startswith(b"text/html"):
                    policy = _CSP_OF_HTML
            elif rule == _CSP:
                policy = pair
            elif rule == _CACHE:
                cache = True
                made.append(pair)
        made += self._secure if secure else self._plain
        made.append(policy)
        if private and not cache:
            made.append(_NO_STORE)
        return made
