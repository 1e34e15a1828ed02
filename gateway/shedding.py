"""Which requests are given up when the process has more to do than it can.

What a request waits before anything looks at it is how late the event loop is; from that follows the share of requests
that are refused at once, by the controller of PIE (RFC 8033 §4.2), so that the others are answered in time. Bulk work
goes first; signing in and health are never refused here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from enum import IntEnum

from shared.limits.policies import Operation

TARGET_SECONDS = 0.02
TICK_SECONDS = 0.02
BURST_SECONDS = 0.15
BUSY = 16
_ALPHA, _BETA = 0.25, 2.5
"""What a second of lateness, and of more lateness than before, adds to the share at each look."""
_random = random.Random()  # noqa: S311 (which request is refused is no secret)


class Priority(IntEnum):
    """The lower, the longer it is served."""

    HEALTH = 0
    AUTH = 1
    INTERACTIVE = 2
    BULK = 3


_BY_CLASS = {"anonymous": Priority.AUTH, "bulk": Priority.BULK}


def priority_of(service: str, operation: Operation | None) -> Priority:
    """By the class that the contract gives an operation; all of the health service goes first."""
    if service == "health":
        return Priority.HEALTH
    return Priority.INTERACTIVE if operation is None else _BY_CLASS.get(operation.route_class, Priority.INTERACTIVE)


class Shedder:
    """``share`` of interactive requests is refused now; ``lateness`` is that of the last look, in seconds.

    ``busy`` says how many requests services work on or are waited for; below ``BUSY`` it is somebody else who takes the
    processor's time, and refusing would help nobody.
    """

    def __init__(self, busy: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> None:
        self._busy = busy
        self._clock = clock
        self._allowance = BURST_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self.share = 0.0
        self.lateness = 0.0

    def refuses(self, priority: Priority) -> bool:
        """Whether this one is given up."""
        if not self.share or priority <= Priority.AUTH:
            return False
        share = self.share if priority == Priority.INTERACTIVE else 2 * self.share
        return _random.random() < share

    def observe(self, lateness: float) -> None:
        """Look again: the event loop was so much late, in seconds."""
        before, self.lateness = self.lateness, lateness
        if lateness <= TARGET_SECONDS and not self.share:
            self._allowance = BURST_SECONDS
            return
        if self._allowance > 0:
            self._allowance -= TICK_SECONDS + lateness
            return
        share = self.share + _ALPHA * (lateness - TARGET_SECONDS) + _BETA * (lateness - before)
        if lateness < TARGET_SECONDS / 2:
            share *= 0.9
        self.share = min(0.99, share) if share > 0.005 else 0.0

    def start(self) -> None:
        """Look from now on."""
        self._look_at(self._clock() + TICK_SECONDS)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._look, due)

    def _look(self, due: float) -> None:
        now = self._clock()
        self.observe(max(0.0, now - due) if self._busy() >= BUSY else 0.0)
        self._look_at(now + TICK_SECONDS)
