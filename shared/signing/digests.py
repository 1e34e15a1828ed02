"""``Content-Digest`` (RFC 9530): the content is hashed while it passes."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from hmac import compare_digest
from typing import Any

from shared.signing.failures import Refused
from shared.signing.fields import byte_members

_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
_MISMATCH = "The content is not that of Content-Digest; was it changed on its way, or encoded again?"


def content_digest(content: bytes) -> str:
    """The field's value for this content."""
    return f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"


class ContentDigest:
    """``update`` with the content as it comes, then ``check``."""

    def __init__(self, expected: list[tuple[Any, bytes]]) -> None:
        self._expected = expected

    @classmethod
    def of_sha256(cls, digest: bytes) -> ContentDigest:
        """For a digest that was read already."""
        return cls([(hashlib.sha256(), digest)])

    @classmethod
    def read(cls, field: str) -> ContentDigest:
        """From the field; raises ``Refused`` for one without SHA-2, or that cannot be read."""
        members = byte_members(field, "Content-Digest")
        expected = [(hashlib.new(_ALGORITHMS[name]), digest) for name, digest in members.items() if name in _ALGORITHMS]
        if not expected:
            raise Refused("signature_digest", "Content-Digest has neither sha-256 nor sha-512.")
        return cls(expected)

    def update(self, content: bytes) -> None:
        """The next piece of the content."""
        for hashed, _ in self._expected:
            hashed.update(content)

    def check(self) -> None:
        """All of it was seen; raises ``Refused`` when it is something else."""
        if not all(compare_digest(hashed.digest(), digest) for hashed, digest in self._expected):
            raise Refused("signature_digest", _MISMATCH)
