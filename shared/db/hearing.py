"""Until when every change that is notified is certain to have been heard.

Judged when it matters, by the monotonic clock: a timer would come late exactly when things go wrong. The
moment noted is that of *asking*: PostgreSQL delivers what was notified before on the same connection ahead
of the answer. So what is believed in here was true at most ``HEARING_SECONDS`` ago, however late a
heartbeat's answer is. A late one costs a wait or a lookup and nothing else: the connection holds everything
missed, so entries are good again with the next answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

HEARING_SECONDS = 0.7
"""Two heartbeats and some lag; what is missing to a second is for the request itself."""
_PATIENCE = 0.1


class Hearing:
    """Kept by the listener, asked by the caches. ``last`` is the moment of the last heartbeat, lost or not."""

    __slots__ = ("_next", "at", "clock", "last")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.at = self.last = -math.inf
        self._next: asyncio.Future[None] | None = None

    def fresh(self, now: float) -> bool:
        """Whether every change up to a moment ago was heard."""
        return now - self.at <= HEARING_SECONDS

    def heard_until(self, moment: float) -> None:
        """A heartbeat sent at ``moment`` was answered."""
        self.at = self.last = moment
        if self.fresh(self.clock()):
            self._wake()

    def lose(self) -> None:
        """Nothing is heard any more."""
        self.at = -math.inf
        self._wake()

    async def catch_up(self) -> None:
        """When the heartbeat is merely late (this process was busy), wait a moment for it."""
        if self.at == -math.inf or self.fresh(self.clock()):
            return
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._next}, timeout=_PATIENCE)

    def _wake(self) -> None:
        waiter, self._next = self._next, None
        if waiter is not None:
            waiter.set_result(None)
