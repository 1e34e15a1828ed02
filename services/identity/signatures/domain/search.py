"""Which mistakes explain a signature: each is assumed in turn, of the usual ones up to three at a time, of all two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Generic, Protocol, Self, TypeVar

from shared.signing.keys import HMAC, SharedSecret, Verifier

Check = Callable[[bytes, bytes], bool]
"""Whether this text has this signature."""

_BUDGET = 24 << 20
"""Bytes that may be signed for one question: some 60 ms, three times that at the worst."""
_EACH_HMAC, _EACH_OTHER = 4096, 32_768
"""What an attempt costs besides, in the same unit: putting the text together, or verifying by a curve."""


class Attempt(Protocol):
    """What somebody may have signed, and with what."""

    @property
    def check(self) -> Check: ...

    @property
    def signature(self) -> bytes: ...

    def text(self) -> bytes:
        """What was signed, if it was this."""
        ...

    def signed_by(self, check: Check) -> Self:
        """The same, with another key."""
        ...


A = TypeVar("A", bound=Attempt)


@dataclass(frozen=True, slots=True)
class Mistake(Generic[A]):
    """A way to get it wrong: "Your signature matches if ``assumed``; ``instead``".

    Two mistakes in one ``place`` are not made together. ``shows`` is what was signed there, where that is short text.
    """

    place: str
    assumed: str
    instead: str
    change: Callable[[A], A]
    shows: str | None = None
    usual: bool = False


def holds(attempt: Attempt) -> bool:
    """Whether the signature is that of the attempt."""
    return attempt.check(attempt.text(), attempt.signature)


def explaining(start: A, mistakes: Sequence[Mistake[A]], key: Verifier) -> tuple[Mistake[A], ...]:
    """Few mistakes with which the signature holds, at most three; none when no such are found.

    ``key`` says how dear an attempt is.
    """
    each = _EACH_HMAC if key.algorithm == HMAC else _EACH_OTHER
    spent = 0
    for made in _together(mistakes):
        attempt = start
        for mistake in made:
            attempt = mistake.change(attempt)
        text = attempt.text()
        if attempt.check(text, attempt.signature):
            return made
        spent += len(text) + each
        if spent > _BUDGET:
            break
    return ()


def sentence(made: Sequence[Mistake[A]]) -> str:
    """What to do about mistakes that explain a signature."""
    assumed = " and ".join(mistake.assumed for mistake in made)
    return f"Your signature matches if {assumed}; {', and '.join(mistake.instead for mistake in made)}."


def check_of(key: Verifier) -> Check:
    """As the gateway checks it."""
    return lambda text, signature: key.verifies(signature, text)


def with_key(check: Check, assumed: str, instead: str, *, usual: bool = False) -> Mistake[A]:
    """The mistake of another key."""
    return Mistake("key", assumed, instead, lambda attempt: attempt.signed_by(check), usual=usual)


def secrets_of(keys: Sequence[Verifier]) -> list[SharedSecret]:
    """Those that are shared secrets."""
    return [key for key in keys if isinstance(key, SharedSecret)]


def _together(mistakes: Sequence[Mistake[A]]) -> Iterator[tuple[Mistake[A], ...]]:
    usual = [mistake for mistake in mistakes if mistake.usual]
    others = [mistake for mistake in mistakes if not mistake.usual]
    several = chain(
        combinations([*usual, *others], 1), combinations(usual, 2), combinations(usual, 3),
        product(usual, others), combinations(others, 2),
    )  # fmt: skip
    return (made for made in several if len({mistake.place for mistake in made}) == len(made))
