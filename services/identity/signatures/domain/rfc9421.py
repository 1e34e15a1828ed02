"""A signature of RFC 9421 (v1), explained."""

from __future__ import annotations

from collections.abc import Sequence

from services.identity.signatures.domain.base import Draft, joined, parts_of, standard
from services.identity.signatures.domain.base_mistakes import of_base
from services.identity.signatures.domain.content import content_lacking, explain_digest, of_type
from services.identity.signatures.domain.covered import as_listed, as_wanted, components
from services.identity.signatures.domain.explanation import Component, Digest, Explanation, Keys, Parameter
from services.identity.signatures.domain.fault import fault_of, lacking, not_given
from services.identity.signatures.domain.key_mistakes import of_keys, unexplained
from services.identity.signatures.domain.parameters import BEFORE_CREATED, none_at_all, parameters, suggested
from services.identity.signatures.domain.reading import Reading, read
from services.identity.signatures.domain.request import Sent, legible, shortened
from services.identity.signatures.domain.search import Mistake, check_of, explaining, holds, sentence
from shared.signing import v1
from shared.signing.failures import Refused
from shared.signing.fields import Signed

_HOLDS = "The signature holds: the gateway lets the request pass once, with a nonce that was not used before."
_RIGHT = "The signature itself is right for what it covers: your secret and your base are good."
_NOT_TRIED = "Whether the signature is right is not told: it names a live key."


def explain(sent: Sent, keys: Keys, at: float) -> Explanation:
    """What the gateway would say at ``at`` (unix seconds) of a request that must be signed, and why."""
    refused = _verdict(sent, keys, at)
    reading, hints = read(sent)
    signed = None if reading is None else reading.signed
    identifiers = signed.components if signed else ()
    digest = explain_digest(sent)
    covered = components(sent, identifiers)
    given = parameters(signed, keys, at) if signed else none_at_all()
    if refused is not None:
        told = hints + (_of_signature(sent, reading, keys, covered) if reading is not None else [])
        hints = [fault_of(refused, covered, given, digest, told), *told, *_of_values(digest, given)]
    hints += _of_fields(sent, covered)
    base = legible(_wanted(sent, signed, keys, at))
    code, detail = (None, _HOLDS) if refused is None else (refused.code, refused.detail)
    if code == "signature_digest":
        detail = content_lacking(sent) or detail
    return Explanation(code is None, code, detail, "v1", base, covered, digest, given, list(dict.fromkeys(hints)))


def key_id_of(sent: Sent) -> str | None:
    """The ``keyid`` that the signature names, however it is written."""
    reading, _ = read(sent)
    found = reading.signed.parameters.get("keyid") if reading else None
    return found if isinstance(found, str) else None


def _verdict(sent: Sent, keys: Keys, at: float) -> Refused | None:
    try:
        verified = v1.verify(sent.message(), keys.good_one, at)
        if verified.digest is not None:
            verified.digest.update(sent.content)
            verified.digest.check()
    except Refused as refused:
        return refused
    return None


def _wanted(sent: Sent, signed: Signed | None, keys: Keys, at: float) -> str:
    """The base that must be signed: by the signature's own list, where nothing is wrong with it."""
    lines = as_wanted(sent, signed.components if signed else ())
    listed = f"({' '.join(name for name, _ in lines)})"
    if signed is None:
        return standard(lines, listed + suggested({}, keys, at))
    _, given = parts_of(signed.text)
    if signed.components == tuple(name for name, _ in lines):
        return standard(lines, signed.text + suggested(signed.parameters, keys, at))
    return standard(lines, joined(listed, given) + suggested(signed.parameters, keys, at))


def _of_values(digest: Digest, given: Sequence[Parameter]) -> list[str]:
    telling = ("in milliseconds", BEFORE_CREATED)
    wrong = [each for each in given if each.problem and any(says in each.problem for says in telling)]
    times = [f"{each.name}: {each.problem}" for each in wrong if each.name in {"created", "expires"}]
    digests = [] if digest.problem is None or digest.found is None else [digest.problem]
    return times + digests


def _of_fields(sent: Sent, covered: Sequence[Component]) -> list[str]:
    """What may have been sent and was not given here."""
    lacks = lacking(covered)
    of_types = [] if "content-type" in lacks else of_type(sent)
    return [*(not_given(each) for each in lacks), *of_types]


def _of_signature(sent: Sent, reading: Reading, keys: Keys, covered: Sequence[Component]) -> list[str]:
    """What the signature's bytes tell: what was signed, if it was signed with what we know. Marks the components."""
    named = keys.named(reading.signed.parameters.get("keyid"))
    primary = named or next(iter(keys.good), None)
    if primary is None or reading.signature is None:
        return []
    lines = as_listed(sent, reading.signed.components)
    check = check_of(named) if named else _never
    draft = Draft(lines, reading.signed.text, reading.signature, check)
    if holds(draft):
        return [_RIGHT]
    mistakes: list[Mistake[Draft]] = [*of_keys(sent, named, keys)]
    mistakes += of_base(sent, draft, reading.label, reading.written)
    made = explaining(draft, mistakes, primary)
    for mistake in made:
        _mark(covered, mistake)
    if made:
        return [sentence(made)]
    lacks = ", ".join(shortened(each) for each in lacking(covered))
    if lacks:
        return [f"Whether the signature is right cannot be told without the value of {lacks}."]
    live = named is None and keys.elsewhere is not None and keys.elsewhere.live
    return [_NOT_TRIED if live else unexplained(primary)]


def _mark(covered: Sequence[Component], mistake: Mistake[Draft]) -> None:
    for component in covered:
        if mistake.place == f'"{component.name}"' and component.problem is None:
            says = f"{mistake.assumed}; {mistake.instead}."
            signed = None if mistake.shows is None else shortened(legible(mistake.shows))
            component.problem = (
                f"{says[0].upper()}{says[1:]}" if signed is None else f"What was signed is {signed!r}: {says}"
            )


def _never(_text: bytes, _signature: bytes) -> bool:
    return False
