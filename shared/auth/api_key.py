"""The text of an API key: ``gdn_<live|test>_<public id>_<secret><checksum>``.

The public id (10 base62 characters) is how a key is looked up and named; the secret has 32 base62
characters (190 bits); the checksum is the CRC-32 of everything before it in 6 base62 characters, so a
mistyped or truncated key is refused without asking a database. Only the SHA-256 of the whole text is
stored: a secret of this entropy needs no slow hash.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from typing import Literal, cast

Mode = Literal["live", "test"]

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
LENGTH = 58
PUBLIC_ID = slice(9, 19)
"""Where the public id stands in a key's text."""

_CHECKSUM_LENGTH = 6
_KEY = re.compile(r"gdn_(live|test)_([0-9A-Za-z]{10})_[0-9A-Za-z]{38}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. ``text`` is shown to its owner once and never stored."""

    public_id: str
    text: str
    sha256: bytes
    mode: Mode


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A key whose form and checksum are right; whether it exists is another question."""

    public_id: str
    sha256: bytes
    mode: Mode


def generate(mode: Mode) -> NewKey:
    """Make a key of ``mode`` from the operating system's randomness."""
    public_id = "".join(secrets.choice(ALPHABET) for _ in range(10))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(32))
    unchecked = f"gdn_{mode}_{public_id}_{secret}"
    text = unchecked + _checksum(unchecked)
    return NewKey(public_id, text, digest(text.encode()), mode)


def parse(text: str) -> ParsedKey | None:
    """The key's parts, or None when the form or the checksum is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        return None
    return ParsedKey(match[2], digest(text.encode()), cast("Mode", match[1]))


def digest(text: bytes) -> bytes:
    """What is stored of a key: the SHA-256 of its whole text."""
    return hashlib.sha256(text).digest()


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = ALPHABET[digit] + digits
    return digits
