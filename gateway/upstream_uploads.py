"""Who may stream a large body now: a bounded number of requests, a quarter of them of any one caller."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from gateway.problems import UpstreamBusy

WAIT_SECONDS = 1.0


class Uploads:
    """At most ``most`` at a time. Whoever waits longest and is below its quarter is next."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._each = max(1, most // 4)
        self._held: Counter[Hashable] = Counter()
        self._waiting: deque[tuple[Hashable, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def slot(self, caller: Hashable) -> AsyncIterator[Callable[[], None]]:
        """Hold a slot until what it yields is called, for the block at most.

        Raises ``UpstreamBusy`` when none gets free in time.
        """
        if self._may(caller):
            self._take(caller)
        else:
            await self._turn(caller)
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._give_back(caller)

        try:
            yield release
        finally:
            release()

    def _may(self, caller: Hashable) -> bool:
        return self._free > 0 and self._held[caller] < self._each

    def _take(self, caller: Hashable) -> None:
        self._free -= 1
        self._held[caller] += 1

    def _give_back(self, caller: Hashable) -> None:
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        for waiter in list(self._waiting):
            if not waiter[1].done() and self._may(waiter[0]):
                self._take(waiter[0])
                self._waiting.remove(waiter)
                waiter[1].set_result(None)

    async def _turn(self, caller: Hashable) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = caller, turn
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except BaseException as error:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._give_back(caller)  # it came while it was given up
            if isinstance(error, TimeoutError):
                raise UpstreamBusy("As many uploads as the service takes at a time are under way.") from None
            raise
