"""The one source of the current time, so that a test or a history load can inject its own.

Nothing else in the project calls ``datetime.now()``; a lint rule (ruff DTZ and the architecture
tests) keeps it so.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the current time as an aware UTC datetime."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)


class FixedClock:
    """A clock that stands still until it is moved; used by tests and by history loads."""

    def __init__(self, moment: datetime) -> None:
        if moment.tzinfo is None:
            raise ValueError("a clock needs an aware datetime")
        self.moment = moment.astimezone(UTC)

    def now(self) -> datetime:
        return self.moment

    def advance(self, **delta: float) -> None:
        """Move the clock by ``timedelta(**delta)``."""
        self.moment += timedelta(**delta)


_current: ContextVar[Clock | None] = ContextVar("guardian_clock", default=None)
_system = SystemClock()


def now() -> datetime:
    """The current time in UTC, from the injected clock where there is one."""
    return (_current.get() or _system).now()


@contextmanager
def use_clock(clock: Clock) -> Iterator[None]:
    """Make ``now()`` read ``clock`` in this task and the tasks it starts."""
    token = _current.set(clock)
    try:
        yield
    finally:
        _current.reset(token)
