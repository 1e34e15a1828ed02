"""Secrets that are stored and must be read again: sealed with AES-256-GCM, each to its own place."""

from __future__ import annotations

import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIGNING_KEYS = "vault:signing-keys"
"""Purpose of the key (``Settings.derive_key``) that seals what requests are signed with."""

_VERSION = b"\x01"
_NONCE = 12


class Unsealable(Exception):
    """Not sealed by this key for this context, or damaged since."""


class Vault:
    """Seals and opens with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._box = AESGCM(key)

    def seal(self, plain: bytes, context: str) -> bytes:
        """A version byte, 12 random bytes, the ciphertext with its tag: 29 bytes more than ``plain``.

        Only the same ``context`` opens it: moved to another row it is worth nothing.
        """
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._box.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed; raises ``Unsealable``."""
        if sealed[:1] != _VERSION:
            raise Unsealable("This was not sealed by a version of the vault that is known here.")
        nonce, ciphertext = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        try:
            return self._box.decrypt(nonce, ciphertext, context.encode())
        except (InvalidTag, ValueError):
            # ValueError: cut off within the nonce.
            raise Unsealable("This was sealed with another key or for another place, or is damaged.") from None


def signing_key_context(organization_id: UUID, signing_key_id: UUID) -> str:
    """Where the secret of a signing key belongs."""
    return f"signing-key:{organization_id}:{signing_key_id}"
