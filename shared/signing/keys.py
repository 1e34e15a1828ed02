"""Keys that sign: a shared secret (HMAC-SHA256), or a pair of which only the public half is here (Ed25519)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.mac import KeyedSha256

HMAC, ED25519 = "hmac-sha256", "ed25519"


class Verifier(Protocol):
    """``algorithm`` is its name in RFC 9421's registry, ``key_id`` what ``keyid`` must say."""

    @property
    def algorithm(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Whether the signature is this key's, of this text."""
        ...


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """Signs and verifies."""

    key_id: str
    secret: bytes
    algorithm: str = HMAC
    mac: KeyedSha256 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mac", KeyedSha256(self.secret))

    def sign(self, text: bytes) -> bytes:
        """HMAC-SHA256 (RFC 2104)."""
        return self.mac.digest(text)

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """In constant time."""
        return hmac.compare_digest(self.sign(text), signature)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Verifies what its private half has signed (RFC 8032)."""

    key_id: str
    key: Ed25519PublicKey
    algorithm: str = ED25519

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Anything but a signature of 64 bytes is none."""
        try:
            self.key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Signs."""

    key_id: str
    key: Ed25519PrivateKey
    algorithm: str = ED25519

    def sign(self, text: bytes) -> bytes:
        """Ed25519 (RFC 8032)."""
        return self.key.sign(text)
