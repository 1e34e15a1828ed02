"""Rules of usage: which spans may be asked for, and how minutes make longer intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from shared.errors import FieldError, ValidationFailed

Interval = Literal["minute", "hour", "day"]
Grouping = Literal["key", "user", "route", "class"]

KEPT = timedelta(days=35)
LONGEST_BY_MINUTE = timedelta(days=1)
STEPS: dict[Interval, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_FIRST_STEPS = 4


@dataclass(frozen=True, slots=True)
class Span:
    """Whole minutes from ``start`` until before ``end``."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start


def floor(moment: datetime, step: timedelta) -> datetime:
    """The beginning of the interval of ``step`` (in UTC) that a moment is in."""
    return moment - (moment - _EPOCH) % step


def span(start: datetime | None, end: datetime | None, now: datetime, default: timedelta, prefix: str = "") -> Span:
    """The minutes that touch ``start`` to ``end``: until ``now``, and ``default`` long, where they are not given.

    Raises ``ValidationFailed`` for one that ends before it begins or is longer than usage is kept; its fields are
    ``<prefix>from`` and ``<prefix>to``.
    """
    minute = STEPS["minute"]
    until = end or now
    until = floor(until, minute) + (minute if until != floor(until, minute) else timedelta())
    begin = floor(start, minute) if start is not None else until - default
    if begin >= until:
        raise _wrong(f"{prefix}from", "empty_span", "must be earlier than 'to', which is now where it is not given")
    if until - begin > KEPT:
        raise _wrong(f"{prefix}from", "span_too_long", f"must be at most {KEPT.days} days before 'to'")
    return Span(begin, until)


def check_interval(asked: Span, interval: Interval) -> None:
    """Raise ``ValidationFailed`` for more minutes than anybody can look at."""
    if interval == "minute" and asked.length > LONGEST_BY_MINUTE:
        raise _wrong("interval", "span_too_long", "must be hour or day where 'from' is more than a day before 'to'")


def _wrong(field: str, code: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        "See 'errors' for each offending field.", errors=[FieldError(field=field, code=code, message=message)]
    )


def pieces(start: datetime, end: datetime, interval: Interval) -> Iterator[Span]:
    """The span in pieces that grow, so that a page of a long span need not add up all of it."""
    step, count = STEPS[interval], _FIRST_STEPS
    while start < end:
        until = min(floor(start, step) + count * step, end)
        yield Span(start, until)
        start, count = until, count * 2
