"""Ways to get the key of a signature wrong: another one, or the right one written or used in another way."""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator, Sequence

from services.identity.signatures.domain.explanation import Ended, Keys
from services.identity.signatures.domain.request import Sent
from services.identity.signatures.domain.search import A, Check, Mistake, check_of, with_key
from shared.signing.keys import SharedSecret, Verifier

_AS_TEXT = "use its text as it stands, in ASCII"
_BEARER = "bearer "
_MOST_CUT = 4
"""Characters of a secret that may be missing: who could ask about more could guess it piece by piece."""


def of_keys(sent: Sent, named: Verifier | None, keys: Keys) -> Iterator[Mistake[A]]:
    """Other keys of the API key, and the secret (the named one's, or else the first) used in another way."""
    for key in keys.good:
        if key is not named:
            yield with_key(
                check_of(key), f"it was made with the signing key {key.key_id}", "name in keyid the key that you sign with",
                usual=True,
            )  # fmt: skip
    yield from of_former([each for each in keys.former if each.key is not named], named)
    primary = named or next(iter(keys.good), None)
    if isinstance(primary, SharedSecret):
        yield from of_secret(sent, primary)


def of_former(former: Sequence[Ended], named: Verifier | None) -> Iterator[Mistake[A]]:
    """Keys of the API key that were replaced or revoked. ``named``: the one that keyid says."""
    for ended in former:
        if named is not None and ended.successor in {None, named.key_id}:
            instead = f"sign with {named.key_id}, which keyid names"
        else:
            instead = f"sign with {ended.successor or 'another one'}"
        assumed = f"it was made with the signing key {ended.key.key_id}, which {ended.why}"
        yield with_key(check_of(ended.key), assumed, instead)


def unexplained(key: Verifier) -> str:
    """What to say when no mistake is found. A secret that was cut short is noticed by its length."""
    says = (
        "No usual mistake explains the signature. Compare the text that you sign with signature_base, character by "
        "character; where they are the same, it was made with another"
    )
    if not isinstance(key, SharedSecret):
        return f"{says} private key."
    return (
        f"{says} secret. The right one begins with gdns_ and has {len(key.secret)} characters: use all of them, "
        "without a space or a line end. It came with the signing key, and is not the API key (gdn_…)."
    )


def of_secret(sent: Sent, key: SharedSecret) -> Iterator[Mistake[A]]:
    """A shared secret used in another way, or something else in its place."""
    for secret, assumed, instead, usual in _other_secrets(key.secret):
        yield with_key(_hmac(secret), assumed, instead, usual=usual)
    kind, token = sent.fields.get("authorization", "")[: len(_BEARER)], sent.fields.get("authorization", "")[7:]
    if kind.lower() == _BEARER and token:
        yield with_key(
            _hmac(token.strip().encode("latin-1")), "the API key itself is the secret",
            "use the secret of its signing key", usual=True,
        )  # fmt: skip
    yield with_key(_hmac(key.key_id.encode()), "the signing key's id is the secret", "use the secret that came with it")
    yield from _other_functions(key.secret)


def _other_secrets(secret: bytes) -> Iterator[tuple[bytes, str, str, bool]]:
    for decoded in _decoded(secret):
        yield decoded, "the secret is base64-decoded first", _AS_TEXT, True
    _, prefix, rest = secret.rpartition(b"_")
    if prefix:
        yield rest, "the secret lacks its beginning, gdns_", "use all of its text", True
    for ending, name in ((b"\n", "a line end"), (b"\r\n", "a line end (CR LF)"), (b" ", "a space")):
        yield secret + ending, f"the secret has {name} at its end", "take it off, as when it is read from a file", True
    yield b" " + secret, "the secret has a space at its beginning", "take it off", False
    yield b" " + secret + b" ", "the secret has a space on either side", "take them off", False
    yield from _cut(secret)
    yield b"", "the secret is empty", "set it (is its environment variable there?)", True
    for quote in (b'"', b"'"):
        yield quote + secret + quote, "the secret stands in quotes", "take them off", False
    yield b64encode(secret), "the secret is base64-encoded first", _AS_TEXT, False
    yield secret.hex().encode(), "the secret is written in hexadecimal", _AS_TEXT, False
    yield secret.decode("latin-1").encode("utf-16-le"), "the secret is encoded as UTF-16", _AS_TEXT, False
    yield hashlib.sha256(secret).digest(), "the secret is hashed first", _AS_TEXT, False
    yield hashlib.sha256(secret).hexdigest().encode(), "the secret is hashed first", _AS_TEXT, False


def _cut(secret: bytes) -> Iterator[tuple[bytes, str, str, bool]]:
    """As when not all of it is copied."""
    instead = f"use all of its {len(secret)} characters"
    for count in range(1, _MOST_CUT + 1):
        lost = "character" if count == 1 else f"{count} characters"
        yield secret[:-count], f"the secret lacks its last {lost}", instead, False
        yield secret[count:], f"the secret lacks its first {lost}", instead, False


def _decoded(secret: bytes) -> Iterator[bytes]:
    """As decoders do it that know the alphabet of URLs, and as those do that skip what they do not know."""
    rest = secret.rpartition(b"_")[2]
    known = secret.replace(b"_", b"").replace(b"-", b"")
    for text in (secret, rest, known, known[: len(known) // 4 * 4]):
        padded = text + b"=" * (-len(text) % 4)
        for decode in (urlsafe_b64decode, b64decode):
            try:
                yield decode(padded)
            except binascii.Error:
                continue


def _other_functions(secret: bytes) -> Iterator[Mistake[A]]:
    for name in ("sha512", "sha384", "sha1"):
        yield with_key(_hmac(secret, name), f"HMAC-{name.upper().replace('SHA', 'SHA-')} is used", "use HMAC-SHA256")
    for assumed, made in _NO_HMAC:
        yield with_key(_made(made, secret), assumed, "use HMAC-SHA256 with the secret for its key")


_NO_HMAC: tuple[tuple[str, Callable[[bytes, bytes], bytes]], ...] = (
    ("the HMAC has the secret for its message and the text for its key",
     lambda secret, text: hmac.digest(text, secret, "sha256")),
    ("it is a plain SHA-256 of the secret and the text", lambda secret, text: hashlib.sha256(secret + text).digest()),
    ("it is a plain SHA-256 of the text and the secret", lambda secret, text: hashlib.sha256(text + secret).digest()),
    ("it is a plain SHA-256 of the text, without the secret", lambda _, text: hashlib.sha256(text).digest()),
)  # fmt: skip


def _made(made: Callable[[bytes, bytes], bytes], secret: bytes) -> Check:
    return lambda text, signature: hmac.compare_digest(made(secret, text), signature)


def _hmac(secret: bytes, name: str = "sha256") -> Check:
    return lambda text, signature: hmac.compare_digest(hmac.digest(secret, text, name), signature)
