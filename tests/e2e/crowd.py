"""Many slow clients at once, who come again whenever they are turned away, and an honest one among them."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.e2e.wire import Answer

DRIP_SECONDS = 1.0
_ESTABLISHED = 1
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Slow:
    """A way to be slow. ``seconds`` is how long the platform may put up with it, ``answers`` what it may say then.

    One that ``leaves`` does not stay longer than it is wanted.
    """

    name: str
    clients: int
    seconds: float
    answers: frozenset[int]
    opening: bytes = b""
    drip: bytes = b""
    reads: bool = True
    leaves: bool = False


@dataclass
class Visit:
    """One connection of a slow client: how long it was put up with, and what was said."""

    slow: Slow
    seconds: float
    answers: list[int] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Turned away in time, and told why where there was something to tell; five seconds are for a busy machine."""
        return self.seconds <= self.slow.seconds + 5 and set(self.answers) <= self.slow.answers


class Crowd:
    """All of them, on addresses of their own."""

    def __init__(self, port: int, kinds: Sequence[Slow]) -> None:
        self.visits: list[Visit] = []
        self._port = port
        self._kinds = kinds
        self._enough = asyncio.Event()
        self._here = 0

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """All of them are there during the block; in the end it waits until the last was turned away."""
        wanted = sum(slow.clients for slow in self._kinds)
        async with asyncio.TaskGroup() as group:
            for number, slow in enumerate(self._kinds):
                for _ in range(slow.clients):
                    group.create_task(self._come_and_come_again(slow, f"127.0.0.{number + 2}"))
            while self._here < wanted:  # noqa: ASYNC110 (they come and go)
                await asyncio.sleep(0.01)
            yield
            self._enough.set()

    async def _come_and_come_again(self, slow: Slow, source: str) -> None:
        await asyncio.sleep(random.random())
        while not self._enough.is_set():
            began = time.monotonic()
            visit = Visit(slow, 0.0)
            with socket.socket() as mine:
                mine.setblocking(False)
                mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                mine.bind((source, 0))
                await asyncio.get_running_loop().sock_connect(mine, ("127.0.0.1", self._port))
                self._here += 1
                with suppress(ConnectionError):
                    visit.answers = await self._stay(slow, mine)
                self._here -= 1
            visit.seconds = time.monotonic() - began
            self.visits.append(visit)

    async def _stay(self, slow: Slow, mine: socket.socket) -> list[int]:
        """Until the other side closes; the statuses it answers, if they are read."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(mine, slow.opening)
        if not slow.reads:
            while mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) == _ESTABLISHED:
                if slow.leaves and self._enough.is_set():
                    break
                await asyncio.sleep(_LOOK_SECONDS)
            return []
        dripping = asyncio.create_task(self._drip(slow, mine))
        said = b""
        try:
            while piece := await loop.sock_recv(mine, 65_536):
                said += piece
        finally:
            dripping.cancel()
        answers = []
        while found := Answer.cut_from(said):
            answer, said = found
            answers.append(answer.status)
        return answers

    @staticmethod
    async def _drip(slow: Slow, mine: socket.socket) -> None:
        with suppress(ConnectionError):
            while slow.drip:
                await asyncio.sleep(DRIP_SECONDS)
                await asyncio.get_running_loop().sock_sendall(mine, slow.drip)


async def call(port: int, request: bytes) -> tuple[int, float]:
    """Status and seconds of one honest call, on a connection of its own."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    found = Answer.cut_from(said)
    return found[0].status if found else 0, time.monotonic() - began


async def calls(each: Callable[[int], Awaitable[tuple[int, float]]], rate: int, number: int) -> list[tuple[int, float]]:
    """So many calls, begun at this rate (per second) whether or not those before are answered."""
    loop = asyncio.get_running_loop()
    began, tasks = loop.time(), []
    for turn in range(number):
        await asyncio.sleep(began + turn / rate - loop.time())
        tasks.append(asyncio.ensure_future(each(turn)))
    return list(await asyncio.gather(*tasks))


def percentile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return sorted(seconds)[int(len(seconds) * share)] * 1000
