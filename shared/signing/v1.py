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
from binascii import Error, a2b_base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from shared.signing.digests import ContentDigest
from shared.signing.failures import Refused, from_now, listed
from shared.signing.fields import LONGEST, Signed, byte_members, quoted, signature_inputs
from shared.signing.keys import ED25519, HMAC, Verifier
from shared.signing.message import DEFAULT_PORTS, Message, has_content

TAG, LABEL = "guardian-v1", "gdn"
SKEW_SECONDS = 300
"""How far the signer's clock may be off, either way, and how long a signature may be good for."""
MILLISECONDS = 100_000_000_000
"""Unix seconds that large are of the year 5138, and milliseconds of 1973."""
_DERIVED = ("@method", "@authority", "@path", "@query")
_PRESENT = ("content-type", "idempotency-key")
"""Fields that must be covered where a request has them."""
_NO_KEY = (
    "The signature's keyid is not that of a signing key of this API key that works: it is another's, was revoked or "
    "has expired. After a rotation sign with the successor; a reroll gives the new API key copies, which have new ids. "
    "GET /v1/api-keys/{key_id}/signing-keys lists the keys."
)
_OTHERS = {HMAC: (ED25519, "one with a public key"), ED25519: (HMAC, "one with a secret")}
"""The other algorithm, and what a signing key for it is."""
_NONCE = re.compile(r"[A-Za-z0-9_\-+/=.]{16,64}")
_KEEPS_FIELDS = frozenset({None, b"keep-alive", b"close"})
"""Values of Connection that name no field."""
_WHICH = frozenset(name.encode() for name in _DERIVED)
_IF_PRESENT = frozenset(name.encode() for name in _PRESENT)
_INPUT = re.compile(
    rb'([a-z][a-z0-9_-]*)=(\(("[@a-z0-9-]+"(?: "[@a-z0-9-]+")*)\);created=([0-9]{1,15});expires=([0-9]{1,15})'
    rb';nonce="([A-Za-z0-9_\-+/=.]{16,64})";keyid="([A-Za-z0-9._-]+)";alg="(hmac-sha256|ed25519)";tag="guardian-v1")'
)
_SIGNATURE = re.compile(rb"([a-z][a-z0-9_-]*)=:([A-Za-z0-9+/]+={0,2}):")
_DIGEST = re.compile(rb"sha-256=:([A-Za-z0-9+/]{43}=):")


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
    found = _at_once(message, find, now)
    if found is not None:
        return found
    label, signed = _ours(message)
    key = find(_text(signed, "keyid"))
    if key is None:
        raise Refused("signature_key", _NO_KEY)
    if _text(signed, "alg") != key.algorithm:
        raise Refused("signature_algorithm", _says_algorithm(key.algorithm))
    _check_covered(message, signed)
    _check_kept(message, signed)
    created, until = _check_times(signed, now)
    nonce = _text(signed, "nonce")
    if not _NONCE.fullmatch(nonce):
        raise Refused("signature_incomplete", "The nonce must have 16 to 64 characters (A–Z a–z 0–9 _-+/=.).")
    signatures = byte_members(message.fields["signature"], "Signature")
    if label not in signatures:
        raise Refused("signature_missing", f"Signature has no member '{label}', which Signature-Input names.")
    if not key.verifies(signatures[label], base(message, signed)):
        raise Refused(
            "signature_mismatch",
            "The signature is not that of this request: another secret, or something covered was changed on its way.",
        )
    covered = '"content-digest"' in signed.components
    digest = ContentDigest.read(message.fields["content-digest"]) if covered else None
    return Verified(key.key_id, nonce, created, until, digest)


class _Plan(NamedTuple):
    """What a list of components comes to: each line's beginning with the name of what follows it."""

    lines: tuple[tuple[bytes, bytes], ...]
    names: frozenset[bytes]


@lru_cache(maxsize=1024)
def _plan(components: bytes) -> _Plan | None:
    """None for a list that is for the slower way to judge."""
    quoted_names = components.split(b" ")
    names = frozenset(each[1:-1] for each in quoted_names)
    if len(names) < len(quoted_names) or not names >= _WHICH or any(each[:1] == b"@" for each in names - _WHICH):
        return None
    return _Plan(tuple((each + b": ", each[1:-1]) for each in quoted_names), names)


