"""What a signature covers and what it must: the components of a request, their values and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

from services.identity.signatures.domain.content import content_lacking
from services.identity.signatures.domain.explanation import Component
from services.identity.signatures.domain.request import Sent, legible, shortened
from shared.signing.digests import content_digest

DERIVED = ("@method", "@authority", "@path", "@query")
_ORDER = (*DERIVED, "content-digest", "content-type", "idempotency-key")
_UNKNOWN_DIGEST = "sha-256=:<the base64 of the content's SHA-256>:"
LOWER_CASE = "names of components are in lower case"
_NOT_HERE = {
    "@target-uri": "A proxy that ends TLS changes it; cover @authority, @path and @query instead.",
    "@request-target": "Cover @path and @query instead.",
    "@query-param": "Cover @query instead.",
    "@scheme": "A proxy that ends TLS changes it; leave it out.",
    "@status": "That is of answers; leave it out.",
}

Lines = tuple[tuple[str, str], ...]
"""Lines of a signature base: an identifier with its quotes, and its value."""


def required(sent: Sent) -> list[str]:
    """The names of what must be covered, in the usual order."""
    present = {"content-type", "idempotency-key", "content-digest"} & sent.fields.keys()
    if sent.has_body:
        present.add("content-digest")
    return [name for name in _ORDER if name in DERIVED or name in present]


def missing(sent: Sent, identifiers: Sequence[str]) -> list[str]:
    """The names of what must be covered and is not."""
    return [name for name in required(sent) if f'"{name}"' not in identifiers]


def in_capitals(sent: Sent, identifiers: Sequence[str]) -> dict[str, str]:
    """What must be covered and is listed with capitals: the names with what is written instead."""
    lowered = {each.lower(): each[1:-1] for each in identifiers}
    return {name: lowered[f'"{name}"'] for name in missing(sent, identifiers) if f'"{name}"' in lowered}


def value_of(sent: Sent, identifier: str) -> str | None:
    """The value of a component, one character a byte; None: the request has no such thing.

    Of what cannot be covered here too, where it can be told: somebody may have signed it.
    """
    name = identifier[1:].partition('"')[0]
    uri = f"{sent.path}?{sent.query}" if sent.query else sent.path
    derived = {
        "@method": sent.method,
        "@authority": sent.authority,
        "@path": sent.path,
        "@query": f"?{sent.query}",
        "@target-uri": f"{sent.scheme}://{sent.authority}{uri}",
        "@request-target": uri,
        "@scheme": sent.scheme,
    }
    return derived.get(name.lower(), sent.fields.get(name.lower()))


def problem_of(sent: Sent, identifier: str) -> str | None:
    """Why a component cannot be covered."""
    name, _, parameters = identifier[1:].partition('"')
    if parameters:
        return "A component with parameters is not accepted here; cover it without."
    if name in _NOT_HERE:
        return f"{name} is not accepted here. {_NOT_HERE[name]}"
    if name != name.lower():
        return f"A component's name is in lower case; write {shortened(name.lower())}."
    if name.startswith("@") and name not in DERIVED:
        return f"There is no component {shortened(name)}; {', '.join(DERIVED)} and header fields can be covered."
    if value_of(sent, identifier) is None:
        return "The request does not have it; give it here as it was sent, or send it, or do not cover it."
    return None


def components(sent: Sent, identifiers: Sequence[str]) -> list[Component]:
    """What is covered in the order of the signature, then what is not and must be."""
    wanted = required(sent)
    found = []
    for identifier in identifiers:
        name = identifier[1:-1] if identifier.endswith('"') else identifier
        value = value_of(sent, identifier)
        shown = None if value is None else legible(value)
        found.append(Component(legible(name), shown, True, name in wanted, problem_of(sent, identifier)))
    capitals = in_capitals(sent, identifiers)
    for name in missing(sent, identifiers):
        value = value_of(sent, f'"{name}"')
        if name in capitals:
            problem = f"The list in Signature-Input has it as {capitals[name]}; {LOWER_CASE}: write {name} there."
        elif value is None:
            problem = "The request has content: send Content-Digest, and cover it."
        else:
            problem = f'It must be covered: add "{name}" to the list in Signature-Input, and its line to the base.'
        found.append(Component(name, None if value is None else legible(value), False, True, problem))
    return found


def as_listed(sent: Sent, identifiers: Sequence[str]) -> Lines:
    """The lines of the base by a signature's own list; of what the request does not have, empty ones."""
    return tuple((identifier, value_of(sent, identifier) or "") for identifier in identifiers)


def as_wanted(sent: Sent, identifiers: Sequence[str]) -> Lines:
    """The lines of the base as they should be: without what cannot be covered, with what must be."""
    lowered = dict.fromkeys(each.lower() for each in identifiers)
    kept = [each for each in lowered if problem_of(sent, each) is None]
    names = [*kept, *(f'"{name}"' for name in missing(sent, kept))]
    # Of a request that has none yet; where its content was not given here, nobody can tell which.
    digest = content_digest(sent.content) if content_lacking(sent) is None else _UNKNOWN_DIGEST
    return tuple((name, digest if (value := value_of(sent, name)) is None else value) for name in names)


def with_missing(sent: Sent, lines: Lines, name: str) -> Lines:
    """``lines`` and the one of ``name``, where it usually stands."""
    place = next((i for i, (each, _) in enumerate(lines) if _rank(each) > _rank(f'"{name}"')), len(lines))
    added = (f'"{name}"', value_of(sent, f'"{name}"') or "")
    return (*lines[:place], added, *lines[place:])


def in_usual_order(lines: Lines) -> Lines:
    """``lines`` as the guide orders them, others behind."""
    return tuple(sorted(lines, key=lambda line: _rank(line[0])))


def _rank(identifier: str) -> int:
    name = identifier[1:-1]
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)
