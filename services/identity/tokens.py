"""Secrets that are handed out once: 32 random bytes as text; what is stored is their SHA-256."""

import hashlib
import secrets
from typing import NamedTuple


class Token(NamedTuple):
    """A token just made: the text for its owner, the hash for the database."""

    text: str
    sha256: bytes


def new_token() -> Token:
    """A token of 256 random bits."""
    text = secrets.token_urlsafe(32)
    return Token(text, digest(text))


def digest(text: str) -> bytes:
    """The hash a token is found by."""
    return hashlib.sha256(text.encode()).digest()
