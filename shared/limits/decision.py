"""What came out of asking whether a call is within its limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from shared.limits.policies import Policy

Source = Literal["lease", "database", "cached-denial", "fallback"]
"""How it was decided: from units already held, by asking, by an earlier refusal that still stands, or without the
database, as the policy's ``on_failure`` says."""


class Verdict(NamedTuple):
    """One policy's word on a call. ``remaining`` is the least that is known to be left, ``resets_in`` in seconds."""

    policy: Policy
    subject: str
    quota: int
    remaining: int
    resets_in: float
    allowed: bool
    source: Source


@dataclass(slots=True)
class Decision:
    """Whether the call may go on. A policy in shadow mode has a verdict, and no say.

    ``unavailable``: refused because it could not be decided, not because a quota is used up. ``retry_after`` is in
    whole seconds, 0 when allowed. ``release`` ends a call that counts among those at the same time. ``taken`` is what
    was spent, of which cells and when, as long as it may be given back (``Limits.give_back``).
    """

    allowed: bool
    verdicts: tuple[Verdict, ...] = ()
    retry_after: int = 0
    unavailable: bool = False
    taken: Sequence[tuple[Any, int]] = ()
    taken_at: float = 0.0
    _on_release: Callable[[], None] | None = field(default=None, repr=False)

    def release(self) -> None:
        """The call has ended. Calling it again changes nothing."""
        ended, self._on_release = self._on_release, None
        if ended is not None:
            ended()
