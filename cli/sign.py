"""``guardian sign``: a signed request as a ``curl`` command that can be pasted."""

import os
import secrets
import shlex
import sys
import time
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cli.administration import Refused

API_KEY, KEY_ID, SECRET = "GUARDIAN_API_KEY", "GUARDIAN_SIGNING_KEY_ID", "GUARDIAN_SIGNING_SECRET"


def sign(
    method: Annotated[str, typer.Argument(help="The method, such as POST.")],
    url: Annotated[str, typer.Argument(help="The whole URL, with its query.")],
    data: Annotated[str | None, typer.Option("--data", "-d", help="The content; JSON.")] = None,
    *,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="Another header, 'Name: value'.")] = None,
    v0: Annotated[bool, typer.Option("--v0", help="By the older scheme.")] = False,
) -> None:
    """Print a curl command for a signed request. It can be used once, within five minutes.

    The API key and its signing key are read from GUARDIAN_API_KEY, GUARDIAN_SIGNING_KEY_ID (not for --v0) and
    GUARDIAN_SIGNING_SECRET.
    """
    try:
        print(_command(method.upper(), url, data, header or [], older=v0))
    except Refused as error:
        print(f"guardian: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _command(method: str, url: str, data: str | None, more: list[str], *, older: bool) -> str:
    fields = {"Authorization": f"Bearer {_needed(API_KEY)}"}
    content = (data or "").encode()
    if content:
        fields["Content-Type"] = "application/json"
    for each in more:
        name, separator, value = each.partition(":")
        if not separator:
            raise Refused(f"'{each}' is not a header; write 'Name: value'")
        fields[name.strip()] = value.strip()
    fields |= _by_content(content) if older else _by_fields(method, url, content, fields)
    words = [
        "curl",
        "-X",
        method,
        url,
        *[word for name, value in fields.items() for word in ("-H", f"{name}: {value}")],
    ]
    if data:
        words += ["--data-binary", data]
    return " ".join(shlex.quote(word) for word in words)


def _by_content(content: bytes) -> dict[str, str]:
    from shared.signing import v0

    return v0.sign(_needed(SECRET).encode(), time.time_ns() // 1_000_000, content)


def _by_fields(method: str, url: str, content: bytes, fields: dict[str, str]) -> dict[str, str]:
    from shared.signing import v1
    from shared.signing.digests import content_digest
    from shared.signing.keys import SharedSecret
    from shared.signing.message import Message

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Refused(f"'{url}' is not a whole URL; write http://127.0.0.1:8080/v1/…")
    added = {"Content-Digest": content_digest(content)} if content else {}
    signed = {"host": parts.netloc, **fields, **added}
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in signed.items()]
    message = Message(method, parts.path.encode(), parts.query.encode(), pairs, scheme=parts.scheme)
    key = SharedSecret(_needed(KEY_ID), _needed(SECRET).encode())
    return added | v1.sign(message, key, nonce=secrets.token_urlsafe(18), created=int(time.time()))


def _needed(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise Refused(f"{name} is not set; POST /v1/api-keys/<id>/signing-keys makes a signing key")
    return value
