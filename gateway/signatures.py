"""The signature stage: requests of keys that must sign are checked before a service has seen all of them.

What headers can tell is decided at once. Content is hashed while it passes, and its last piece is held back until the
hash is right: no service ever has the whole of a request that nobody signed. The older scheme signs nothing but the
content, which is therefore gathered first.
"""

from __future__ import annotations

import json
import logging
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.nonces import Nonce
from gateway.stages import Verified, gathered, replayed
from gateway.upstream import GATHERED_BYTES
from gateway.upstream_uploads import Uploads
from shared.errors import BadRequest, ContentTooLarge, Problem, ServiceUnavailable, Unauthenticated
from shared.signing import v0, v1
from shared.signing.digests import ContentDigest
from shared.signing.failures import Refused
from shared.signing.keys import HMAC, PublicKey, SharedSecret, Verifier
from shared.signing.message import Message
from shared.vault import Unsealable, Vault, signing_key_context

if TYPE_CHECKING:
    from gateway.edge import Pair
    from gateway.stages import Call

logger = logging.getLogger(__name__)

MOST_CONTENT = 1 << 20
"""Bytes of content under the older scheme, which has to be held in memory until it is verified."""
_MOST_GATHERING = 64
"""Larger contents that are held so at a time."""
_NOTHING_SHARED = (
    "This API key has no shared secret any more to sign with. Make another, with POST "
    "/v1/api-keys/{key_id}/signing-keys, and rotate it before it expires."
)
_SIGN = "'guardian sign' prints a curl command that is signed (--v0: by the older scheme)."
_EXPLAIN = "POST /v1/signatures/verify explains it, for test keys."
Policy = Literal["off", "v0", "both", "v1"]


@dataclass(frozen=True, slots=True)
class Signing:
    """What an API key must sign with: keys by their id, oldest first, each with the unix seconds it is good until.

    ``answers`` is whether answers to its calls are signed.
    """

    policy: Policy
    keys: dict[str, tuple[Verifier, float]]
    answers: bool = False

    def find(self, key_id: str, now: float) -> Verifier | None:
        """The key with this id, if it is still good."""
        key, until = self.keys.get(key_id, (None, 0.0))
        return key if now < until else None

    def takes_all_of(self, before: Signing, then: float, now: float) -> bool:
        """Whether what was signed as this asked ``then`` is so now: by the same policy, and no key of then has ended."""
        lasted = all(self.find(key_id, now) for key_id in before.keys if before.find(key_id, then))
        return self.policy == before.policy and lasted

    def secrets(self, now: float) -> list[SharedSecret]:
        """The shared secrets that are still good, oldest first."""
        return [key for key, until in self.keys.values() if isinstance(key, SharedSecret) and now < until]

    def answering(self, key_id: str | None, now: float) -> SharedSecret | None:
        """The shared secret to sign an answer with: that with this id, or else the newest; None where none is good."""
        good = {key.key_id: key for key in self.secrets(now)}
        return good.get(key_id or "") or next(reversed(good.values()), None)


class Remembers(Protocol):
    """``gateway.nonces.Nonces``."""

    async def remember(self, nonce: Nonce) -> bool | None: ...

    async def spend(self, nonce: Nonce) -> None: ...

    async def is_spent(self, nonce: Nonce) -> bool: ...


def signing_of(
    policy: str, stored: Any, organization_id: UUID, vault: Vault, *, answers: bool = False
) -> Signing | None:
    """What ``resolve_api_key`` says of a key's signatures; None where nothing is signed."""
    if policy == "off" and not answers:
        return None
    keys: dict[str, tuple[Verifier, float]] = {}
    for each in json.loads(stored) if isinstance(stored, str) else stored:
        key_id, material = each["id"], b64decode(each["material"])
        until = float("inf") if each["expires_at"] is None else float(each["expires_at"])
        try:
            if each["algorithm"] == HMAC:
                secret = vault.open(material, signing_key_context(organization_id, UUID(key_id)))
                keys[key_id] = (SharedSecret(key_id, secret), until)
            else:
                keys[key_id] = (PublicKey(key_id, Ed25519PublicKey.from_public_bytes(material)), until)
        except (Unsealable, ValueError):
            logger.exception("the signing key %s cannot be read: was the root secret changed?", key_id)
    return Signing(cast("Policy", policy), keys, answers)


