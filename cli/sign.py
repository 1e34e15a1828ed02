"""``guardian sign``: a signed request as a ``curl`` command that can be pasted.

What is signed must be what curl sends, to the byte. Whatever curl would change on its way, or send in a way that cannot
be told here, is therefore turned off by its options or refused.
"""

import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import quote

import typer

from cli.administration import Refused

if TYPE_CHECKING:
    from shared.signing.v1 import Signer

API_KEY, KEY_ID, SECRET = "GUARDIAN_API_KEY", "GUARDIAN_SIGNING_KEY_ID", "GUARDIAN_SIGNING_SECRET"
KEY_FILE = "GUARDIAN_SIGNING_KEY_FILE"
_MADE_BY = {
    API_KEY: ('"name": "signs", "scopes": ["contacts:read"]', "/v1/api-keys", "an API key", "key"),
    KEY_ID: ("", "/v1/api-keys/<id>/signing-keys", "a signing key", "id"),
    SECRET: ("", "/v1/api-keys/<id>/signing-keys", "a signing key", "secret"),
}
"""Content and path of the request that makes what a variable holds, what that is called, and the field it is in."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[ -~\t]*")
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_NAME = re.compile(r"(?:[A-Za-z0-9_-]+\.)*[A-Za-z][A-Za-z0-9_-]*")
_UNPRINTABLE = re.compile(r"[^!-~]+")
_OURS = {
    "authorization": f"the API key of {API_KEY} is sent",
    **dict.fromkeys(
        ("content-digest", "signature", "signature-input", "x-signature", "x-timestamp"), "it is made here"
    ),
    **dict.fromkeys(("content-length", "transfer-encoding"), "curl sends what fits the content"),
}
"""Fields that nobody else may give, by the reason."""


class _Target(NamedTuple):
    """A URL's parts as they stand there."""

    url: str
    scheme: str
    host: str
    authority: str
    path: str
    query: str


class _Content(NamedTuple):
    """The bytes that curl sends, and the words that make it send them."""

    sent: bytes
    words: tuple[str, ...]


_Fields = dict[str, tuple[str, str]]
"""Header fields, name and value, by their names in lower case."""


