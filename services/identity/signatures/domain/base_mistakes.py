"""Ways to get a signature base wrong: its values, its lines, its parameters, how they are put together."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

from services.identity.signatures.domain.base import HASHES, LAYOUTS, Draft, Layout, joined, parts_of
from services.identity.signatures.domain.content import FORM, retyped
from services.identity.signatures.domain.covered import in_usual_order, missing, value_of, with_missing
from services.identity.signatures.domain.parameters import NAMES
from services.identity.signatures.domain.request import DEFAULT_PORTS, Sent, legible, shortened
from services.identity.signatures.domain.search import Mistake
from shared.signing.digests import content_digest

Other = tuple[str, str, str, bool]
"""Another value: what it is, what is assumed, what to do, whether it is usual."""
_MOST_LINES = 20
_USUAL_TYPES = (
    "application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8",
    FORM, "text/plain;charset=UTF-8", "text/plain; charset=utf-8", "text/plain",
    "application/octet-stream",
)  # fmt: skip
_SAME = "sign the value of Signature-Input behind its label, character by character"


def of_base(sent: Sent, draft: Draft, label: str, written: str) -> Iterator[Mistake[Draft]]:
    """All that are known."""
    yield from _of_values(sent, draft)
    yield from _of_lines(sent, draft)
    for text, assumed, instead, usual in _other_params(draft.params, label, written):
        if text != draft.params:
            yield Mistake("params", assumed, instead, _params(text), usual=usual)
    for assumed, instead, layout, usual in LAYOUTS:
        yield Mistake("layout", assumed, instead, _laid_out(layout), usual=usual)
    for assumed, hashed in HASHES:
        yield Mistake("hashed", assumed, "sign the base as it is", _hashed(hashed))


def _params(text: str) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, params=text)


def _laid_out(layout: Layout) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, layout=layout)


def _hashed(hashed: Callable[[bytes], bytes]) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, hashed=hashed)


def _of_values(sent: Sent, draft: Draft) -> Iterator[Mistake[Draft]]:
    for identifier, value in draft.lines[:_MOST_LINES]:
        seen = {value}
        for other, assumed, instead, usual in _others(sent, identifier[1:-1], value):
            if other not in seen:
                seen.add(other)
                yield Mistake(identifier, assumed, instead, _valued(identifier, other), other, usual)


def _valued(identifier: str, value: str) -> Callable[[Draft], Draft]:
    return lambda draft: draft.with_line(identifier, value)


def _others(sent: Sent, name: str, value: str) -> Iterator[Other]:
    match name:
        case "@method":
            yield value.lower(), "@method is in lower case", "sign it in upper case, as it is sent", True
            yield value.capitalize(), "@method is not all in upper case", "sign it in upper case, as it is sent", False
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                yield method, f"@method says {method}", f"sign {value}, the method that is sent", False
        case "@authority":
            yield from _authorities(sent)
        case "@path":
            yield from _paths(sent)
        case "@query":
            yield from _queries(sent.query)
        case "content-digest":
            yield from _digests(sent)
        case _ if not value and not name.startswith("@"):
            yield from _not_given(name)
        case "content-type":
            bare = value.partition(";")[0].strip()
            yield bare, "content-type lacks its charset", "sign the field as it is sent", True
            yield f"{bare}; charset=utf-8", "content-type has a charset", "sign the field as it is sent", True
            yield f"{bare};charset=UTF-8", "content-type has a charset", "sign the field as it is sent", False
            yield from _other_types(value)
    if value and not name.startswith("@"):
        yield value.lower(), f"{name} is in lower case", "sign the field as it is sent", False
        yield f'"{value}"', f"{name} stands in quotes", "sign the field as it is sent", False
        yield value.strip('"'), f"{name} lacks its quotes", "sign the field as it is sent", False


def _not_given(name: str) -> Iterator[Other]:
    """Of a field without a value here: what clients send of their own accord."""
    for value in _USUAL_TYPES if name == "content-type" else ():
        yield value, f"content-type is {value}", "give the field here as it was sent", True


def _other_types(value: str) -> Iterator[Other]:
    """What a client was told to send, or thinks that it sends."""
    sent = shortened(legible(value))
    for other in _USUAL_TYPES:
        instead = f"sign {sent}, which is sent"
        if other.startswith("application/json"):
            instead = f"send what you sign (for curl: -H 'Content-Type: {other}')"
        yield other, f"content-type is {other} where {sent} is sent", instead, False


def _authorities(sent: Sent) -> Iterator[Other]:
    bare = re.sub(r":[0-9]+$", "", sent.authority)
    default = "leave out the port that the scheme has anyway"
    port = DEFAULT_PORTS[sent.scheme]
    yield sent.authority + port, "@authority has the default port", default, True
    yield bare, "@authority lacks the port", "sign host:port, as in the Host field", True
    yield sent.host, "@authority is the Host field as it is sent", f"sign it in lower case, without {port}", True
    if sent.host_of_url:
        instead = "sign the host that is sent in the Host field"
        yield sent.host_of_url.lower().removesuffix(port), "@authority is the URL's host", instead, True
    if forwarded := sent.fields.get("x-forwarded-host"):
        yield forwarded, "@authority is the host of X-Forwarded-Host", "sign the host that you call", False
    yield f"{sent.scheme}://{sent.authority}", "@authority has the scheme", "sign the host alone", False
    other = DEFAULT_PORTS["http" if sent.scheme == "https" else "https"]
    yield bare + other, f"@authority has the port {other[1:]}", "sign the host and port that you call", False
    for one, another in (("127.0.0.1", "localhost"), ("localhost", "127.0.0.1")):
        if bare == one:
            named = sent.authority.replace(one, another, 1)
            yield named, f"@authority says {another}", f"sign {one}, the host that you call", False


def _paths(sent: Sent) -> Iterator[Other]:
    path, raw = sent.path, "sign the raw path, as it stands in the request line"
    yield unquote_to_bytes(path).decode("latin-1"), "@path is percent-decoded", "sign the raw path", True
    yield f"{path}?{sent.query}", "@path has the query behind it", "sign the path alone", True
    yield path.rstrip("/") or "/", "@path lacks the slash at its end", raw, True
    yield path + "/", "@path has a slash at its end", raw, True
    yield quote(path, safe="/"), "@path is percent-encoded once more", raw, False
    yield quote(unquote_to_bytes(path), safe="/"), "@path is percent-encoded in another way", raw, False
    upper = re.sub(r"%[0-9A-Fa-f]{2}", lambda match: match[0].upper(), path)
    yield upper, "@path has its percent escapes in upper case", raw, False
    lower = re.sub(r"%[0-9A-Fa-f]{2}", lambda match: match[0].lower(), path)
    yield lower, "@path has its percent escapes in lower case", raw, False
    yield path.lower(), "@path is in lower case", raw, False
    yield path.lstrip("/"), "@path lacks the slash at its beginning", raw, False
    first, slash, rest = path.lstrip("/").partition("/")
    yield slash + rest, f"@path lacks /{first} at its beginning", "sign the whole path", False
    uri = value_of(sent, '"@target-uri"') or ""
    yield uri, "@path is the whole URL", "sign the path alone", False


def _queries(query: str) -> Iterator[Other]:
    instead = "sign '?' and the raw query ('?' alone without one)"
    yield query, "@query lacks its '?'", instead, True
    yield "?", "@query is empty", "sign '?' and the query that is sent", True
    decoded = unquote_to_bytes(query).decode("latin-1")
    yield f"?{decoded}", "@query is percent-decoded", instead, True
    yield f"?{decoded.replace('+', ' ')}", "@query is decoded", instead, False
    yield decoded, "@query is percent-decoded and lacks its '?'", instead, False
    yield f"?{query.replace('%20', '+')}", "@query has + for %20", "sign the raw query", False
    yield f"?{query.replace('+', '%20')}", "@query has %20 for +", "sign the raw query", False
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100, encoding="latin-1")
    except ValueError:
        return
    in_order = "&".join(sorted(query.split("&")))
    yield f"?{in_order}", "@query has its parameters sorted", "sign the raw query", False
    yield in_order, "@query has its parameters sorted and lacks its '?'", instead, False
    for quoted in (urlencode(pairs, encoding="latin-1"), urlencode(pairs, encoding="latin-1", quote_via=quote)):
        yield f"?{quoted}", "@query is encoded in another way", "sign the raw query", False


def _digests(sent: Sent) -> Iterator[Other]:
    instead = "sign the whole field as it is sent, sha-256=:…:"
    digest = hashlib.sha256(sent.content).digest()
    yield content_digest(sent.content), "content-digest is that of the content", "send that same digest", True
    yield digest.hex(), "content-digest is the hexadecimal digest", instead, True
    yield b64encode(digest).decode(), "content-digest is the base64 alone", instead, True
    yield f"sha-256={b64encode(digest).decode()}", "content-digest has no colons", instead, False
    yield f"sha-256=:{digest.hex()}:", "content-digest is the hexadecimal digest", instead, False
    yield f"SHA-256={b64encode(digest).decode()}", "content-digest is a Digest of RFC 3230", instead, False
    for assumed, _, content in retyped(sent.content):
        yield content_digest(content), f"content-digest is its digest when {assumed}", "send that same digest", False


def _of_lines(sent: Sent, draft: Draft) -> Iterator[Mistake[Draft]]:
    identifiers = [identifier for identifier, _ in draft.lines]
    for identifier in identifiers[:_MOST_LINES]:
        yield Mistake(
            identifier, f"the base lacks the line of {identifier}", "add it in the order of Signature-Input",
            _without(identifier),
        )  # fmt: skip
    yield from _of_names(identifiers[:_MOST_LINES])
    names = missing(sent, identifiers)
    several = [names] if len(names) > 1 else []
    for added in [*([name] for name in names), *several]:
        listed = " and ".join(f'"{name}"' for name in added)
        yield Mistake(
            "added", f"the base has a line of {listed} besides", "list it in Signature-Input, too", _with(sent, added),
            usual=True,
        )  # fmt: skip
    instead = "write them in the order of Signature-Input"
    if in_usual_order(draft.lines) != draft.lines:
        yield Mistake("order", "the base's lines are in the usual order", instead, _usual_order, usual=True)
    yield Mistake("order", "the base's lines are sorted", instead, _sorted)


def _of_names(identifiers: list[str]) -> Iterator[Mistake[Draft]]:
    for identifier in identifiers:
        name = identifier.title()
        if name != identifier:
            yield Mistake(
                identifier, f"the base has the component name {name}, in capitals", f"write {identifier}",
                _named(identifier, name),
            )  # fmt: skip


def _named(identifier: str, name: str) -> Callable[[Draft], Draft]:
    return lambda draft: draft.with_name(identifier, name)


def _usual_order(draft: Draft) -> Draft:
    return replace(draft, lines=in_usual_order(draft.lines))


def _sorted(draft: Draft) -> Draft:
    return replace(draft, lines=tuple(sorted(draft.lines)))


def _without(identifier: str) -> Callable[[Draft], Draft]:
    return lambda draft: draft.without_line(identifier)


def _with(sent: Sent, names: list[str]) -> Callable[[Draft], Draft]:
    def change(draft: Draft) -> Draft:
        lines = draft.lines
        for name in names:
            lines = with_missing(sent, lines, name)
        return replace(draft, lines=lines)

    return change


def _other_params(text: str, label: str, written: str) -> Iterator[Other]:
    listed, parameters = parts_of(text)
    mend = "write the field as it must be, and sign that"
    yield f"{label}={text}", "@signature-params has the label", _SAME, True
    yield written, "@signature-params is Signature-Input as it was sent", mend, True
    yield listed, "@signature-params lacks the parameters", _SAME, True
    yield joined("", parameters), "@signature-params lacks the list of components", _SAME, False
    yield joined("", parameters).lstrip(";"), "@signature-params lacks the list of components", _SAME, False
    yield f'"{text}"', "@signature-params stands in quotes", _SAME, False
    for name, _ in parameters[:_MOST_LINES]:
        rest = [each for each in parameters if each[0] != name]
        yield joined(listed, rest), f"@signature-params lacks {name}", _SAME, False
    for name, value in _other_times(parameters):
        others = [(each, value if each == name else old) for each, old in parameters]
        yield (
            joined(listed, others),
            f"@signature-params has {name}={value}",
            f"sign the same {name} that you send",
            False,
        )
    for other, assumed in _written_otherwise(listed, parameters):
        yield other, assumed, _SAME, False


def _written_otherwise(listed: str, parameters: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The same list and parameters, in another order or with other signs around them."""
    usual = sorted(parameters, key=lambda each: NAMES.index(each[0]) if each[0] in NAMES else len(NAMES))
    yield joined(listed, usual), "@signature-params has its parameters in the usual order"
    yield joined(listed, sorted(parameters)), "@signature-params has its parameters sorted"
    bare = [(name, value.strip('"')) for name, value in parameters]
    yield joined(listed, bare), "@signature-params has its text without quotes"
    yield joined(listed, [(name, f'"{value}"') for name, value in bare]), "@signature-params has numbers in quotes"
    yield joined(listed, parameters, "; "), "@signature-params has spaces behind its semicolons"
    yield listed.replace('"', "") + joined("", parameters), "the list has no quotes in @signature-params"
    yield listed.replace('" "', '", "') + joined("", parameters), "the list has commas in @signature-params"


def _other_times(parameters: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in parameters:
        if name in {"created", "expires"} and value.isdigit():
            yield name, f"{value}000"
            yield name, str(int(value) // 1000)
