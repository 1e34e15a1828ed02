"""Signed answers: for API keys that ask for it, each answer is held back until its digest can stand in its head.

An answer that is too long for that, or a stream of events, goes unsigned, and says so. What signs it is a shared secret of
the API key; one that has only public keys gets answers signed by the platform's own key, whose public half anybody can ask
for. What is signed is in ``shared/signing/answers.py``.
"""

from __future__ import annotations

import hashlib
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.headers import WITHOUT_CONTENT
from shared.signing import answers
from shared.signing.keys import PrivateKey
from shared.signing.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.edge import Pair
    from gateway.signatures import Signing
    from shared.settings import Settings
    from shared.signing.v1 import Signer

ANSWERS = "answers"
"""Purpose of the seed (``Settings.derive_key``) of the key that signs answers where no shared secret can."""
MOST_CONTENT = 1 << 20
"""Bytes of an answer that are held in memory until all of it is there."""
UNSIGNED = b"guardian-answer-unsigned"
_OURS = frozenset({b"content-digest", b"signature", b"signature-input", UNSIGNED})


def platform_key(settings: Settings) -> PrivateKey:
    """The platform's own key for answers. Every gateway process derives the same one, until the root secret changes.

    Its id is ``platform-`` and the first 16 hexadecimal digits of the SHA-256 of the public half.
    """
    key = Ed25519PrivateKey.from_private_bytes(settings.derive_key(ANSWERS))
    public = key.public_key().public_bytes_raw()
    return PrivateKey(f"platform-{hashlib.sha256(public).hexdigest()[:16]}", key)


def jwk_set(key: PrivateKey) -> dict[str, list[dict[str, str]]]:
    """The public half as a JWK set (RFC 7517 §5, RFC 8037 §2)."""
    x = urlsafe_b64encode(key.key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": key.key_id, "use": "sig", "alg": "EdDSA", "x": x}]}


class Seal:
    """Takes the place of an exchange's ``send``: passes on what it is given, signed.

    ``signed_by`` is the id of the key that signed the request, where the request does not say it. ``now`` is in unix
    seconds.
    """

    __slots__ = (
        "_held",
        "_now",
        "_pieces",
        "_platform",
        "_scope",
        "_secure",
        "_send",
        "_signing",
        "_start",
        "signed_by",
    )

    def __init__(
        self,
        scope: Any,
        send: Any,
        signing: Signing,
        platform: PrivateKey,
        secure: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._scope = scope
        self._send = send
        self._signing = signing
        self._platform = platform
        self._secure = secure
        self._now = now
        self._start: Any = None  # the head, as long as it is held back
        self._pieces: list[bytes] = []
        self._held = 0
        self.signed_by: str | None = None

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = headers = [pair for pair in message["headers"] if pair[0] not in _OURS]
            self._start = message
            self._pieces.clear()
            self._held = 0
            reason = self._why_not(headers)
            if reason is not None:
                await self._let_go(reason)
        elif self._start is None:
            await self._send(message)
        else:
            await self._gather(message.get("body", b""), more=message.get("more_body", False))

    @property
    def holds(self) -> bool:
        """Whether an answer was begun and nothing of it was sent; another one may take its place."""
        return self._start is not None

    def _why_not(self, headers: list[Pair]) -> bytes | None:
        """What keeps the answer from being signed, as far as its head can tell."""
        if self._bodiless():
            return None
        fields = dict(headers)
        if fields.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            return b"stream"
        return b"content-length" if int(fields.get(b"content-length", b"0")) > MOST_CONTENT else None

    def _bodiless(self) -> bool:
        return self._scope["method"] == "HEAD" or self._start["status"] in WITHOUT_CONTENT

    async def _let_go(self, reason: bytes) -> None:
        start, self._start = self._start, None
        start["headers"].append((UNSIGNED, reason))
        await self._send(start)

    async def _gather(self, piece: bytes, *, more: bool) -> None:
        if not self._bodiless():  # the digest is of what is sent (RFC 9530 §2), which is nothing
            self._pieces.append(piece)
            self._held += len(piece)
        if self._held > MOST_CONTENT:
            await self._let_go(b"content-length")
        elif more:
            return
        content = b"".join(self._pieces)
        self._pieces.clear()
        if self._start is not None:
            start, self._start = self._start, None
            start["headers"] += self._signed(start["status"], start["headers"], content)
            await self._send(start)
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    def _signed(self, status: int, headers: list[Pair], content: bytes) -> list[Pair]:
        scope, now = self._scope, self._now()
        scheme = "https" if self._secure else "http"
        request = Message(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"], scheme=scheme)

        def key_for(key_id: str | None) -> Signer:
            return self._signing.answering(self.signed_by or key_id, now) or self._platform

        fields = answers.sign(request, answers.Answer(status, headers, content), key_for, created=int(now))
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items()]
