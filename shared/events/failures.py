"""How work on events fails: the database is away, something passing is in the way, or the event is at fault."""

import random
from collections import deque
from typing import Literal

import asyncpg

from shared.errors import ServiceUnavailable

_OUTAGE = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,  # the connection ended while asyncpg was in the middle of something
)
_PASSING = (
    TimeoutError,
    ServiceUnavailable,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)


class Retry(Exception):
    """Raised by a handler: try this event again shortly (something outside did not answer)."""


class CircuitOpen(Exception):
    """Most events fail: the consumer stops, rather than put everything among the dead letters."""


def is_outage(error: BaseException | None) -> bool:
    """The database cannot be reached: nothing is wrong with the event, and no attempt is counted."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_outage(each) for each in error.exceptions)
    if isinstance(error, ServiceUnavailable):
        # How the unit of work reports it; another service that is away is no outage of ours.
        return isinstance(error.__cause__, (OSError, asyncpg.InterfaceError, *_OUTAGE))
    if isinstance(error, asyncpg.InterfaceError):
        return "clos" in str(error)  # "connection is closed", "pool is closing": not a mistake in a call
    return isinstance(error, _OUTAGE)


def is_passing(error: BaseException) -> bool:
    """Trying again shortly may help."""
    return isinstance(error, (Retry, *_PASSING))


class Backoff:
    """Exponential delays with full jitter, in seconds."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._attempt = 0

    def next(self) -> float:
        """The delay before the next attempt: between half and all of the exponential step."""
        step = min(self._longest, self._first * 2.0 ** min(self._attempt, 20))
        self._attempt += 1
        return step * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)

    def reset(self) -> None:
        """The last attempt worked."""
        self._attempt = 0


class Circuit:
    """Opens when most of the latest outcomes are failures; a probe after each pause lets one event fail.

    That one goes to the dead letters, so that a single bad event at the front never stops a consumer for
    good, while an outage of what all events need costs one event a pause and not the topic.
    """

    def __init__(self, failures: int = 10, window: int = 50, pause: float = 5.0, longest_pause: float = 300.0) -> None:
        self.state: Literal["closed", "open", "probing"] = "closed"
        self._failures = failures
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._backoff = Backoff(pause, longest_pause)

    def succeeded(self, count: int = 1) -> None:
        """Events had their effect."""
        if self.state == "probing":
            self.state = "closed"
            self._backoff.reset()
            self._outcomes.clear()
        self._outcomes.extend([True] * min(count, self._outcomes.maxlen or 0))

    def failed(self) -> None:
        """An event is about to become a dead letter; raises ``CircuitOpen`` when it must not."""
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        limit = 2 if self.state == "probing" else self._failures
        if failures >= limit and failures * 2 > len(self._outcomes):
            self.state = "open"
            raise CircuitOpen(f"{failures} of the last {len(self._outcomes)} events failed")

    def probe(self) -> float:
        """The seconds to pause for; after them the next events are a probe."""
        self._outcomes.clear()
        self.state = "probing"
        return self._backoff.next()
