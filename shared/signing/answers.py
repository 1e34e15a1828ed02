"""The profile of RFC 9421 by which answers are signed: each for itself, and as the answer to one request (§2.4).

    Content-Digest: sha-256=:…:
    Signature-Input: gdn=("@status" "content-digest" "content-type" "@method";req "@authority";req "@path";req "@query";req \
"signature";key="gdn";req);created=1767225600;keyid="…";alg="hmac-sha256";tag="guardian-answer-v1"
    Signature: gdn=:…:

Status and content are always covered, empty content like any other; its type, and that the answer was given before
(``Idempotency-Replayed``), where the answer says so. Which request it answers is covered as ``v1`` names one, and by the
request's own signature where it has one by ``v1``: that was used once, so the answer is good once, too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shared.signing import v1
from shared.signing.digests import ContentDigest, content_digest
from shared.signing.failures import Refused, from_now, listed
from shared.signing.fields import Signed, byte_members, quoted, signature_inputs
from shared.signing.keys import Verifier
from shared.signing.message import Message, Pair, fields_of

TAG, LABEL = "guardian-answer-v1", "gdn"
SKEW_SECONDS = 300
"""How far the verifier's clock may be off, either way, and how old an answer may be."""
_PRESENT = ("content-type", "idempotency-replayed")
"""Fields that must be covered where an answer has them."""
_OF_THE_REQUEST = ("@method", "@authority", "@path", "@query")


class Answer(NamedTuple):
    """Header names are lower case. ``content`` is all of it as it was sent: empty for HEAD, 204 and 304, and compressed
    where the answer is.
    """

    status: int
    headers: Sequence[Pair]
    content: bytes


def sign(
    request: Message, answer: Answer, key_for: Callable[[str | None], v1.Signer], *, created: int
) -> dict[str, str]:
    """The three fields that sign an answer, which has none of them yet.

    ``key_for`` gives the key to sign with, by the id of the one that the request says it was signed with by ``v1``
    (None: by none; the request need not be right). ``created`` is in unix seconds.
    """
    own = _own(request)
    key = key_for(None if own is None else own.key_id)
    digest = content_digest(answer.content)
    covered = _covered(request, own, answer.status, {**fields_of(answer.headers), "content-digest": digest})
    text = f"({' '.join(covered)});created={created};keyid={quoted(key.key_id)};alg={quoted(key.algorithm)};tag={quoted(TAG)}"
    signature = b64encode(key.sign(_base(covered, text))).decode()
    return {
        "Content-Digest": digest,
        "Signature-Input": f"{LABEL}={text}",
        "Signature": f"{LABEL}=:{signature}:",
    }


def verify(request: Message, answer: Answer, find: Callable[[str], Verifier | None], now: float) -> str:
    """The id of the key that has signed ``answer`` as the answer to ``request``; raises ``Refused``.

    ``find`` gives a key by its id, ``now`` is in unix seconds. ``request`` is as it was sent, its signature included.
    """
    fields = fields_of(answer.headers)
    label, signed = _ours(fields)
    key = find(_text(signed, "keyid"))
    if key is None:
        raise Refused("signature_key", "The answer's keyid is that of no key known here.")
    if _text(signed, "alg") != key.algorithm:
        raise Refused("signature_algorithm", f"This key signs with {key.algorithm}, and the answer says otherwise.")
    covered = _covered(request, _own(request), answer.status, fields)
    missing = {*covered, '"content-digest"'} - set(signed.components)
    if missing:
        raise Refused("signature_incomplete", f"The answer's signature does not cover {listed(sorted(missing))}.")
    _check_time(signed, now)
    known = {**{f'"{name}"': value for name, value in fields.items()}, **covered}
    if not set(signed.components) <= known.keys():
        raise Refused("signature_incomplete", "The signature covers something that the answer, or the request, lacks.")
    signature = byte_members(fields["signature"], "Signature").get(label, b"")
    if not key.verifies(signature, _base({each: known[each] for each in signed.components}, signed.text)):
        raise Refused(
            "signature_mismatch",
            "This is not what was signed: another secret, the answer to another request, or changed on its way.",
        )
    digest = ContentDigest.read(fields["content-digest"])
    digest.update(answer.content)
    digest.check()
    return key.key_id


class _Own(NamedTuple):
    """A request's own signature by ``v1``: its label, the id of its key, and its value as a structured field."""

    label: str
    key_id: str | None
    value: str


def _own(request: Message) -> _Own | None:
    """None for a request without one that can be read: of such, there is nothing to bind an answer to."""
    fields = request.fields
    if "signature-input" not in fields or "signature" not in fields:
        return None
    try:
        inputs = signature_inputs(fields["signature-input"])
        labels = [label for label, each in inputs.items() if each.parameters.get("tag") == v1.TAG]
        signatures = byte_members(fields["signature"], "Signature")
    except Refused:
        return None
    if len(labels) != 1 or labels[0] not in signatures:
        return None
    key_id = inputs[labels[0]].parameters.get("keyid")
    value = f":{b64encode(signatures[labels[0]]).decode()}:"
    return _Own(labels[0], key_id if isinstance(key_id, str) else None, value)


def _covered(request: Message, own: _Own | None, status: int, fields: Mapping[str, str]) -> dict[str, str]:
    """What must be covered: component identifiers with their values, in the order in which they are signed here."""
    found = {'"@status"': str(status)}
    found |= {f'"{name}"': fields[name] for name in ("content-digest", *_PRESENT) if name in fields}
    found |= {f'"{name}";req': request.component(f'"{name}"') for name in _OF_THE_REQUEST}
    if own is not None:
        found[f'"signature";key="{own.label}";req'] = own.value
    return found


def _base(covered: Mapping[str, str], text: str) -> bytes:
    """The signature base (RFC 9421 §2.5)."""
    lines = [f"{component}: {value}" for component, value in covered.items()]
    return "\n".join([*lines, f'"@signature-params": {text}']).encode("latin-1")


def _ours(fields: Mapping[str, str]) -> tuple[str, Signed]:
    field = fields.get("signature-input")
    if field is None:
        why = fields.get("guardian-answer-unsigned")
        because = "" if why is None else f" (Guardian-Answer-Unsigned: {why})"
        raise Refused("signature_missing", f"The answer is not signed{because}.")
    if "signature" not in fields:
        raise Refused("signature_missing", "The answer has Signature-Input, and the field Signature is missing.")
    found = [(label, each) for label, each in signature_inputs(field).items() if each.parameters.get("tag") == TAG]
    if len(found) != 1:
        raise Refused("signature_missing", f'The answer must have one signature with tag="{TAG}".')
    return found[0]


def _text(signed: Signed, name: str) -> str:
    value = signed.parameters.get(name)
    if not isinstance(value, str):
        raise Refused("signature_incomplete", f'The answer\'s signature lacks the parameter {name}="…".')
    return value


def _check_time(signed: Signed, now: float) -> None:
    created = signed.parameters.get("created")
    if not isinstance(created, int):
        raise Refused("signature_incomplete", "The answer's signature lacks created, in unix seconds.")
    if abs(now - created) > SKEW_SECONDS:
        raise Refused(
            "signature_time",
            f"The answer's created is {from_now(now - created)}; {SKEW_SECONDS} seconds are allowed.",
        )
