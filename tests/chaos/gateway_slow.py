"""Part c of a gateway run: clients that take for ever, and those beside them who do not.

As many of each: nothing is sent (``silent``); a ``head`` comes byte by byte; a small ``body`` does; the end of a large one
(``upload``); a long answer is asked for and not read (``deaf``); one request, and then nothing more (``idle``). What the
gateway closes is opened again at once.
"""

import asyncio
import socket
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.bench.gateway_load import Caller
from tests.bench.openloop import Generator
from tests.chaos.gateway_client import plain
from tests.chaos.gateway_load import CONTACTS, LONG, contact, fill
from tests.chaos.gateway_probes import FLOOR_SECONDS, p99
from tests.chaos.gateway_system import Say, System

CONNECTIONS = 560
"""Some are always being opened again; five hundred are to be open."""
_HONEST_RATE, _SECONDS = 40.0, 8.0
_DRIP_SECONDS = 1.0
_OPENING_SECONDS = 4.0
_LOOK_SECONDS = 0.2
_ROUNDS = 2
_SENT_AT_ONCE = 20_000
"""Of a large body: more than the gateway gathers before it forwards."""
_Misbehave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WAYS = ("silent", "head", "body", "upload", "deaf", "idle")


@dataclass
class Slow:
    """What part c came to; times in seconds."""

    before: float
    beside: float
    n: int
    failed: int
    held: int
    statuses: Counter[int]

    @property
    def ratio(self) -> float:
        """How many times as long the 99th percentile is."""
        return self.beside / max(self.before, FLOOR_SECONDS)

    def __str__(self) -> str:
        return (
            f"  c: honest p99 {self.before * 1000:.0f} → {self.beside * 1000:.0f} ms (×{self.ratio:.1f}) beside"
            f" {self.held} slow connections, {self.failed} of {self.n} refused {dict(self.statuses)}"
        )


async def slow(system: System, say: Say) -> Slow:
    """Honest clients of one gateway without slow ones, then beside them, by turns."""
    port, caller = system.ports[0], system.plain
    statuses: Counter[int] = Counter()
    honest = Generator(port, seen=lambda answer, _seconds: statuses.update(answer[:1]))
    await fill(port, caller)
    read = plain("GET", f"{CONTACTS}?limit=20", caller)
    write = plain("POST", CONTACTS, caller, contact("beside the slow"))

    def make(number: int) -> bytes:
        return read if number % 5 else write

    count = int(_HONEST_RATE * _SECONDS)
    await honest.run(make, _HONEST_RATE, count // 4)
    before: list[float] = []
    beside: list[float] = []
    held: list[int] = []
    failed = 0
    for _ in range(_ROUNDS):
        result = await honest.run(make, _HONEST_RATE, count)
        before += result.latencies
        crowd = Crowd(port, caller)
        await crowd.open()
        say(f"  {crowd.held} slow connections")
        looking = asyncio.create_task(_look_on(crowd, held))
        statuses.clear()
        result = await honest.run(make, _HONEST_RATE, count)
        beside += result.latencies
        failed += result.failed
        looking.cancel()
        await crowd.leave()
    await honest.close()
    return Slow(p99(before), p99(beside), len(beside), failed, int(statistics.median(held)), statuses)


async def _look_on(crowd: "Crowd", held: list[int]) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        held.append(crowd.held)


class Crowd:
    """Slow clients of one gateway."""

    def __init__(self, port: int, caller: Caller, ways: Sequence[str] = WAYS) -> None:
        self.held = 0
        self._ways = ways
        self._port = port
        self._asks = plain("GET", f"{CONTACTS}?limit={LONG}&sort=name", caller)
        self._small, self._large = (
            plain("POST", CONTACTS, caller, contact("slowly", size)) for size in (2_000, 80_000)
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open all of them, a little apart."""
        ways: dict[str, _Misbehave] = {
            "silent": self._silent, "head": self._head_slowly, "body": self._body_slowly, "upload": self._upload_slowly,
            "deaf": self._deaf, "idle": self._idle,
        }  # fmt: skip
        for number in range(CONNECTIONS):
            self._tasks.append(asyncio.create_task(self._one(ways[self._ways[number % len(self._ways)]])))
            await asyncio.sleep(_OPENING_SECONDS / CONNECTIONS)

    async def leave(self) -> None:
        """Close all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, misbehave: _Misbehave) -> None:
        while True:
            with suppress(OSError, EOFError, RuntimeError):
                made = socket.socket()
                made.setblocking(False)
                # Small, so that an answer nobody reads stays with the gateway.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self._port))
                reader, writer = await asyncio.open_connection(sock=made, limit=1)
                self.held += 1
                try:
                    await misbehave(reader, writer)
                finally:
                    self.held -= 1
                    writer.transport.abort()
            await asyncio.sleep(0)

    @staticmethod
    async def _until_closed(reader: asyncio.StreamReader) -> None:
        while await reader.read(65_536):
            pass

    async def _silent(self, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await self._until_closed(reader)

    async def _idle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(plain("GET", "/livez"))
        await self._until_closed(reader)

    async def _deaf(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._asks)
        await self._drip(writer, b"\0" * 100, sending=False)

    async def _head_slowly(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._drip(writer, self._small)

    async def _body_slowly(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = self._small.index(b"\r\n\r\n") + 4
        writer.write(self._small[:head])
        await self._drip(writer, self._small[head:])

    async def _upload_slowly(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._large[:_SENT_AT_ONCE])
        await self._drip(writer, self._large[_SENT_AT_ONCE:])

    @staticmethod
    async def _drip(writer: asyncio.StreamWriter, content: bytes, *, sending: bool = True) -> None:
        for byte in content:
            await asyncio.sleep(_DRIP_SECONDS)
            if writer.is_closing():
                return
            if sending:
                writer.write(bytes([byte]))
