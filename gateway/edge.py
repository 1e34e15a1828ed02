"""The edge guard's ASGI part: host, path and headers, before anything is routed or authorised.

What a client says about who it is or where it came from never passes: identity headers, hop-by-hop
headers (RFC 9110 §7.6.1, also those named in ``Connection``), names with an underscore (which some
servers turn into hyphens), method and URL overrides, and ``baggage``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from shared.errors import BadRequest

Pair = tuple[bytes, bytes]

KEEP, DROP, NOTE, NOTE_AND_DROP = range(4)

_HOP_BY_HOP = (
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authorization proxy-authenticate"
)
_INVENTED = (
    "baggage expect x-real-ip x-client-ip x-cluster-client-ip true-client-ip cf-connecting-ip "
    "x-original-url x-rewrite-url x-original-host x-host x-http-method x-http-method-override x-method-override "
    "x-tenant-id x-tenant x-organization-id x-org-id x-user-id x-user x-user-email x-actor-id x-actor x-scopes x-roles "
    "x-principal x-remote-user remote-user x-ssl-client-cert x-client-cert"
)
_NOTED = "host content-length origin sec-fetch-site access-control-request-method"
_NOTED_AND_DROPPED = (
    "connection authorization cookie forwarded x-forwarded-for x-forwarded-proto x-request-id traceparent tracestate "
    "transfer-encoding"
)
_PREFIXES_DROPPED = (b"guardian-", b"x-guardian-", b"x-forwarded-", b"x-auth-", b"x-authenticated-")
_NEVER_HOP_BY_HOP = frozenset({b"host", b"content-length", b"content-type"})

_BAD_PATH = re.compile(
    r"[\x00-\x20\x7f\\#?]|[^\x00-\x7f]|/(?:/|\.\.?(?:[/;]|$))|%(?![0-9A-Fa-f]{2})|%(?:2[fF]|5[cC]|7[fF]|[01].)"
)
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_/"
"""A path of these alone, without empty segments, has one meaning and needs no closer look."""
_BAD_DECODED = re.compile(rb"(?i)/\.\.?(?:[/;]|$)|%2e|%2f|%5c")
_HOST = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*)|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_MEMORY = 4096


class HeaderRules:
    """Says of each header name what becomes of it; unknown names are judged once and remembered."""

    def __init__(self) -> None:
        self._rules: dict[bytes, int] = {}
        for names, rule in (
            (_HOP_BY_HOP, DROP),
            (_INVENTED, DROP),
            (_NOTED, NOTE),
            (_NOTED_AND_DROPPED, NOTE_AND_DROP),
        ):
            self._rules.update((name.encode(), rule) for name in names.split())
        self._permanent = len(self._rules)

    def sort(self, headers: Iterable[Pair]) -> tuple[list[Pair], dict[bytes, bytes]]:
        """``(headers that pass, headers the gateway reads)``; repeated ones are joined as lists."""
        rules = self._rules
        passed: list[Pair] = []
        noted: dict[bytes, bytes] = {}
        for pair in headers:
            name = pair[0]
            rule = rules.get(name)
            if rule is None:
                rule = self._judge(name)
            if rule == KEEP:
                passed.append(pair)
            elif rule >= NOTE:
                if name in noted:
                    separator = b"; " if name == b"cookie" else b", "
                    noted[name] = noted[name] + separator + pair[1]
                else:
                    noted[name] = pair[1]
                if rule == NOTE:
                    passed.append(pair)
        connection = noted.get(b"connection")
        if connection is not None and connection not in (b"keep-alive", b"close"):
            passed = without_named(passed, connection)
        return passed, noted

    def _judge(self, name: bytes) -> int:
        rule = DROP if b"_" in name or name.startswith(_PREFIXES_DROPPED) else KEEP
        if len(self._rules) >= _MEMORY:  # names are the client's to invent: start over, keep the fixed ones
            self._rules = dict(list(self._rules.items())[: self._permanent])
        self._rules[name] = rule
        return rule


def without_named(passed: list[Pair], connection: bytes) -> list[Pair]:
    """``passed`` without the headers that ``Connection`` names."""
    named = {token.strip().lower() for token in connection.split(b",")} - _NEVER_HOP_BY_HOP
    return [pair for pair in passed if pair[0] not in named]


class PathAndHost:
    """Refuses paths that services could read in two ways, and hosts that are none."""

    def __init__(self) -> None:
        self._hosts: set[bytes] = set()

    def check_host(self, host: bytes | None) -> None:
        """Raise ``BadRequest`` unless ``host`` is one host with an optional port."""
        if host in self._hosts:
            return
        if host is None or len(host) > 255 or not _HOST.fullmatch(host):
            raise BadRequest("There must be exactly one valid Host header.")
        if len(self._hosts) < _MEMORY:
            self._hosts.add(host)

    @staticmethod
    def check_path(raw_path: bytes) -> None:
        """Raise ``BadRequest`` for dot segments and separators, plain or encoded, and for broken escapes."""
        if b"//" not in raw_path and not raw_path.translate(None, _PLAIN):
            return
        text = raw_path.decode("latin-1")
        if _BAD_PATH.search(text) is None and (b"%" not in raw_path or _decodes_safely(raw_path)):
            return
        raise BadRequest(
            "The path must not hold dot segments, empty segments, encoded slashes, backslashes, control characters, "
            "text that is not UTF-8, or broken percent escapes.",
            code="invalid_path",
        )


def _decodes_safely(raw_path: bytes) -> bool:
    decoded = unquote_to_bytes(raw_path)
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return _BAD_DECODED.search(decoded) is None
