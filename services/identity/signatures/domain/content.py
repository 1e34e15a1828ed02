"""The content of a request: what it hashes to, and how else it may have been written when it was signed."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from services.identity.signatures.domain.explanation import Digest
from services.identity.signatures.domain.request import Sent, legible, shortened
from shared.signing.digests import ContentDigest, content_digest
from shared.signing.failures import Refused

_ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_LONGEST_JSON = 1 << 16
"""Bytes of JSON that are written again in all these ways: for more it takes long."""
_BOM = b"\xef\xbb\xbf"
FORM = "application/x-www-form-urlencoded"
AS_JSON = "Content-Type: application/json"
_NOT_GIVEN = "No content was given to this route, and {} says that the request has some"
_GIVE_IT = "give it as content (content_base64 for bytes that are no text)"
_NO_TYPE = (
    "Content-Type is missing among the headers given here, and there is content. If the request was sent without one, "
    f"the API answers 415 to it, however it is signed: send {AS_JSON} (for curl: -H '{AS_JSON}'). If it was sent with "
    "one (many clients add it by themselves), give it here, too."
)


def retyped(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """``(what is assumed of the content that was signed, what to do, that content)``: likely ones first."""
    if content.endswith(b"\n"):
        yield "the content lacks the line end at its end", "sign it as it is sent", content.rstrip(b"\r\n")
    as_sent = "sign it as it is sent (printf %s, where echo adds one)"
    yield "the content has a line end at its end", as_sent, content + b"\n"
    yield "the content has a line end (CR LF) at its end", as_sent, content + b"\r\n"
    if b"\r\n" in content:
        yield "the content's line ends are LF", "sign it as it is sent, with CR LF", content.replace(b"\r\n", b"\n")
    elif b"\n" in content:
        yield "the content's line ends are CR LF", "sign it as it is sent, with LF", content.replace(b"\n", b"\r\n")
    if content:
        yield "the content is empty", "sign the content that is sent", b""
    yield from _written_again(content)
    if content.startswith(_BOM):
        yield "the content lacks its byte order mark", "sign it as it is sent", content[len(_BOM) :]
    yield "the content begins with a byte order mark", "sign it as it is sent", _BOM + content
    yield "the content is base64-encoded", "sign its bytes as they are sent", b64encode(content)
    yield "the content is a JSON string", "sign its bytes as they are sent", _dumped(legible(content))


def _written_again(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """JSON that was parsed and written again, in the ways of the usual libraries."""
    if len(content) > _LONGEST_JSON:
        return
    try:
        parsed = orjson.loads(content)
    except ValueError:
        return
    ways: list[Callable[[Any], bytes]] = [
        lambda value: _dumped(value, separators=(",", ":")),
        _dumped,
        lambda value: _dumped(value, separators=(",", ":"), ensure_ascii=False),
        lambda value: _dumped(value, ensure_ascii=False),
        lambda value: _dumped(value, separators=(",", ":"), sort_keys=True),
        lambda value: _dumped(value, sort_keys=True),
        lambda value: _dumped(value, indent=2),
        lambda value: _dumped(value, indent=4),
    ]
    seen = {content}
    for way in ways:
        try:
            written = way(parsed)
        except (RecursionError, UnicodeEncodeError):
            continue
        if written not in seen:
            seen.add(written)
            yield "the content's JSON is written in another way", "sign the very bytes that are sent", written


def _dumped(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


def explain_digest(sent: Sent) -> Digest:
    """What ``Content-Digest`` says and what it should."""
    found = sent.fields.get("content-digest")
    if found is None and not sent.has_body and not sent.content:
        return Digest()
    if lacking := content_lacking(sent):
        return Digest(None, None if found is None else legible(found), None if found is None else False, lacking)
    expected = _expected(found or "", sent.content)
    if found is None:
        return Digest(expected, None, False, "The request has content and no Content-Digest; send it, and sign it.")
    problem = _problem(found, sent.content)
    return Digest(expected, legible(found), problem is None, problem)


def content_lacking(sent: Sent) -> str | None:
    """What to say when the fields tell of content, and none was given here."""
    if sent.content:
        return None
    field = sent.fields.get("content-digest")
    if field is not None and _is_of_something(field):
        told = "Content-Digest"
    elif sent.fields.get("content-length", "").strip("0").isdigit():
        told = "Content-Length"
    else:
        return None
    return f"{_NOT_GIVEN.format(told)}: {_GIVE_IT}."


def _is_of_something(field: str) -> bool:
    try:
        digest = ContentDigest.read(field)
        digest.check()
    except Refused as refused:
        return refused.code == "signature_digest"
    return False


def of_type(sent: Sent) -> list[str]:
    """Of content that the API does not take, whatever its signature."""
    found = sent.fields.get("content-type")
    if not sent.content:
        return []
    if found is None:
        return [_NO_TYPE]
    media_type = found.partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        return []
    by_itself = f" (curl's -d sends {FORM} by itself; -H '{AS_JSON}' replaces it)" if media_type == FORM else ""
    says = f"The API takes JSON alone, and answers 415 to content of {shortened(legible(media_type))}"
    return [f"{says}, however it is signed: send {AS_JSON}{by_itself}."]


def _expected(found: str, content: bytes) -> str:
    names = [name for name in _ALGORITHMS if f"{name}=" in found] or ["sha-256"]
    digests = {name: b64encode(_ALGORITHMS[name](content).digest()).decode() for name in names}
    return ", ".join(f"{name}=:{digest}:" for name, digest in digests.items())


def _problem(found: str, content: bytes) -> str | None:
    try:
        check = ContentDigest.read(found)
        check.update(content)
        check.check()
    except Refused as refused:
        return _known_problem(found, content) or refused.detail
    return None


def _known_problem(found: str, content: bytes) -> str | None:
    for name, hashed in _ALGORITHMS.items():
        if problem := _as_is(found, name, hashed(content).digest(), len(content)):
            return problem
    for assumed, instead, other in retyped(content):
        if found in {content_digest(other), f"sha-512=:{b64encode(hashlib.sha512(other).digest()).decode()}:"}:
            return f"Content-Digest is right if {assumed}; {instead}."
    return None


def _as_is(found: str, name: str, digest: bytes, size: int) -> str | None:
    """The right digest, written in another way."""
    right = b64encode(digest).decode()
    wanted = f"Content-Digest is to be {name}=:{right}:"
    hexadecimal = digest.hex()
    if hexadecimal in found.lower():
        return f"Content-Digest has the digest in hexadecimal, and base64 is asked for; {wanted}."
    if b64encode(hexadecimal.encode()).decode() in found:
        return f"Content-Digest has the base64 of the digest's hexadecimal text, not of its bytes; {wanted}."
    if right in found:
        return f"Content-Digest has the right digest of the content's {size} bytes, and is not written as it must be; {wanted}."
    unpadded = right.rstrip("=")
    if unpadded in found.replace("-", "+").replace("_", "/"):
        return f"Content-Digest has the digest in base64url or without its padding; {wanted}."
    return None


def cut(content: bytes) -> str:
    """Content for people to look at."""
    return shortened(legible(content[:1000]))
