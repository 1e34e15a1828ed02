"""Requests for the tests of signatures, and keys."""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.signing import v1
from shared.signing.digests import content_digest
from shared.signing.keys import PrivateKey, PublicKey, SharedSecret
from shared.signing.message import Message

NOW = 1_767_225_600
NONCE = "c2lnbmVkIG9uY2UgLi4u"
CONTENT = b'{"amount": 12}'
SECRET = SharedSecret("0123456789", bytes(range(32)))
PRIVATE = PrivateKey("9876543210", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
PUBLIC = PublicKey("9876543210", PRIVATE.key.public_key())


def message(
    method: str = "POST",
    path: str = "/v1/deals",
    query: str = "expand=stage",
    content: bytes = CONTENT,
    more: Mapping[str, str] | None = None,
) -> Message:
    """A request without a signature; with content it has all that goes with it."""
    fields = {"host": "api.example.com"}
    if content:
        fields |= {
            "content-type": "application/json", "content-length": str(len(content)),
            "content-digest": content_digest(content),
        }  # fmt: skip
    fields |= more or {}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields.items() if value]
    return Message(method, path.encode(), query.encode(), pairs)


def with_fields(original: Message, more: Mapping[str, str], **other: object) -> Message:
    """The same request with more fields, or others (an empty one is taken away), or another line."""
    fields = {**original.fields, **{name.lower(): value for name, value in more.items()}}
    parts = {"method": original.method, "path": original.path, "query": original.query} | other
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields.items() if value]
    return Message(str(parts["method"]), bytes(parts["path"]), bytes(parts["query"]), pairs)  # type: ignore[call-overload]


def signed(original: Message | None = None, *, nonce: str = NONCE, created: int = NOW) -> Message:
    """A request that the shared secret has signed."""
    request = original or message()
    return with_fields(request, v1.sign(request, SECRET, nonce=nonce, created=created))