def sign(
    method: Annotated[str, typer.Argument(help="The method, such as POST.")],
    url: Annotated[str, typer.Argument(help="The whole URL, with its query, percent-encoded.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="The content, or @FILE for a file's bytes. JSON unless -H says so."),
    ] = None,
    *,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="Another header, 'Name: value'.")] = None,
    v0: Annotated[bool, typer.Option("--v0", help="By the older scheme.")] = False,
) -> None:
    """Print a curl command for a signed request.

    It can be used once, within five minutes; a POST with an Idempotency-Key again.

    GUARDIAN_API_KEY is the API key, GUARDIAN_SIGNING_KEY_ID the id of its signing key (not needed for --v0).

    GUARDIAN_SIGNING_SECRET is the signing key's secret.

    GUARDIAN_SIGNING_KEY_FILE, where it is set, is used instead of a secret: a file with an Ed25519 private key in PEM.
    """
    try:
        words = _command(method, _target(url), _content(data), header or [], older=v0)
    except Refused as error:
        print(f"guardian: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    # As bytes, because content that is no text must leave as it came.
    sys.stdout.buffer.write(os.fsencode(shlex.join(words)) + b"\n")
    sys.stdout.buffer.flush()


def _command(method: str, target: _Target, content: _Content | None, more: Iterable[str], *, older: bool) -> list[str]:
    if not _TOKEN.fullmatch(method):
        raise Refused(f"'{method}' is not a method; write one word, such as POST")
    method = method.upper()
    if method == "HEAD" and content is not None:
        raise Refused("curl sends no content with HEAD; leave -d out, or use another method")
    fields = _fields(more)
    if content is not None:
        fields.setdefault("content-type", ("Content-Type", "application/json"))
    if not _is_sent_as_it_is(target.host):
        fields.setdefault("host", ("Host", target.authority))
    fields = {"authorization": ("Authorization", f"Bearer {_needed(API_KEY, target)}"), **fields}
    made = _by_content(target, content) if older else _by_fields(method, target, content, fields)
    return [
        "curl", "-sS", "--globoff", "--path-as-is",
        *(["--head"] if method == "HEAD" else ["-X", method]),  # with -X HEAD curl waits for content
        target.url,
        *(word for name, value in (*fields.values(), *made.items()) for word in ("-H", f"{name}: {value}")),
        *(content.words if content is not None else ()),
    ]  # fmt: skip


def _target(url: str) -> _Target:
    match = _URL.fullmatch(url)
    if match is None or not match[2]:
        raise Refused(f"'{url}' is not a whole URL; write http://127.0.0.1:8080/v1/…")
    scheme, authority, path, query, fragment = match.groups()
    if fragment is not None:
        raise Refused("a fragment ('#…') is not sent; leave it out, or write '#' as %23")
    if "@" in authority:
        rest = url[len(f"{scheme}://{authority}") :]
        raise Refused(
            f"the API key says who asks, no name and password in the URL; write '{scheme}://{authority.rpartition('@')[2]}{rest}'"
        )
    host = _check_authority(authority)[1]
    if _UNPRINTABLE.search(url):
        encoded = _UNPRINTABLE.sub(lambda found: quote(os.fsencode(found[0])), url)
        raise Refused(f"spaces, control characters and letters beyond ASCII must be percent-encoded; write '{encoded}'")
    return _Target(url, scheme.lower(), host, authority, path, query or "")


def _check_authority(text: str) -> re.Match[str]:
    """Its host and its port; raises ``Refused`` for what has none."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match[2] or 0) > 65_535:
        raise Refused(f"'{text}' is not a host, or a host and a port; write a name beyond ASCII as xn--…")
    return match


def _is_sent_as_it_is(host: str) -> bool:
    """Whether curl writes this host into Host without a change: it knows several forms of an address."""
    if _NAME.fullmatch(host):
        return True
    try:
        return str(IPv4Address(host)) == host
    except ValueError:
        return False


def _content(data: str | None) -> _Content | None:
    if data is None:
        return None
    if not data.startswith("@"):
        return _Content(os.fsencode(data), ("--data-raw", data))
    if data == "@-":
        raise Refused("what curl reads from its standard input cannot be signed before; write it to a file, -d @FILE")
    path = Path(data[1:]).absolute()  # so that the command can be pasted in any folder
    try:
        if not path.is_file():  # a pipe can be read once, and curl has to
            raise Refused(f"'{path}' is not a file")
        return _Content(path.read_bytes(), ("--data-binary", f"@{path}"))
    except (OSError, ValueError) as error:
        raise Refused(f"'{path}' cannot be read: {error}") from None


def _fields(headers: Iterable[str]) -> _Fields:
    fields: _Fields = {}
    for each in headers:
        name, separator, rest = each.partition(":")
        value, key = rest.strip(" \t"), name.lower()
        if not separator or not _TOKEN.fullmatch(name):
            raise Refused(f"'{each}' is not a header; write 'Name: value'")
        if key in _OURS:
            raise Refused(f"leave the header {name} out: {_OURS[key]}")
        if key in fields:
            raise Refused(f"the header {name} is given twice; write it once, its values as 'a, b'")
        if not value:
            raise Refused(f"the header {name} has no value, and curl would leave it out")
        if not _VALUE.fullmatch(value):
            raise Refused(f"the header {name} has control characters, or letters beyond ASCII; encode them")
        if key == "host":
            _check_authority(value)
        fields[key] = (name, value)
    return fields


def _by_content(target: _Target, content: _Content | None) -> dict[str, str]:
    from shared.signing import v0

    if os.environ.get(KEY_FILE):
        raise Refused(f"--v0 signs with a shared secret alone; leave --v0 out, or unset {KEY_FILE}")
    return v0.sign(_secret(target), time.time_ns() // 1_000_000, b"" if content is None else content.sent)


def _by_fields(method: str, target: _Target, content: _Content | None, fields: _Fields) -> dict[str, str]:
    from shared.signing import v1
    from shared.signing.digests import content_digest
    from shared.signing.message import Message

    added = {} if content is None else {"Content-Digest": content_digest(content.sent)}
    values = {"host": target.authority, **{key: value for key, (_, value) in fields.items()}}
    values |= {name.lower(): value for name, value in added.items()}
    pairs = [(name.encode(), value.encode()) for name, value in values.items()]
    message = Message(method, target.path.encode(), target.query.encode(), pairs, scheme=target.scheme)
    return added | v1.sign(message, _key(target), nonce=secrets.token_urlsafe(18), created=int(time.time()))


def _key(target: _Target) -> "Signer":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from shared.signing.keys import PrivateKey, SharedSecret

    key_id, file = _needed(KEY_ID, target), os.environ.get(KEY_FILE)
    if not file:
        return SharedSecret(key_id, _secret(target))
    try:
        key = load_pem_private_key(Path(file).read_bytes(), None)
    except OSError as error:
        raise Refused(f"{KEY_FILE} names '{file}', which cannot be read: {error.strerror}") from None
    except (TypeError, ValueError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(
            f"{KEY_FILE} names '{file}', which is not an Ed25519 private key in PEM without a password; "
            f"openssl genpkey -algorithm ed25519 -out ed25519.pem makes one"
        )
    return PrivateKey(key_id, key)


def _secret(target: _Target) -> bytes:
    secret = _needed(SECRET, target)
    if "-----BEGIN" in secret:
        raise Refused(
            f"{SECRET} holds a key in PEM, which is not a shared secret; write it to a file, {KEY_FILE}=<file>"
        )
    return secret.encode()


def _needed(name: str, target: _Target) -> str:
    value = os.environ.get(name)
    if not value:
        content, path, what, field = _MADE_BY[name]
        raise Refused(
            f"{name} is not set. curl --json '{{{content}}}' -H 'Authorization: Bearer <your key>' "
            f"{target.scheme}://{target.authority}{path} makes {what}: export its {field} as {name}. "
            "docs/guides/signing.md, 'Make a key that signs', has all the commands"
        )
    if "-----BEGIN" not in value and not re.fullmatch(r"[!-~]+", value):
        raise Refused(f"{name} has spaces, control characters or letters beyond ASCII; export it as it was shown")
    return value
