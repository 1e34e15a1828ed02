"""Why a signature is not accepted. The code says which check failed, never which byte of what was expected."""

from collections.abc import Sequence
from math import ceil
from typing import Literal

Code = Literal[
    "signature_missing",
    "signature_malformed",
    "signature_key",
    "signature_algorithm",
    "signature_incomplete",
    "signature_time",
    "signature_digest",
    "signature_mismatch",
    "signature_replayed",
]


class Refused(Exception):
    """A signature that is not accepted. ``detail`` is for people and says what to do next."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def from_now(seconds_ago: float) -> str:
    """A moment beside now, in whole seconds: "4001 seconds ago", "in 4001 seconds" of one to come."""
    whole = ceil(abs(seconds_ago))
    return f"{whole} seconds ago" if seconds_ago > 0 else f"in {whole} seconds"


def listed(words: Sequence[str]) -> str:
    """Words as they stand in a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def malformed(detail: str) -> Refused:
    """The fields cannot be read at all: 400, where all others are 401."""
    return Refused("signature_malformed", detail)
