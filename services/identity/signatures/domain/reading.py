"""``Signature-Input`` and ``Signature`` as somebody meant them, where the gateway reads them strictly."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass

from services.identity.signatures.domain.request import Sent, shortened
from shared.signing.failures import Refused
from shared.signing.fields import LONGEST, Signed, signature_inputs
from shared.signing.v1 import LABEL, TAG

LENGTHS = frozenset({20, 32, 48, 64})
"""Bytes of a signature: HMAC with SHA-1, SHA-256, SHA-384 and SHA-512, Ed25519."""
HEXADECIMAL = "written in hexadecimal"
_NUMBER = re.compile(r';(created|expires)="?(\d{10})(?:\d{6,}|\d*\.\d*)"?')
_LIST = re.compile(r"\(([^()]*)\)")
_BARE_VALUE = re.compile(r";([a-z][a-z0-9_-]*)=([^;,\"':\s()]*[^;,\"':\s()0-9][^;,\"':\s()]*)")
_MEMBER = re.compile(r"(?:^|,)[ \t]*([a-z*][a-z0-9_\-.*]*)=([^,]*)")
_DIGITS = re.compile(r"(?:[0-9A-Fa-f]{2}){16,64}")


@dataclass(frozen=True, slots=True)
class Reading:
    """The signature that is meant. ``written`` is its member of ``Signature-Input`` before it was mended; ``signature``
    is None where it cannot be told.
    """

    label: str
    signed: Signed
    written: str
    signature: bytes | None


def read(sent: Sent) -> tuple[Reading | None, list[str]]:
    """What the fields mean, None where that cannot be guessed; and what is wrong with how they are written."""
    field = sent.fields.get("signature-input")
    if field is None:
        return None, []
    inputs, hints = _inputs(field)
    if not inputs:
        return None, []
    label = next((name for name, each in inputs.items() if each.parameters.get("tag") == TAG), next(iter(inputs)))
    signature, more = _signature(sent.fields.get("signature", ""), label)
    written = re.sub(rf"^[ \t]*{re.escape(label)}=", "", field)
    return Reading(label, inputs[label], written, signature), hints + more


def _inputs(field: str) -> tuple[dict[str, Signed], list[str]]:
    hints: list[str] = []
    try:
        return signature_inputs(field), hints
    except Refused:
        if len(field) > LONGEST:
            return {}, hints
    for mend, says in _MENDS:
        mended = mend(field)
        if mended != field:
            field = mended
            hints.append(says)
    try:
        return signature_inputs(field), hints
    except Refused:
        return {}, []


def _labelled(field: str) -> str:
    return f"{LABEL}={field.strip()}" if field.lstrip().startswith("(") else field


def _listed(field: str) -> str:
    return _LIST.sub(lambda match: "(" + " ".join(re.split(r"[\s,]+", match[1].strip(" ,"))) + ")", field, count=1)


def _double_quoted(field: str) -> str:
    return field.replace("'", '"')


def _names_quoted(field: str) -> str:
    def quoted(match: re.Match[str]) -> str:
        return "(" + " ".join(f'"{name}"' if '"' not in name else name for name in match[1].split(" ") if name) + ")"

    return _LIST.sub(quoted, field, count=1)


_MENDS: tuple[tuple[Callable[[str], str], str], ...] = (
    (_double_quoted, "Signature-Input has single quotes; write double ones."),
    (_labelled, f'Signature-Input lacks its label; write {LABEL}=("@method" …);created=….'),
    (_listed, 'Signature-Input has its components not parted by one space; write ("@method" "@authority" …).'),
    (_names_quoted, 'Signature-Input has components without quotes; write ("@method" "@authority" …).'),
    (
        lambda field: ";".join(part.strip(" \t") for part in field.strip(" \t;").split(";")),
        "Signature-Input has spaces around a semicolon, or one too many; write …;created=…;expires=….",
    ),
    (
        lambda field: re.sub(r";([a-z]+)[ \t]*=[ \t]*", r";\1=", field),
        "Signature-Input has spaces around an equals sign; leave them out.",
    ),
    (
        lambda field: _NUMBER.sub(r";\1=\2", field),
        "Signature-Input has a time with a fraction, or finer than milliseconds; write whole unix seconds.",
    ),
    (
        lambda field: _BARE_VALUE.sub(r';\1="\2"', field),
        'Signature-Input has text without quotes; write keyid="…";alg="…", and numbers without.',
    ),
)
"""What to mend, in this order, in a field that cannot be read; and what to say of it."""


def _signature(field: str, label: str) -> tuple[bytes | None, list[str]]:
    if not field:
        return None, []
    members = dict(_MEMBER.findall(field))
    if label in members:
        return _decoded(members[label], label)
    if len(members) == 1:
        ((other, text),) = members.items()
        decoded, hints = _decoded(text, label)
        return decoded, [
            f"Signature has the label {shortened(other)}, and Signature-Input {shortened(label)}; use one.", *hints,
        ]  # fmt: skip
    if members:
        return None, [f"Signature has no member {shortened(label)}, which Signature-Input names."]
    decoded, hints = _decoded(field, label)
    return decoded, [f"Signature lacks its label; write {shortened(label)}=:…:.", *hints]


def _decoded(text: str, label: str) -> tuple[bytes | None, list[str]]:
    hints = []
    text = text.partition(";")[0].strip()
    if not (len(text) > 1 and text[0] == text[-1] == ":"):
        hints.append(f"Signature is not written between colons; write {shortened(label)}=:…:.")
    found, says = bytes_of(text.strip(":\"' "))
    if found is None:
        return None, [*hints, "Signature is not base64."]
    if len(found) not in LENGTHS:
        return None, [*hints, f"Signature has {len(found)} bytes; hmac-sha256 gives 32, ed25519 64."]
    return found, hints + ([f"Signature is {says}; write the base64 of its bytes."] if says else [])


def bytes_of(text: str) -> tuple[bytes | None, str]:
    """A signature's bytes, and which way it is written, where that is not base64; None: in no way that is known."""
    if _DIGITS.fullmatch(text):
        return bytes.fromhex(text), HEXADECIMAL
    says = ""
    if "-" in text or "_" in text:
        says, text = "written in base64url", text.replace("-", "+").replace("_", "/")
    if len(text) % 4 and not text.endswith("="):
        says, text = says or "written without its padding", text + "=" * (-len(text) % 4)
    try:
        found = b64decode(text, validate=True)
    except ValueError:
        return None, ""
    inner = found.decode("latin-1")
    if _DIGITS.fullmatch(inner):
        return bytes.fromhex(inner), "the base64 of its hexadecimal text"
    if len(found) in {44, 88}:
        try:
            return b64decode(inner, validate=True), "encoded in base64 twice"
        except ValueError:
            return found, says
    return found, says
