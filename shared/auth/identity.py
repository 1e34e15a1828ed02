"""The internal identity: one signed statement per call that says who is calling.

``Guardian-Identity: v1.<caller>.<base64url payload>.<base64url HMAC-SHA256>``. The key is derived for
each (caller, callee) pair, so a service cannot mint an identity for another, and the payload names
its audience and expires within 60 seconds. The payload is JSON; the MAC covers everything before it.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from uuid import UUID

import orjson

from shared.auth.principal import Principal

IDENTITY_HEADER = b"guardian-identity"
LIFETIME_SECONDS = 60
_CLOCK_SKEW_SECONDS = 5


class InvalidIdentity(Exception):
    """The header is missing, malformed, expired, not for us, or not signed by an allowed caller."""


def _pair_purpose(caller: str, audience: str) -> str:
    return f"identity:{caller}>{audience}"


class IdentitySigner:
    """Signs identities as ``caller``. ``derive_key`` is ``Settings.derive_key``."""

    def __init__(self, derive_key: Callable[[str], bytes], caller: str) -> None:
        self._derive_key = derive_key
        self._caller = caller
        self._macs: dict[str, hmac.HMAC] = {}

    def sign(self, principal: Principal, audience: str, now: float) -> bytes:
        """The header's value for a call to ``audience`` at unix time ``now``."""
        mac = self._macs.get(audience)
        if mac is None:
            key = self._derive_key(_pair_purpose(self._caller, audience))
            mac = self._macs[audience] = hmac.new(key, digestmod=hashlib.sha256)
        payload = orjson.dumps(
            (
                audience,
                int(now) + LIFETIME_SECONDS,
                principal.organization_id,
                principal.actor_type,
                principal.actor_id,
                " ".join(sorted(principal.scopes)),
                principal.auth_method,
                principal.auth_time,
                principal.on_behalf_of,
                principal.session_id,
                principal.client_address,
                principal.request_id,
            )
        )
        signed = b"v1.%b.%b" % (self._caller.encode(), urlsafe_b64encode(payload))
        mac = mac.copy()
        mac.update(signed)
        return signed + b"." + urlsafe_b64encode(mac.digest())


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
