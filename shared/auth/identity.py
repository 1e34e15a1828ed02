"""The internal identity: one signed statement per call that says who is calling.

``Guardian-Identity: v1.<caller>.<base64url payload>.<base64url HMAC-SHA256>``. The key is derived for
each (caller, callee) pair, so a service cannot mint an identity for another, and the payload names
its audience and expires within 60 seconds. The payload is JSON; the MAC covers everything before it.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Callable, Iterable
from uuid import UUID

import orjson

from shared.auth.principal import Principal
from shared.mac import KeyedSha256

IDENTITY_HEADER = b"guardian-identity"
TIMEOUT_HEADER = b"guardian-timeout-ms"
"""How long the caller of a service waits for its answer from now on."""
LIFETIME_SECONDS = 60
_CLOCK_SKEW_SECONDS = 5
_URLSAFE = bytes.maketrans(b"+/", b"-_")


class InvalidIdentity(Exception):
    """The header is missing, malformed, expired, not for us, or not signed by an allowed caller."""


def _pair_purpose(caller: str, audience: str) -> str:
    return f"identity:{caller}>{audience}"


class Claims:
    """What all statements about one principal to one audience have in common; kept by whoever makes many of them."""

    __slots__ = ("audience", "begun", "expires", "head", "mac", "principal")

    def __init__(self, principal: Principal, audience: str, mac: KeyedSha256) -> None:
        self.principal = principal
        self.audience = audience
        self.mac = self.begun = mac
        self.expires = 0
        self.head = b""


class IdentitySigner:
    """Signs identities as ``caller``. ``derive_key`` is ``Settings.derive_key``."""

    def __init__(self, derive_key: Callable[[str], bytes], caller: str) -> None:
        self._derive_key = derive_key
        self._caller = caller
        self._macs: dict[str, KeyedSha256] = {}

    def sign(self, principal: Principal, audience: str, now: float) -> bytes:
        """The header's value for a call to ``audience`` at unix time ``now``."""
        return self.state(self.claims(principal, audience), now, principal.client_address, principal.request_id)

    def claims(self, principal: Principal, audience: str) -> Claims:
        """What may be kept for the calls of one principal, whose own client address and request id do not matter."""
        mac = self._macs.get(audience)
        if mac is None:
            mac = self._macs[audience] = KeyedSha256(self._derive_key(_pair_purpose(self._caller, audience)))
        return Claims(principal, audience, mac)

    def state(self, claims: Claims, now: float, client_address: str | None, request_id: str) -> bytes:
        """The header's value for one call."""
        expires = int(now) + LIFETIME_SECONDS
        if claims.expires != expires:
            self._renew(claims, expires)
        rest = b2a_base64(orjson.dumps((client_address, request_id))[1:], newline=False).translate(_URLSAFE)
        signature = b2a_base64(claims.begun.digest(rest), newline=False).translate(_URLSAFE)
        return b"%b%b.%b" % (claims.head, rest, signature)

    def _renew(self, claims: Claims, expires: int) -> None:
        """Make anew what a second's statements begin with, in whole groups of base64."""
        principal = claims.principal
        begin = orjson.dumps(
            (
                claims.audience,
                expires,
                principal.organization_id,
                principal.actor_type,
                principal.actor_id,
                " ".join(sorted(principal.scopes)),
                principal.auth_method,
                # A key is shown again with every call.
                principal.auth_time or (expires - LIFETIME_SECONDS if principal.auth_method == "api_key" else 0),
                principal.on_behalf_of,
                principal.session_id,
            )
        )
        begin = begin[:-1] + b"," + b" " * (-len(begin) % 3)
        claims.head = b"v1.%b.%b" % (self._caller.encode(), urlsafe_b64encode(begin))
        claims.begun = claims.mac.begun(claims.head)
        claims.expires = expires


class IdentityVerifier:
    """Verifies identities addressed to ``audience`` by one of ``callers``."""

    def __init__(self, derive_key: Callable[[str], bytes], audience: str, callers: Iterable[str]) -> None:
        self._audience = audience
        self._macs = {
            caller.encode(): hmac.new(derive_key(_pair_purpose(caller, audience)), digestmod=hashlib.sha256)
            for caller in callers
        }

    def verify(self, header: bytes, now: float) -> Principal:
        """The principal the header states; raises ``InvalidIdentity``."""
        try:
            signed, _, signature = header.rpartition(b".")
            version, caller, payload = signed.split(b".")
            mac = self._macs[caller].copy()
        except (ValueError, KeyError):
            raise InvalidIdentity("malformed, or from a caller that is not allowed") from None
        mac.update(signed)
        if version != b"v1" or not hmac.compare_digest(urlsafe_b64encode(mac.digest()), signature):
            raise InvalidIdentity("the signature does not match")
        fields = orjson.loads(urlsafe_b64decode(payload))
        audience, expires, organization, actor_type, actor_id, scopes, *rest = fields
        if audience != self._audience:
            raise InvalidIdentity("addressed to another service")
        if not now - _CLOCK_SKEW_SECONDS <= expires <= now + LIFETIME_SECONDS + _CLOCK_SKEW_SECONDS:
            raise InvalidIdentity("expired")
        return Principal(UUID(organization), actor_type, actor_id, frozenset(scopes.split()), *rest)
