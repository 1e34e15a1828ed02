"""The structured fields of signatures (RFC 9651): as much of them as signatures need, read strictly.

Text that a signer would not have written itself is refused rather than repaired, because what is signed is the text.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from shared.signing.failures import Refused, malformed

Bare = str | int | bytes
LONGEST = 4096
"""Characters of a field; a signature of ours has some three hundred."""

_KEY = r"[a-z*][a-z0-9_\-.*]*"
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_BYTES = r":[A-Za-z0-9+/]*={0,2}:"
_BARE = rf"{_STRING}|-?[0-9]{{1,15}}|{_BYTES}"
_PARAMETER = rf";{_KEY}=(?:{_BARE})"
_COMPONENT = rf"{_STRING}(?:;{_KEY}(?:=(?:{_BARE}))?)*"
_INNER = re.compile(rf"({_KEY})=(\(((?:{_COMPONENT}(?: {_COMPONENT})*)?)\)((?:{_PARAMETER})*))")
_MEMBER = re.compile(rf"({_KEY})=({_BYTES})(?:;{_KEY}(?:=(?:{_BARE}))?)*")
_SEPARATOR = re.compile(r"[ \t]*,[ \t]*")
_EACH_PARAMETER = re.compile(rf";({_KEY})=({_BARE})")
_EACH_COMPONENT = re.compile(_COMPONENT)
_STANDARDS = {"Content-Digest": "RFC 9530"}
_FORMS = {
    "Signature-Input": 'Write gdn=("@method" "@authority" …);created=1767225600;…;keyid="…";alg="…": names and text in double '
    "quotes, which a shell takes away unless all of it is in single ones; numbers without.",
    "Signature": "Write gdn=:…:, the base64 of the signature between colons, with the label that Signature-Input has.",
    "Content-Digest": "Write sha-256=:…:, the base64 of the digest between colons.",
}
"""What to say of a field that cannot be read: how it must be written, never what stands there."""


class Signed(NamedTuple):
    """What one label of ``Signature-Input`` says: ``text`` is the whole value, as it is signed."""

    text: str
    components: tuple[str, ...]
    parameters: Mapping[str, Bare]


def signature_inputs(field: str) -> dict[str, Signed]:
    """``Signature-Input``: its labels; raises ``Refused`` (malformed)."""
    found: dict[str, Signed] = {}
    for match in _members(field, _INNER, "Signature-Input"):
        label, text, components, parameters = match.groups()
        found[label] = Signed(text, _components(components), _parameters(parameters))
    return found


def byte_members(field: str, name: str) -> dict[str, bytes]:
    """``Signature`` or ``Content-Digest``: byte sequences by key; raises ``Refused`` (malformed)."""
    return {match[1]: _decoded(match[2], name) for match in _members(field, _MEMBER, name)}


def quoted(text: str) -> str:
    """As an sf-string; ``text`` is printable ASCII."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _members(field: str, pattern: re.Pattern[str], name: str) -> list[re.Match[str]]:
    if not field:
        raise malformed(f"{name} is empty.")
    if len(field) > LONGEST:
        raise malformed(f"{name} is longer than {LONGEST} characters.")
    found: dict[str, re.Match[str]] = {}
    place = 0
    while True:
        match = pattern.match(field, place)
        if match is None:
            raise _unreadable(name, place)
        if match[1] in found:
            raise malformed(f"{name} has the key '{match[1]}' twice.")
        found[match[1]] = match
        place = match.end()
        if place == len(field):
            return list(found.values())
        separator = _SEPARATOR.match(field, place)
        if separator is None:
            raise _unreadable(name, place)
        place = separator.end()


def _unreadable(name: str, place: int) -> Refused:
    standard = _STANDARDS.get(name, "RFC 9421")
    return malformed(f"{name} is not what {standard} asks for, at character {place + 1}. {_FORMS[name]}")


@lru_cache(maxsize=1024)
def _components(text: str) -> tuple[str, ...]:
    found = tuple(_EACH_COMPONENT.findall(text))
    if len(set(found)) < len(found):
        raise malformed("Signature-Input covers a component twice.")
    return found


def _parameters(text: str) -> dict[str, Bare]:
    found: dict[str, Bare] = {}
    for name, value in _EACH_PARAMETER.findall(text):
        if name in found:
            raise malformed(f"Signature-Input has the parameter '{name}' twice.")
        found[name] = _bare(value)
    return found


def _bare(text: str) -> Bare:
    if text[0] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1]) if "\\" in text else text[1:-1]
    return _decoded(text, "Signature-Input") if text[0] == ":" else int(text)


def _decoded(text: str, name: str) -> bytes:
    try:
        return b64decode(text[1:-1], validate=True)
    except Error as error:
        raise malformed(f"{name} has a byte sequence that is not base64 between colons.") from error
