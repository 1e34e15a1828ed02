"""How work on events fails: the database is away, something passing is in the way, or the event is at fault."""

import random
import time
from collections import deque
from typing import Literal
from uuid import UUID

import asyncpg

from shared.errors import ServiceUnavailable
from shared.ids import NIL

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


class Hung(TimeoutError):
    """A handler did not end in the time it had, and was ended."""


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
        # "connection is closed", "pool is closing": not a mistake in a call, nor a value that does not fit
        return "clos" in str(error) and not isinstance(error, ValueError)
    return isinstance(error, _OUTAGE)


def names_no_database(error: BaseException) -> bool:
    """An outage by its type, and nothing in it says of what: a handler may have connected to anything."""
    if isinstance(error, BaseExceptionGroup):
        return is_outage(error) and not any(is_outage(e) and not names_no_database(e) for e in error.exceptions)
    return is_outage(error) and isinstance(error, (OSError, ServiceUnavailable))


def is_passing(error: BaseException) -> bool:
    """Trying again shortly may help."""
    return isinstance(error, (Retry, *_PASSING))


class Backoff:
    """Exponential delays with full jitter, in seconds; ``least`` is the share of each step that is always waited."""

    def __init__(self, first: float, longest: float, *, least: float = 0.0) -> None:
        self._first = first
        self._longest = longest
        self._least = least
        self._attempt = 0

    def next(self) -> float:
        """The delay before the next attempt."""
        step = min(self._longest, self._first * 2.0 ** min(self._attempt, 20))
        self._attempt += 1
        return step * random.uniform(self._least, 1.0)  # noqa: S311 (jitter)

    def reset(self) -> None:
        """The last attempt worked."""
        self._attempt = 0


class Circuit:
    """Opens when most of the latest events fail, and those of most organisations seen lately.

    An organisation whose events all fail (its publisher may mean harm) stops nobody else: they go to the
    dead letters. When nobody's events succeed, what all of them need is away, and waiting costs less. A probe
    after each pause lets one event fail and go there, so that a bad event at the front never stops a consumer
    for good. Where no more than a few organisations are in sight and it is their events that fail (not
    something that may pass), the probes let more and more of them through, to those who may wait behind.
    """

    ORGANIZATIONS = 10
    SECONDS = 30.0
    """How many organisations are remembered, and for how long."""
    FEW = 3

    def __init__(self, failures: int = 10, window: int = 50, pause: float = 5.0, longest_pause: float = 60.0) -> None:
        self.state: Literal["closed", "open", "probing"] = "closed"
        self._failures = failures
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._latest: dict[UUID, tuple[bool, float]] = {}
        self._passing = False
        self._backoff = Backoff(pause, longest_pause, least=0.5)
        self._probes = 0
        self._allowed = 1

    def succeeded(self, count: int = 1, organization: UUID = NIL) -> None:
        """Events had their effect."""
        self._note(organization, True, count)
        if self.state != "closed" and not self._most_fail():
            self.state = "closed"
            self._backoff.reset()
            self._probes, self._allowed = 0, 1

    def failed(self, organization: UUID = NIL, *, passing: bool = False) -> None:
        """An event is about to become a dead letter; raises ``CircuitOpen`` when it must not."""
        self._note(organization, False, 1)
        self._passing = passing
        failures = self._outcomes.count(False)
        limit = self._failures if self.state == "closed" else self._allowed + 1
        if self._most_fail() and (failures >= limit or self.state == "open"):
            self.state = "open"
            raise CircuitOpen(f"{failures} of the last {len(self._outcomes)} events failed")

    def probe(self) -> float:
        """The seconds to pause for; after them the next events are a probe."""
        self._probes += 1
        few = len(self._latest) <= self.FEW and not self._passing
        self._allowed = self._allowed * 8 if few and self._probes > 2 else 1
        self._outcomes = deque(maxlen=max(self._outcomes.maxlen or 0, 2 * self._allowed))
        self._latest.clear()
        self.state = "probing"
        return self._backoff.next()

    def _note(self, organization: UUID, ok: bool, count: int) -> None:
        now = time.monotonic()
        self._outcomes.extend([ok] * min(count, self._outcomes.maxlen or 0))
        self._latest.pop(organization, None)
        self._latest[organization] = ok, now
        while len(self._latest) > self.ORGANIZATIONS or next(iter(self._latest.values()))[1] < now - self.SECONDS:
            del self._latest[next(iter(self._latest))]

    def _most_fail(self) -> bool:
        failing = sum(not ok for ok, _ in self._latest.values())
        return self._outcomes.count(False) * 2 > len(self._outcomes) and failing * 2 > len(self._latest)
