"""Rules of the simulation: how its series is cut, and what is said of its figures."""

from datetime import timedelta

from services.ratelimit.usage.domain import Span
from shared.limits.policies import Policy

MOST_BUCKETS = 200
_WIDTHS = [timedelta(minutes=each) for each in (1, 5, 10, 15, 30, 60, 180, 360, 720, 1440)]

_ORDER = (
    "Usage is kept by minute. In which order the calls of a minute came is not known: the refused ones are taken to "
    "cost as much as the others of their minute."
)
_START = "Counting starts at the beginning of the span, as if the policy had been made then."
_SPREAD = (
    "The windows are shorter than a minute: the calls of a minute are taken to be spread evenly over it, so a real "
    "burst would be refused more."
)


def width_of(asked: Span) -> timedelta:
    """How long a bucket of the series is, so that there are at most ``MOST_BUCKETS``."""
    return next(each for each in _WIDTHS if asked.length / each < MOST_BUCKETS)


def notes(policy: Policy) -> list[str]:
    """What the figures rest on."""
    return [_START, _ORDER, *([_SPREAD] if is_estimate(policy) else [])]


def is_estimate(policy: Policy) -> bool:
    """Whether the windows are shorter than what usage is kept by."""
    return policy.seconds < 60