class SignatureGate:
    """Refuses what must be signed and is not. ``now`` is in unix seconds."""

    def __init__(self, nonces: Remembers, now: Callable[[], float] = time.time) -> None:
        self._nonces = nonces
        self._now = now
        self._gathering = Uploads(_MOST_GATHERING)

    async def verify(self, call: Call, receive: Any) -> Verified:
        """Check a call whose credential asks for a signature.

        Raises ``Unauthenticated``, whose code says which check failed, ``BadRequest`` for fields that cannot be read,
        ``ContentTooLarge``, and ``ServiceUnavailable`` when it cannot be told whether a signature is new.
        """
        signing = call.signing
        if signing is None or signing.policy == "off":
            return Verified(receive)
        scheme = "https" if call.secure else "http"
        message = Message(call.method, call.raw_path, call.query_string, call.headers, scheme=scheme)
        try:
            if signing.policy == "v0" or (signing.policy == "both" and v0.is_signed(message)):
                receive, call.signed_by = await self._by_content(call, message, signing, receive)
                return Verified(receive)
            return await self._by_fields(message, signing, receive)
        except Refused as refused:
            raise problem_of(refused) from None

    async def _by_fields(self, message: Message, signing: Signing, receive: Any) -> Verified:
        now = self._now()
        verified = v1.verify(message, lambda key_id: signing.find(key_id, now), now)
        nonce = Nonce(verified.key_id, verified.nonce, verified.created, verified.until)
        happens_once = _happens_once(message)
        fresh = await self._nonces.remember(nonce)
        if not fresh and not happens_once:
            raise _used(fresh)
        if not fresh:
            await self._check_unspent(nonce)
        check_unspent = partial(self._check_unspent, nonce) if happens_once else None
        content = None if verified.digest is None else _Digested(verified.digest, check_unspent)
        if content is not None and not message.has_body:
            await content.finish(waited=False)
            content = None
        return Verified(receive, content, partial(self._answered, nonce) if happens_once else None)

    async def _check_unspent(self, nonce: Nonce) -> None:
        if await self._nonces.is_spent(nonce):
            raise _used()

    async def _answered(self, nonce: Nonce, status: int, headers: Sequence[Pair]) -> None:
        """Who is refused for good need not try again, and nobody else shall; who is to come later is told so.

        Raises ``ServiceUnavailable``, the answer to give instead of one that could not be made final.
        """
        if 400 <= status < 500 and all(name != b"retry-after" for name, _ in headers):
            await self._nonces.spend(nonce)

    async def _by_content(self, call: Call, message: Message, signing: Signing, receive: Any) -> tuple[Any, str]:
        """The older scheme signs the content and nothing else, so all of it must be seen before anything is done.

        Where the content is read from then, and the id of the key that signed it.
        """
        now = self._now()
        attempts = [v0.Verification(message, key, now) for key in signing.secrets(now)]
        if not attempts:
            raise Refused("signature_key", _NOTHING_SHARED)
        content = await self._all_of(receive, call) if message.has_body else b""
        found = attempts[0]
        for found in attempts:
            found.update(content)
            if found.holds():
                break
        found.check()
        fresh = await self._nonces.remember(Nonce(found.key_id, found.nonce, found.created, found.until))
        if not fresh:
            raise _used(fresh)
        return (replayed(content, receive, more=False) if message.has_body else receive), found.key_id

    async def _all_of(self, receive: Any, call: Call) -> bytes:
        content = bytearray()
        if await gathered(receive, content, GATHERED_BYTES):
            async with self._gathering.slot(call.principal.organization_id):
                await gathered(receive, content, MOST_CONTENT)
        if len(content) > MOST_CONTENT:
            raise ContentTooLarge(
                f"Content of more than {MOST_CONTENT} bytes needs a signature of RFC 9421 (v1).", limit=MOST_CONTENT
            )
        return bytes(content)


def _happens_once(message: Message) -> bool:
    """Whether sending this very request again does no harm: its service does a keyed POST once, and keeps its answer.

    The key is signed, too, so this is the same request, within the minutes in which its answer is kept for hours. One
    that was refused is not kept, which is what ``spend`` is for.
    """
    return message.method == "POST" and any(name == b"idempotency-key" for name, _ in message.headers)


def _used(fresh: bool | None = False) -> Refused | Problem:
    """What to say of a signature that is not ``fresh``; None is what ``remember`` says of one that it cannot tell of."""
    if fresh is None:
        return ServiceUnavailable(
            "This signature is from before the database last recovered from a crash, and whether it was used cannot be told; "
            "sign the request anew."
        )
    return Refused("signature_replayed", "This signature was used before; sign each request anew.")


class _Digested:
    """Content with a digest that is signed. While it came, another sending may have been refused for good."""

    def __init__(self, digest: ContentDigest, check_unspent: Callable[[], Awaitable[None]] | None) -> None:
        self._digest = digest
        self._check_unspent = check_unspent

    def update(self, piece: bytes) -> None:
        self._digest.update(piece)

    async def finish(self, *, waited: bool) -> None:
        try:
            self._digest.check()
            if waited and self._check_unspent is not None:
                await self._check_unspent()
        except Refused as refused:
            raise problem_of(refused) from None


def problem_of(refused: Refused) -> Problem:
    """400 for fields that cannot be read, 401 for everything else; with what to do next."""
    detail = " ".join(_advised(refused))
    if refused.code == "signature_malformed":
        return BadRequest(detail, code=refused.code)
    return Unauthenticated(detail, code=refused.code, headers={"WWW-Authenticate": "Signature"})


def _advised(refused: Refused) -> Iterator[str]:
    yield refused.detail
    if refused.code == "signature_missing":
        yield _SIGN
    if refused.code != "signature_replayed":  # nobody else knows what was used before
        yield _EXPLAIN
