"""Rules of signing keys, free of I/O: the text of a secret, which public keys are sound, what a policy needs."""

import binascii
import re
import secrets
from base64 import b64decode
from collections.abc import Callable, Collection
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
    load_ssh_public_key,
)

from shared.auth.api_key import ALPHABET

Algorithm = Literal["hmac-sha256", "ed25519"]
SignaturePolicy = Literal["off", "v0", "both", "v1"]

MOST_ALIVE = 5
"""Signing keys of one API key that are neither revoked nor expired: every call is checked against them."""

_SECRET_LENGTH = 43
_PUBLIC_KEY_LENGTH = 32
# DER: a private key (PKCS #8) begins with the number of its version, a public one (SubjectPublicKeyInfo) does not.
_SEQUENCE, _NUMBER_FOLLOWS = b"\x30", b"\x02\x01"
# As in id_ed25519.pub, in one line, with or without a comment. Other kinds and certificates sign in another way.
_SSH = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ ")
_SSH_ED25519 = re.compile(r"ssh-ed25519 +[A-Za-z0-9+/=]+(?: [^\r\n]*)?")
_PRIVATE = (
    "is a private key, which nobody else may have: make a new pair, since this one was sent, and send what "
    "'openssl pkey -in key.pem -pubout' prints, the public half"
)
# Of Ed25519 (RFC 8032 §5.1): -x² + y² = 1 + d·x²·y², modulo a prime.
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME


def new_secret() -> str:
    """``gdns_`` and 43 base62 characters of 256 random bits. The key of the HMAC is this text in ASCII."""
    return "gdns_" + "".join(secrets.choice(ALPHABET) for _ in range(_SECRET_LENGTH))


def can_be_signed(policy: SignaturePolicy, algorithms: Collection[str]) -> bool:
    """Whether requests can meet ``policy`` with keys of these algorithms; the older scheme knows HMAC alone."""
    if policy == "off":
        return True
    return "hmac-sha256" in algorithms if policy in {"v0", "both"} else bool(algorithms)


def refuse_private(text: str) -> str:
    """The text; raises ``ValueError`` for a private key in PEM, however long and whatever else is wrong with it."""
    if "PRIVATE KEY-----" in text:
        raise ValueError(_PRIVATE)
    return text


def raw_public_key(text: str) -> bytes:
    """The bytes of a public key: 32 in base64, its SubjectPublicKeyInfo in base64 (DER) or PEM, or OpenSSH's line.

    Raises ``ValueError`` for what can be neither. Whether it is a sound key is for ``is_sound`` to say.
    """
    if text.startswith("-----"):
        return _from_info(load_pem_public_key, text.encode(), "PEM")
    if _SSH.match(text):
        return _from_ssh(text)
    try:
        raw = b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("is neither base64 nor PEM nor an OpenSSH public key") from None
    if len(raw) == _PUBLIC_KEY_LENGTH or raw[:1] != _SEQUENCE:
        return raw
    if raw[2:4] == _NUMBER_FOLLOWS:
        raise ValueError(_PRIVATE)
    return _from_info(load_der_public_key, raw, "DER")


def _from_ssh(text: str) -> bytes:
    if not text.startswith("ssh-ed25519 "):
        raise ValueError("is an OpenSSH key, and not one of ssh-ed25519")
    if not _SSH_ED25519.fullmatch(text):
        raise ValueError("is not a public key in OpenSSH's form, one line")
    return _from_info(load_ssh_public_key, text.encode(), "OpenSSH's form")


def _from_info(load: Callable[[bytes], object], encoded: bytes, form: str) -> bytes:
    try:
        key = load(encoded)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"is not a public key in {form}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is not an Ed25519 key")  # noqa: TRY004 (the caller's text is wrong, not our type)
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def is_sound(raw: bytes) -> bool:
    """Whether 32 bytes are a point of the curve that one private key alone can sign for.

    OpenSSL takes any bytes for a public key. For the eight points of small order anybody can make signatures (of
    zeros, for one), and nobody for what is no point.
    """
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if len(raw) != _PUBLIC_KEY_LENGTH or y >= _PRIME:
        return False
    xx, yy = (y * y - 1) * pow(_D * y * y + 1, -1, _PRIME) % _PRIME, y * y % _PRIME
    if xx != 0 and pow(xx, (_PRIME - 1) // 2, _PRIME) != 1:
        return False
    for _ in range(2):
        product = _D * xx * yy
        xx, yy = (
            4 * xx * yy * pow(1 + product, -2, _PRIME) % _PRIME,
            (yy + xx) ** 2 * pow(1 - product, -2, _PRIME) % _PRIME,
        )
    # Four times a point of small order is one of the two points whose double is the neutral one: (0, 1), (0, -1).
    return xx != 0
