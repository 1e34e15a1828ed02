"""Rules of overrides: whether a pattern can fit what a policy counts by."""

from collections.abc import Sequence

from shared.limits.policies import Part

MOST_OVERRIDES = 500
"""Overrides of a policy, expired ones among them."""

ADVICE = (
    'Allow more, or let the pattern leave yourself out; "force": true saves it all the same, and then it may take an '
    "operator to delete it (guardian limits delete)."
)
"""What to do about an override that would refuse the editor's own calls."""
REMOVAL_ADVICE = (
    "Allow more in the policy first; ?force=true deletes the override all the same, and then it may take an operator to "
    "delete the policy (guardian limits delete)."
)
"""What to do where only the override lets the editor call."""


def subject_shape(per: Sequence[Part]) -> str:
    """The pattern of all subjects that a policy can count by: ``key:*|route:*``, or ``organization``."""
    return "|".join(f"{part}:*" for part in per if part != "organization") or "organization"


def can_both_fit(one: str, other: str) -> bool:
    """Whether there is a text that fits both of two patterns in which ``*`` is anything."""
    # reached[j]: some text fits the part of ``one`` read so far and the first j characters of ``other``.
    reached = [True] + [False] * len(other)
    for place, char in enumerate(other):
        reached[place + 1] = reached[place] and char == "*"
    for char in one:
        before, reached = reached, [False] * len(reached)
        reached[0] = before[0] and char == "*"
        for place, theirs in enumerate(other):
            star = "*" in (char, theirs)
            reached[place + 1] = before[place + 1] or reached[place] if star else before[place] and char == theirs
    return reached[-1]
