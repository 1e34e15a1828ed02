"""What ``guardian sign`` signs with: variables of the environment, each of which must hold what it is meant to hold.

A secret that stands in the wrong variable could be sent to somebody, or be believed to be safe. What a variable holds is
therefore looked at before anything is made of it, and is never shown.
"""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.administration import Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from shared.signing.v1 import Signer

API_KEY, KEY_ID, SECRET = "GUARDIAN_API_KEY", "GUARDIAN_SIGNING_KEY_ID", "GUARDIAN_SIGNING_SECRET"
KEY_FILE = "GUARDIAN_SIGNING_KEY_FILE"

_PEM = "-----BEGIN"
_FORMS = {
    API_KEY: ("an API key (gdn_…)", re.compile(r"gdn_.+")),
    KEY_ID: ("the id of a signing key (a UUID)", re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")),
    SECRET: ("the secret of a signing key (gdns_…)", re.compile(r"gdns_.+")),
}
"""What each variable holds, and how that looks."""
_FIELDS = {API_KEY: "key", KEY_ID: "id", SECRET: "secret"}
"""Of the answer that shows it."""
_NEW_API_KEY = """'{"name": "signs", "scopes": ["contacts:read"]}'"""
_NEW_PUBLIC_KEY = """'{"algorithm": "ed25519", "public_key": "<its public half>"}'"""
_NEW_PAIR = "openssl genpkey -algorithm ed25519 -out ed25519.pem makes one"
_OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----"


class Keys(NamedTuple):
    """What the variables hold; empty what is not needed."""

    api_key: str
    key_id: str
    secret: str
    file: str

    def signer(self) -> "Signer":
        """The signing key; raises ``Refused``."""
        from shared.signing.keys import PrivateKey, SharedSecret

        if not self.file:
            return SharedSecret(self.key_id, self.secret.encode())
        return PrivateKey(self.key_id, _private_key(self.file))


def from_environment(base: str, *, older: bool) -> Keys:
    """What a request needs, ``older`` by the scheme v0; raises ``Refused``. ``base`` is the URL of the API."""
    file = os.environ.get(KEY_FILE, "")
    if older and file:
        raise Refused(f"--v0 signs with a shared secret alone; leave --v0 out, or unset {KEY_FILE}")
    needed = {API_KEY: True, KEY_ID: not older, SECRET: not file}
    values = {name: os.environ.get(name, "") for name, is_needed in needed.items() if is_needed}
    if not all(values.values()):
        raise Refused(_what_is_missing(values, base, has_file=bool(file), older=older))
    for name, value in values.items():
        _check(name, value)
    return Keys(values[API_KEY], values.get(KEY_ID, ""), values.get(SECRET, ""), file)


def _what_is_missing(values: Mapping[str, str], base: str, *, has_file: bool, older: bool) -> str:
    missing = [name for name, value in values.items() if not value]
    ways = []
    if API_KEY in missing:
        ways.append(f"{_request(_NEW_API_KEY, base, '/v1/api-keys')} makes an API key: {_exports([API_KEY])}")
    if of_signing_key := [name for name in missing if name != API_KEY]:
        request = _request(_NEW_PUBLIC_KEY if has_file else "'{}'", base, "/v1/api-keys/<id>/signing-keys")
        ways.append(f"{request} makes a signing key: {_exports(of_signing_key)}")
    if SECRET in missing and not older:
        ways.append(f"{KEY_FILE}=<file> is used instead of a secret, a file with an Ed25519 private key in PEM")
    return (
        f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} not set. {'; '.join(ways)}. "
        "docs/guides/signing.md, 'Make a key that signs', has all the commands"
    )


def _request(content: str, base: str, path: str) -> str:
    headers = "-H 'Authorization: Bearer <your key>' -H 'Content-Type: application/json'"
    return f"curl {headers} -d {content} {base}{path}"


def _exports(names: list[str]) -> str:
    return f"export {_listed([f'its {_FIELDS[name]} as {name}' for name in names])}"


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _check(name: str, value: str) -> None:
    what, form = _FORMS[name]
    if _PEM in value:
        raise Refused(f"{name} holds a key in PEM, not {what}; write it to a file, {KEY_FILE}=<file>")
    if not re.fullmatch(r"[!-~]+", value):
        raise Refused(f"{name} has spaces, control characters or letters beyond ASCII; export it as it was shown")
    if form.fullmatch(value):
        return
    if other := _belongs_in(value):
        raise Refused(f"{name} holds {_FORMS[other][0]}, which belongs in {other}; {what} is expected here")
    raise Refused(f"{name} does not hold {what}; export it as it was shown")


def _belongs_in(value: str) -> str | None:
    """The variable that is meant for what looks like this."""
    return next((name for name, (_, form) in _FORMS.items() if form.fullmatch(value)), None)


def _private_key(file: str) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read(file)
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:  # that it needs a password
        raise Refused(
            f"{KEY_FILE} names '{file}', which has a password; decrypt a copy, "
            f"openssl pkey -in {shlex.quote(file)} -out decrypted.pem, and export {KEY_FILE}=decrypted.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if b"PUBLIC KEY-----" in pem:
        raise Refused(
            f"{KEY_FILE} names '{file}', which has the public half of a key; the private half is needed to sign, name its file"
        )
    if _OPENSSH.encode() in pem:
        raise Refused(
            f"{KEY_FILE} names '{file}', which is an OpenSSH key; an Ed25519 private key in PKCS #8 is needed: {_NEW_PAIR}"
        )
    raise Refused(f"{KEY_FILE} names '{file}', which is not an Ed25519 private key in PEM; {_NEW_PAIR}")


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        if _PEM in file:
            raise Refused(f"{KEY_FILE} holds a key itself; write it to a file, and name that") from None
        if other := _belongs_in(file):
            raise Refused(
                f"{KEY_FILE} holds {_FORMS[other][0]}, which belongs in {other}; a file's name is expected here"
            ) from None
        raise Refused(f"{KEY_FILE} names '{file}', which cannot be read: {error.strerror}") from None
