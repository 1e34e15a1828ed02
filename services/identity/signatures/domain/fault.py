"""The one fault for which a signature of RFC 9421 is refused, in words: what ``code`` names, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from services.identity.signatures.domain.covered import LOWER_CASE
from services.identity.signatures.domain.explanation import Component, Digest, Parameter
from services.identity.signatures.domain.request import shortened
from shared.signing.failures import Refused, listed


def fault_of(
    refused: Refused, covered: Sequence[Component], given: Sequence[Parameter], digest: Digest, told: Sequence[str]
) -> str:
    """What the gateway has refused; its own words where there are no better ones.

    ``told`` is what was found out besides: how the fields are written, then what explains the signature.
    """
    problems = {each.name: f"{each.name}: {each.problem}" for each in given if each.problem}
    match refused.code:
        case "signature_key":
            found: Sequence[str | None] = [problems.get("keyid")]
        case "signature_algorithm":
            found = [problems.get("alg")]
        case "signature_time":
            times = [problems.get("created"), problems.get("expires")]
            found = sorted(times, key=lambda problem: "in milliseconds" not in (problem or ""))
        case "signature_missing":
            labels = (each for each in told if each.startswith(("Signature has the label", "Signature has no member")))
            found = [problems.get("tag") if "tag=" in refused.detail else next(labels, None)]
        case "signature_incomplete":
            found = list(_incomplete(covered, given, problems))
        case "signature_malformed":
            found = [_malformed(refused.detail, covered, digest, told)]
        case "signature_digest":
            found = [digest.problem]
        case _:
            found = told
    return next((each for each in found if each is not None), refused.detail)


def lacking(covered: Sequence[Component]) -> list[str]:
    """The names of header fields that are covered, and not among those that were given."""
    return [each.name for each in covered if each.covered and each.value is None and each.name[:1] not in {"@", '"'}]


def not_given(name: str) -> str:
    """What to say of a field that is covered and lacking."""
    return (
        f"The signature covers {shortened(name)}, and that is missing among the headers given here: give it as it was "
        "sent. If the request was sent without it, send it, or do not cover it."
    )


def _incomplete(
    covered: Sequence[Component], given: Sequence[Parameter], problems: dict[str, str]
) -> Iterator[str | None]:
    """In the order in which the gateway looks."""
    values = {each.name: each.value for each in given}
    yield from (problems.get(name) for name in ("keyid", "alg") if not isinstance(values.get(name), str))
    if missing := [each for each in covered if not each.covered]:
        yield _not_covered(missing, {each.name.lower(): each.name for each in covered if each.covered})
    yield from (problems.get(name) for name in ("created", "expires") if not isinstance(values.get(name), int))
    yield problems.get("nonce")
    yield from (not_given(each.name) for each in covered if each.covered and each.value is None)


def _not_covered(missing: Sequence[Component], written: Mapping[str, str]) -> str:
    """``written`` is what the list has, by its name in lower case."""
    capitals = [f"{each.name} for {written[each.name]}" for each in missing if each.name in written]
    rest = [each for each in missing if each.name not in written]
    says = []
    if capitals:
        says = [f"Signature-Input: {LOWER_CASE}, there as in the base; write {listed(capitals)}."]
    if rest:
        it, its = ("it", "its line") if len(rest) == 1 else ("them", "their lines")
        says.append(
            f"The signature must cover {listed([each.name for each in rest])}, too: add {it} to the list in "
            f"Signature-Input, and {its} to the base."
        )
    if any(each.value is None for each in rest):
        says.append("Send Content-Digest.")
    return " ".join(says)


def _malformed(detail: str, covered: Sequence[Component], digest: Digest, told: Sequence[str]) -> str | None:
    """The gateway's words begin with the field, or with the component in its quotes."""
    if detail.startswith('"'):
        wrong = (
            each for each in covered if each.problem and detail.startswith((f'"{each.name}" is', f"{each.name} is"))
        )
        return next((f"{each.name}: {each.problem}" for each in wrong), None)
    field = detail.partition(" ")[0]
    if field == "Content-Digest":
        return digest.problem
    return next((each for each in told if each.startswith(f"{field} ")), None)
