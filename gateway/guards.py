"""What stands between requests and a service, so that one service in trouble is no trouble for the others.

A bulkhead bounds how many requests a service works on at a time, and who waits for how long. A breaker stops asking a
service that does not answer, and tries again each second. Both answer 503 at once where waiting would be for nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count

from gateway.problems import Overloaded, UpstreamUnavailable
from gateway.shedding import Priority

AT_ONCE = 40
PATIENCE_SECONDS, CONGESTED_SECONDS = 1.0, 0.1
"""How long a request waits for its turn; and how long, once there was a queue of more than that for ``STANDING_SECONDS``."""
STANDING_SECONDS = 0.5
SHARES = {Priority.HEALTH: 1.0, Priority.AUTH: 1.0, Priority.INTERACTIVE: 0.9, Priority.BULK: 0.5}
"""Of the places in a bulkhead, what each class and those behind it may fill."""

WINDOW_SECONDS = 10.0
LEAST_CALLS, FAILING_SHARE = 20, 0.5
PROBE_SECONDS = 1.0


class Bulkhead:
    """``most`` requests at a time, and as many more that wait; the most important first, then the oldest."""

    def __init__(self, most: int = AT_ONCE, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._most = most
        self._rooms = {priority: max(1, int(most * share)) for priority, share in SHARES.items()}
        self._queue: list[tuple[Priority, int, asyncio.Future[None], float]] = []
        self._numbers = count()
        self._standing_since: float | None = None
        self.inside = 0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def present(self) -> int:
        """Requests inside, and those that wait."""
        return self.inside + len(self._queue)

    def try_enter(self, priority: Priority) -> bool:
        """Take a place if there is one and nobody waits for it."""
        if self._queue or self.inside >= self._rooms[priority]:
            return False
        self.inside += 1
        return True

    def check(self, priority: Priority) -> None:
        """Raise ``Overloaded`` where all places to wait are taken, by those who are as important.

        Asked before anything is spent on a request, or refusing would cost what answering others needs.
        """
        if len(self._queue) >= self._most and max(self._queue)[0] <= priority:
            raise _overloaded()

    async def enter(self, priority: Priority) -> None:
        """Take a place, or wait for one; raises ``Overloaded``."""
        if self.try_enter(priority):
            return
        self.check(priority)
        if len(self._queue) >= self._most:
            self._send_away_the_last()
        now = self._clock()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._numbers), turn, now)
        heapq.heappush(self._queue, entry)
        self._let_in()
        try:
            async with asyncio.timeout(self._patience(now)):
                await turn
        except BaseException as error:
            if entry in self._queue:
                self._queue.remove(entry)
                heapq.heapify(self._queue)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # it came while it was given up
            if isinstance(error, TimeoutError):
                raise _overloaded() from None
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1
        if self._queue:
            self._let_in()

    def _let_in(self) -> None:
        while self._queue and self.inside < self._rooms[self._queue[0][0]]:
            _, _, turn, since = heapq.heappop(self._queue)
            if turn.done():
                continue
            self.inside += 1
            turn.set_result(None)
            now = self._clock()
            if now - since < CONGESTED_SECONDS:
                self._standing_since = None
            elif self._standing_since is None:
                self._standing_since = now

    def _patience(self, now: float) -> float:
        """As CoDel has it (RFC 8289): what counts is not how long the queue is but how long it does not end."""
        since = self._standing_since
        standing = since is not None and now - since > STANDING_SECONDS
        return CONGESTED_SECONDS if standing else PATIENCE_SECONDS

    def _send_away_the_last(self) -> None:
        """The least important and latest of all has to go."""
        last = max(self._queue)
        self._queue.remove(last)
        heapq.heapify(self._queue)
        if not last[2].done():
            last[2].set_exception(_overloaded())


class Breaker:
    """Open when half of at least twenty calls failed within some ten seconds; then one call a second is let pass."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begins_anew = 0.0
        self._calls = self._failures = 0
        self._probe_at = 0.0
        self.is_open = False

    def check(self) -> None:
        """Raise ``UpstreamUnavailable`` unless a call may pass."""
        if not self.is_open:
            return
        now = self._clock()
        if now < self._probe_at:
            raise UpstreamUnavailable("It did not answer lately and is asked again every second.", retry_after=1)
        self._probe_at = now + PROBE_SECONDS

    def succeeded(self, now: float) -> None:
        """A call was answered, whatever the answer was."""
        if now >= self._begins_anew:
            self._begin(now)
        self._calls += 1
        if self.is_open:
            self.is_open = False
            self._begin(now)

    def failed(self, now: float) -> None:
        """A call was not answered."""
        if now >= self._begins_anew:
            self._begin(now)
        self._calls += 1
        self._failures += 1
        if not self.is_open and self._calls >= LEAST_CALLS and self._failures >= FAILING_SHARE * self._calls:
            self.is_open = True
            self._probe_at = now + PROBE_SECONDS

    def _begin(self, now: float) -> None:
        # Half of what was seen stays, so that a window's first calls are not judged alone.
        stays = 0 if now >= self._begins_anew + WINDOW_SECONDS else 2
        self._calls = self._calls // stays if stays else 0
        self._failures = self._failures // stays if stays else 0
        self._begins_anew = now + WINDOW_SECONDS / 2


class Guard:
    """Both, in front of one service."""

    def __init__(self, most: int = AT_ONCE) -> None:
        self.bulkhead = Bulkhead(most)
        self.breaker = Breaker()

    def try_enter(self, priority: Priority) -> bool:
        """Let a request pass to the service at once, if nothing is in its way. ``bulkhead.leave`` must follow."""
        return not self.breaker.is_open and self.bulkhead.try_enter(priority)

    async def enter(self, priority: Priority) -> None:
        """The same, after a while if need be; raises ``Overloaded`` or ``UpstreamUnavailable``."""
        self.breaker.check()
        await self.bulkhead.enter(priority)

    def judge(self, now: float, *, answered: bool | None) -> None:
        """Whether a request was answered; None: it says nothing about the service."""
        if answered:
            self.breaker.succeeded(now)
        elif answered is not None:
            self.breaker.failed(now)


def _overloaded() -> Overloaded:
    return Overloaded("The service has as many requests as it can answer in time; try again in a second.")
