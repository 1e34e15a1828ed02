"""Why a signature is not accepted. The code says which check failed, never which byte of what was expected."""

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


def malformed(detail: str) -> Refused:
    """The fields cannot be read at all: 400, where all others are 401."""
    return Refused("signature_malformed", detail)
