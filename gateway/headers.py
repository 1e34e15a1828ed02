"""Headers of every answer: what a service may not say, and what the gateway adds."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.edge import Pair
from shared.settings import Settings

WITHOUT_CONTENT = (204, 304)
"""Statuses whose answers have none (RFC 9110 §6.4.1)."""
_REPLACED = (
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate "
    "server date x-powered-by guardian-identity guardian-answer-unsigned x-request-id traceparent tracestate "
    "x-content-type-options referrer-policy strict-transport-security x-frame-options "
    "access-control-allow-origin access-control-allow-credentials access-control-expose-headers "
    "x-ratelimit-limit x-ratelimit-remaining x-ratelimit-reset"
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
_REFUSED = 429

_DROP, _CSP, _CACHE, _TYPE, _LIMIT = range(1, 6)


class AnswerHeaders:
    """Makes the headers a client receives from those a service sent."""

    def __init__(self, settings: Settings) -> None:
        self._rules = {name.encode(): _DROP for name in _REPLACED.split()}
        self._rules |= {b"content-security-policy": _CSP, b"cache-control": _CACHE, b"content-type": _TYPE}
        self._rules |= {b"ratelimit": _LIMIT, b"ratelimit-policy": _LIMIT}
        self._plain = _ALWAYS
        self._secure = (*_ALWAYS, _HSTS)
        if settings.environment == "production":
            self._plain = self._secure

    def make(self, status: int, sent: Iterable[Pair], added: list[Pair], *, secure: bool, private: bool) -> list[Pair]:
        """``private`` answers belong to a caller and are not stored unless the service says otherwise.

        ``added`` are the gateway's own. What limits there are is among them, but a service that refuses a call after
        it went on knows better what is left.
        """
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
            elif rule == _LIMIT and status == _REFUSED:
                made.append(pair)
                added = [each for each in added if each[0] != pair[0]]
        made += self._secure if secure else self._plain
        made.append(policy)
        made += added
        if private and not cache:
            made.append(_NO_STORE)
        return made
