"""The older scheme: ``X-Signature`` is the hex HMAC-SHA256 of ``<X-Timestamp>:<body>``, the time in milliseconds.

It covers neither method nor path nor headers, and has no nonce: whoever reads one request can send its content to any
other route until it is too old. It is there for clients that use it, hardened where that changes nothing for them: the
time counts in both directions and has only digits, the content is compared as bytes, in constant time, and a signature
is good once.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from shared.signing import v1
from shared.signing.failures import Refused, from_now, malformed
from shared.signing.keys import SharedSecret
from shared.signing.message import Message

SKEW_SECONDS = 300
_TIME = re.compile(r"[0-9]{10,13}")
_SIGNATURE = re.compile(r"[0-9a-fA-F]{64}")


def is_signed(message: Message) -> bool:
    """Whether the request has the fields of this scheme."""
    return "x-signature" in message.fields or "x-timestamp" in message.fields


def sign(secret: bytes, milliseconds: int, content: bytes) -> dict[str, str]:
    """The two fields."""
    signature = hmac.new(secret, b"%d:" % milliseconds + content, hashlib.sha256).hexdigest()
    return {"X-Timestamp": str(milliseconds), "X-Signature": signature}


def _missing(message: Message) -> str:
    time, signature = message.fields.get("x-timestamp"), message.fields.get("x-signature")
    if time is None and signature is None:
        if v1.is_signed(message):
            return (
                "The request is signed by RFC 9421 (v1), and this API key asks for the older scheme "
                "(signature_policy: v0): sign it with X-Timestamp and X-Signature."
            )
        return "The request is not signed: it must have X-Timestamp and X-Signature."
    there, missing = ("X-Timestamp", "X-Signature") if signature is None else ("X-Signature", "X-Timestamp")
    return f"The request has {there}, and the field {missing} is missing."


class Verification:
    """Reads the fields at once (raises ``Refused``); ``update`` with the content, then ``check``."""

    def __init__(self, message: Message, key: SharedSecret, now: float) -> None:
        time, signature = message.fields.get("x-timestamp"), message.fields.get("x-signature")
        if time is None or signature is None:
            raise Refused("signature_missing", _missing(message))
        if not _TIME.fullmatch(time):
            raise malformed("X-Timestamp is the time in milliseconds, in digits.")
        if not _SIGNATURE.fullmatch(signature):
            raise malformed("X-Signature is an HMAC-SHA256 in 64 hexadecimal digits.")
        if abs(now - int(time) / 1000) > SKEW_SECONDS:
            where = from_now(now - int(time) / 1000)
            raise Refused(
                "signature_time", f"X-Timestamp, in milliseconds, is {where}; {SKEW_SECONDS} seconds are allowed."
            )
        self.key_id = key.key_id
        self._signature = bytes.fromhex(signature)
        self._hashed = hmac.new(key.secret, f"{time}:".encode(), hashlib.sha256)
        self.nonce = self._signature.hex()
        """What must not have been seen before, as long as its time passes."""
        self.created = int(time) // 1000
        self.until = self.created + SKEW_SECONDS + 1

    def update(self, content: bytes) -> None:
        """The next piece of the content."""
        self._hashed.update(content)

    def holds(self) -> bool:
        """All of it was seen: whether that was signed."""
        return hmac.compare_digest(self._hashed.digest(), self._signature)

    def check(self) -> None:
        """The same; raises ``Refused`` when something else was signed."""
        if not self.holds():
            raise Refused(
                "signature_mismatch",
                "X-Signature is not that of X-Timestamp, a colon and the content by a secret of this API key that "
                "works. After a rotation sign with the successor's.",
            )
