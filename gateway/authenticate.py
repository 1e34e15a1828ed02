"""Who is calling: API keys and session cookies.

A decision needs no database when the credential is known; known or not, the same checks in the same
order decide, so a warm answer never differs from a cold one.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from gateway.credentials import Credential, Credentials
from gateway.last_used import LastUsed
from shared.auth import api_key
from shared.errors import BadRequest, Forbidden, Unauthenticated
from shared.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_LONGEST_TOKEN = 256
# What is remembered of a key does not say whether it was rerolled; whoever reads this may know.
_REVOKED = (
    "The API key has been revoked, or was rerolled without an overlap. Use its successor, or make a new key with POST "
    "/v1/api-keys."
)
_EXPIRED = (
    "The API key has expired, or was rerolled and its overlap has ended. Use its successor, or make a new key with POST "
    "/v1/api-keys."
)


def session_cookie(settings: Settings) -> str:
    """The cookie's name: ``__Host-`` binds it to https and to this host, which plain http cannot have."""
    return "__Host-guardian_session" if settings.environment == "production" else "guardian_session"


class Authenticator:
    """Turns the headers ``Authorization`` and ``Cookie`` into a credential, or a reason why not."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        last_used: LastUsed,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._credentials = credentials
        self._last_used = last_used
        self._now = now
        self._cookie = session_cookie(settings).encode()
        self._trusted_origins = {_origin(text) for text in (*settings.cors_origins, settings.base_url)}

    def by_warm_key(self, authorization: bytes | None) -> Credential | None:
        """The credential of a key that is in memory and in order; None means: ask ``identify``."""
        if authorization is None or len(authorization) != 7 + api_key.LENGTH or authorization[:7] != b"Bearer ":
            return None
        token = authorization[7:]
        entry = self._credentials.keys.peek(token[api_key.PUBLIC_ID])
        if entry is None or not hmac.compare_digest(hashlib.sha256(token).digest(), entry.sha256):
            return None
        now = self._now()
        if entry.disabled or entry.expires_at <= now:
            return None
        self._last_used.touch(token[api_key.PUBLIC_ID].decode("ascii"), now)
        return entry

    async def identify(self, method: str, noted: Mapping[bytes, bytes], *, public: bool) -> Credential | None:
        """Who calls, by what a request's headers say; None for a ``public`` operation that nobody in particular calls.

        Raises ``Unauthenticated``, and ``Forbidden`` for what a page of another origin made a browser send.
        """
        authorization = noted.get(b"authorization")
        try:
            credential = await self.authenticate(authorization, noted.get(b"cookie"))
        except Unauthenticated:
            if not public:
                raise
            credential = None  # signing in must work with the cookie of a session that has ended
        if authorization is None and (credential is not None or public):
            self.check_cross_origin(method, noted.get(b"sec-fetch-site"), noted.get(b"origin"), noted[b"host"])
        if credential is None and not public:
            raise Unauthenticated(
                "Send an API key as 'Authorization: Bearer gdn_…' or sign in first.", headers=_CHALLENGE
            )
        return credential

    async def authenticate(self, authorization: bytes | None, cookie: bytes | None) -> Credential | None:
        """The caller's credential; None when none was sent. Raises ``Unauthenticated`` for a bad one.

        ``Authorization`` wins over a cookie: a browser never sends it by itself.
        """
        if authorization is not None:
            return await self._by_key(authorization)
        token = self.session_token(cookie)
        return None if token is None else await self._by_session(token)

    def session_token(self, cookie: bytes | None) -> bytes | None:
        """The session's token among the cookies. Two different ones mean that somebody planted one."""
        if cookie is None or self._cookie not in cookie:
            return None
        found = set()
        for pair in cookie.split(b";"):
            name, _, value = pair.strip().partition(b"=")
            if name == self._cookie:
                found.add(value.strip())
        if len(found) > 1:
            raise BadRequest("There is more than one session cookie.", code="ambiguous_session")
        return found.pop() if found else None

    def check_cross_origin(self, method: str, site: bytes | None, origin: bytes | None, host: bytes) -> None:
        """Raise ``Forbidden`` when a browser sends an unsafe request from another origin.

        The algorithm of Go's ``net/http.CrossOriginProtection``: ``Sec-Fetch-Site`` decides; browsers
        without it are judged by ``Origin``; a client that sends neither is no browser.
        """
        if method in SAFE_METHODS or site in (b"same-origin", b"none"):
            return
        if site is None and (origin is None or origin.partition(b"://")[2] == host):
            return
        if origin is not None and origin.decode("latin-1").lower() in self._trusted_origins:
            return
        raise Forbidden("A page of another origin sent this request.", code="cross_origin_request")

    async def _by_key(self, authorization: bytes) -> Credential:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated("Send the key as 'Authorization: Bearer gdn_…'.", headers=_CHALLENGE)
        token = token.strip()
        parsed = api_key.parse(token.decode("latin-1"))
        if parsed is None:
            raise _invalid_key("The API key is mistyped or incomplete.")
        entry = await self._credentials.keys.resolve(parsed.public_id.encode())
        if entry is None or not hmac.compare_digest(parsed.sha256, entry.sha256):
            raise _invalid_key("There is no such API key.")
        if entry.disabled:
            raise Unauthenticated(_REVOKED, code="api_key_revoked", headers=_CHALLENGE)
        now = self._now()
        if entry.expires_at <= now:
            raise Unauthenticated(_EXPIRED, code="api_key_expired", headers=_CHALLENGE)
        self._last_used.touch(parsed.public_id, now)
        return entry

    async def _by_session(self, token: bytes) -> Credential:
        entry = None
        if token and len(token) <= _LONGEST_TOKEN:
            digest = hashlib.sha256(token).digest()
            entry = await self._credentials.sessions.resolve(digest)
        if entry is None or entry.expires_at <= self._now():
            raise Unauthenticated("The session has ended; sign in again.", code="session_expired")
        return entry


def _invalid_key(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, code="invalid_api_key", headers=_CHALLENGE)


def _origin(text: str) -> str:
    parts = urlsplit(text.strip())
    return f"{parts.scheme}://{parts.netloc}".lower()
