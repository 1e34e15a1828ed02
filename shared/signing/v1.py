"""The profile of RFC 9421 by which requests are signed.

    Signature-Input: gdn=("@method" "@authority" "@path" "@query" "content-digest" "content-type");created=1767225600\
;expires=1767225900;nonce="…";keyid="…";alg="hmac-sha256";tag="guardian-v1"
    Signature: gdn=:…:

Which request it is (method, host, path, query, content with its type, idempotency key) is always covered, whatever else
is; who signed and when as well. The label is free, the tag is not.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.signing.digests import ContentDigest
from shared.signing.failures import Refused
from shared.signing.fields import Signed, byte_members, quoted, signature_inputs
from shared.signing.keys import Verifier
from shared.signing.message import Message

TAG, LABEL = "guardian-v1", "gdn"
SKEW_SECONDS = 300
"""How far the signer's clock may be off, either way, and how long a signature may be good for."""
_DERIVED = ("@method", "@authority", "@path", "@query")
_PRESENT = ("content-type", "idempotency-key")
"""Fields that must be covered where a request has them."""
_NONCE = re.compile(r"[A-Za-z0-9_\-+/=.]{16,64}")


class Signer(Protocol):
    """A key that can sign."""

    @property
    def algorithm(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def sign(self, text: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that holds. ``nonce`` must not have been seen ``until`` (unix seconds) it expires; ``digest`` is left
    to be checked against the content, where there is any.
    """

    key_id: str
    nonce: str
    created: int
    until: int
    digest: ContentDigest | None


def is_signed(message: Message) -> bool:
    """Whether the request has the fields of a signature."""
    return "signature-input" in message.fields or "signature" in message.fields


def verify(message: Message, find: Callable[[str], Verifier | None], now: float) -> Verified:
    """Check everything but the content and the nonce, by the key that ``find`` knows by its id; raises ``Refused``."""
    label, signed = _ours(message)
    key = find(_text(signed, "keyid"))
    if key is None:
        raise Refused("signature_key", "The signature's keyid is not that of a signing key of this API key.")
    if _text(signed, "alg") != key.algorithm:
        raise Refused("signature_algorithm", f"This key signs with {key.algorithm}; say so in alg.")
    _check_covered(message, signed)
    created, until = _check_times(signed, now)
    nonce = _text(signed, "nonce")
    if not _NONCE.fullmatch(nonce):
        raise Refused("signature_incomplete", "The nonce must have 16 to 64 characters (A–Z a–z 0–9 _-+/=.).")
    signatures = byte_members(message.fields.get("signature", ""), "Signature")
    if label not in signatures:
        raise Refused("signature_missing", f"Signature has no member '{label}', which Signature-Input names.")
    if not key.verifies(signatures[label], base(message, signed)):
        raise Refused(
            "signature_mismatch",
            "The signature is not that of this request: another secret, or something covered was changed on its way.",
        )
    covered = '"content-digest"' in signed.components
    digest = ContentDigest(message.fields["content-digest"]) if covered else None
    return Verified(key.key_id, nonce, created, until, digest)


def base(message: Message, signed: Signed) -> bytes:
    """The signature base (RFC 9421 §2.5): what is signed; raises ``Refused``."""
    lines = [f"{component}: {message.component(component)}" for component in signed.components]
    lines.append(f'"@signature-params": {signed.text}')
    return "\n".join(lines).encode("latin-1")


def sign(message: Message, key: Signer, *, nonce: str, created: int, expires: int | None = None) -> dict[str, str]:
    """The two fields that sign a request, which has its ``Content-Digest`` already when it has content."""
    present = [name for name in ("content-digest", *_PRESENT) if name in message.fields]
    components = tuple(quoted(name) for name in (*_DERIVED, *present))
    until = created + SKEW_SECONDS if expires is None else expires
    text = (
        f"({' '.join(components)});created={created};expires={until};nonce={quoted(nonce)}"
        f";keyid={quoted(key.key_id)};alg={quoted(key.algorithm)};tag={quoted(TAG)}"
    )
    signature = b64encode(key.sign(base(message, Signed(text, components, {})))).decode()
    return {"Signature-Input": f"{LABEL}={text}", "Signature": f"{LABEL}=:{signature}:"}


def _ours(message: Message) -> tuple[str, Signed]:
    field = message.fields.get("signature-input")
    if field is None:
        raise Refused("signature_missing", "The request has no Signature-Input; this API key must sign its requests.")
    found = [(label, each) for label, each in signature_inputs(field).items() if each.parameters.get("tag") == TAG]
    if len(found) != 1:
        raise Refused("signature_missing", f'Signature-Input must have one signature with tag="{TAG}".')
    return found[0]


def _text(signed: Signed, name: str) -> str:
    value = signed.parameters.get(name)
    if not isinstance(value, str):
        raise Refused("signature_incomplete", f'The signature lacks the parameter {name}="…".')
    return value


def _check_covered(message: Message, signed: Signed) -> None:
    wanted = [*_DERIVED, *(name for name in _PRESENT if name in message.fields)]
    if message.has_body or "content-digest" in message.fields:
        wanted.append("content-digest")
    missing = [name for name in wanted if f'"{name}"' not in signed.components]
    if missing:
        raise Refused("signature_incomplete", f"The signature must cover {', '.join(missing)}, too.")


def _check_times(signed: Signed, now: float) -> tuple[int, int]:
    created, expires = signed.parameters.get("created"), signed.parameters.get("expires")
    if not isinstance(created, int) or not isinstance(expires, int):
        raise Refused("signature_incomplete", "The signature lacks created or expires, in unix seconds.")
    if abs(now - created) > SKEW_SECONDS:
        raise Refused(
            "signature_time",
            f"The signature was created {now - created:+.0f} s from now; {SKEW_SECONDS} s are allowed.",
        )
    if now >= expires:
        raise Refused("signature_time", "The signature has expired; sign the request again.")
    if expires - created > SKEW_SECONDS:
        raise Refused("signature_time", f"The signature is good for more than {SKEW_SECONDS} s; let it expire sooner.")
    return created, expires
