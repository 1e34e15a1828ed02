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
from typing import Annotated, NamedTuple, NoReturn
from urllib.parse import quote

import typer

from cli import signing_key
from cli.administration import Refused
from cli.signing_key import API_KEY, Keys

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


def _end(reason: object) -> NoReturn:
    print(f"guardian: {reason}", file=sys.stderr)
    raise typer.Exit(1) from None


def _comes_first(method: str) -> str:
    """What is no method because it is the URL is told before a second argument is asked for."""
    if re.search(r"[/:]", method):
        _end(f"the method comes first, and then the URL: guardian sign POST {_example()}")
    return method


def _is_an_argument(method: str | None) -> None:
    """What -X is in curl."""
    if method is not None:
        word = method.upper() if _TOKEN.fullmatch(method) else "POST"
        _end(f"the method is the first argument, without -X: guardian sign {word} {_example()}")


def sign(
    method: Annotated[str, typer.Argument(help="The method, such as POST.", callback=_comes_first)],
    url: Annotated[str, typer.Argument(help="The whole URL, with its query, percent-encoded.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="The content, or @FILE for a file's bytes. JSON unless -H says so."),
    ] = None,
    *,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="Another header, 'Name: value'.")] = None,
    v0: Annotated[bool, typer.Option("--v0", help="By the older scheme.")] = False,
    _request: Annotated[
        str | None, typer.Option("--request", "-X", hidden=True, is_eager=True, callback=_is_an_argument)
    ] = None,
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
        _end(error)
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
    keys = signing_key.from_environment(f"{target.scheme}://{target.authority}", older=older)
    fields = {"authorization": ("Authorization", f"Bearer {keys.api_key}"), **fields}
    made = _by_content(content, keys) if older else _by_fields(method, target, content, fields, keys)
    return [
        "curl", "-q",  # first, or a ~/.curlrc adds fields of its own
        "-sS", "--globoff", "--path-as-is",
        *(["--head"] if method == "HEAD" else ["-X", method]),  # with -X HEAD curl waits for content
        target.url,
        *(word for name, value in (*fields.values(), *made.items()) for word in ("-H", f"{name}: {value}")),
        *(content.words if content is not None else ()),
    ]  # fmt: skip


def _example() -> str:
    """A URL of the platform that is meant, as far as this terminal knows it."""
    port = os.environ.get("GUARDIAN_PORT", "")
    return f"http://127.0.0.1:{port if re.fullmatch(r'[0-9]+', port) else '8080'}/v1/…"


def _target(url: str) -> _Target:
    match = _URL.fullmatch(url)
    if match is None or not match[2]:
        raise Refused(f"'{url}' is not a whole URL; write {_example()}")
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
    if data == "@":
        raise Refused("'@' has no file's name behind it; write -d @FILE")
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


def _by_content(content: _Content | None, keys: Keys) -> dict[str, str]:
    from shared.signing import v0

    return v0.sign(keys.secret.encode(), time.time_ns() // 1_000_000, b"" if content is None else content.sent)


def _by_fields(method: str, target: _Target, content: _Content | None, fields: _Fields, keys: Keys) -> dict[str, str]:
    from shared.signing import v1
    from shared.signing.digests import content_digest
    from shared.signing.message import Message

    added = {} if content is None else {"Content-Digest": content_digest(content.sent)}
    values = {"host": target.authority, **{key: value for key, (_, value) in fields.items()}}
    values |= {name.lower(): value for name, value in added.items()}
    pairs = [(name.encode(), value.encode()) for name, value in values.items()]
    message = Message(method, target.path.encode(), target.query.encode(), pairs, scheme=target.scheme)
    return added | v1.sign(message, keys.signer(), nonce=secrets.token_urlsafe(18), created=int(time.time()))