def _at_once(message: Message, find: Callable[[str], Verifier | None], now: float) -> Verified | None:
    """A request that is signed the way our own helpers do it, and rightly so, in one look.

    None says nothing: whatever is not so is judged, and explained, by the rules above, step by step.
    """
    known = message.last
    field, signature = known.get(b"signature-input"), known.get(b"signature")
    if field is None or signature is None or len(known) < len(message.headers) or len(field) > LONGEST:
        return None
    inputs, signatures = _INPUT.fullmatch(field), _SIGNATURE.fullmatch(signature)
    if inputs is None or signatures is None or inputs[1] != signatures[1]:
        return None
    created, expires, plan = int(inputs[4]), int(inputs[5]), _plan(inputs[3])
    key = find(inputs[7].decode())
    if plan is None or key is None or key.algorithm.encode() != inputs[8]:
        return None
    if not -SKEW_SECONDS <= now - created <= SKEW_SECONDS or not now < expires <= created + SKEW_SECONDS:
        return None
    digest = _DIGEST.fullmatch(known.get(b"content-digest", b"")) if b"content-digest" in plan.names else None
    if digest is None and (b"content-digest" in known or has_content(known)):
        return None
    if not plan.names >= _IF_PRESENT.intersection(known) or known.get(b"connection") not in _KEEPS_FIELDS:
        return None
    try:
        mac = a2b_base64(signatures[2], strict_mode=True)
        derived = {
            b"@method": message.method.encode(),
            b"@authority": known[b"host"].lower().removesuffix(DEFAULT_PORTS[message.scheme].encode()),
            b"@path": message.path,
            b"@query": b"?" + message.query,
        }
        lines = [begin + (derived.get(name) or known[name].strip(b" \t")) for begin, name in plan.lines]
    except (KeyError, Error):
        return None
    lines.append(b'"@signature-params": ' + inputs[2])
    if not key.verifies(mac, b"\n".join(lines)):
        return None
    content = None if digest is None else ContentDigest.of_sha256(a2b_base64(digest[1]))
    return Verified(key.key_id, inputs[6].decode(), created, expires, content)


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
        raise Refused("signature_missing", _unsigned(message))
    if "signature" not in message.fields:
        raise Refused("signature_missing", "The request has Signature-Input, and the field Signature is missing.")
    found = [(label, each) for label, each in signature_inputs(field).items() if each.parameters.get("tag") == TAG]
    if len(found) != 1:
        raise Refused("signature_missing", f'Signature-Input must have one signature with tag="{TAG}".')
    return found[0]


def _unsigned(message: Message) -> str:
    if "signature" in message.fields:
        what = "has Signature, and the field Signature-Input is missing"
    elif "x-signature" in message.fields or "x-timestamp" in message.fields:
        # Where both schemes are taken, a request with these fields does not come here.
        return (
            "The request is signed by the older scheme (v0), and this API key asks for signatures of RFC 9421 "
            "(signature_policy: v1): sign it with Signature-Input and Signature."
        )
    else:
        what = "has no signature"
    return f"The request {what}; this API key must sign its requests."


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
        raise Refused("signature_incomplete", _says_missing(missing, signed))


def _check_kept(message: Message, signed: Signed) -> None:
    """What ``Connection`` names is for the next hop alone (RFC 9110 §7.6.1): a service would not see what was signed."""
    named = {option.strip(" \t").lower() for option in message.fields.get("connection", "").split(",")}
    lost = [name for name in signed.components if name[1:-1] in named]
    if lost:
        raise Refused("signature_incomplete", f"Connection must not name what is signed: {listed(lost)}.")


def _says_missing(missing: list[str], signed: Signed) -> str:
    lowered = {component.lower() for component in signed.components}
    capitals = [name for name in missing if f'"{name}"' in lowered]
    rest = [name for name in missing if name not in capitals]
    says = [f"Names of components are in lower case: write {listed(capitals)}."] if capitals else []
    return " ".join([*says, f"The signature must cover {listed(rest)}, too."] if rest else says)


def _says_algorithm(algorithm: str) -> str:
    other, what = _OTHERS[algorithm]
    return (
        f'This key signs with alg="{algorithm}". The other algorithm there is, {other}, needs another signing key '
        f"({what}): name its id in keyid."
    )


def _seconds(signed: Signed, name: str) -> int:
    value = signed.parameters[name]
    if not isinstance(value, int):
        raise Refused(
            "signature_incomplete",
            f"The signature's {name} is not a number; write unix seconds without quotes, {name}=1767225600.",
        )
    return value


def _check_times(signed: Signed, now: float) -> tuple[int, int]:
    lacks = [name for name in ("created", "expires") if name not in signed.parameters]
    if lacks:
        raise Refused("signature_incomplete", f"The signature lacks {listed(lacks)}, in unix seconds.")
    created, expires = _seconds(signed, "created"), _seconds(signed, "expires")
    if max(created, expires) >= MILLISECONDS:
        raise Refused(
            "signature_time", "The signature's created or expires is in milliseconds; unix seconds are expected."
        )
    if abs(now - created) > SKEW_SECONDS:
        raise Refused(
            "signature_time",
            f"The signature's created is {from_now(now - created)}; {SKEW_SECONDS} seconds are allowed.",
        )
    if now >= expires:
        raise Refused("signature_time", "The signature has expired; sign the request again.")
    if expires - created > SKEW_SECONDS:
        raise Refused("signature_time", f"The signature is good for more than {SKEW_SECONDS} s; let it expire sooner.")
    return created, expires
