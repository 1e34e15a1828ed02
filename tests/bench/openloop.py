"""An open-loop load generator: requests start when they are due, whatever the answers take.

Latency is counted from the time a request was due, so that a stall is felt by every request it delays
(no coordinated omission). Connections are kept and reused; the generator reports how late it sent.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Answer = tuple[int, bytes, bytes]
"""Status, head and content."""
Seen = Callable[[Answer, float], None]
"""Is told of each answer, and the seconds since it was due."""


@dataclass(slots=True)
class Result:
    """What one run saw; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    late: int = 0
    failed: int = 0
    elapsed: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.elapsed if self.elapsed else 0.0

    def quantile(self, share: float) -> float:
        """The latency that ``share`` of the requests did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, raw: bytes) -> Answer:
        self.writer.write(raw)
        head = await self.reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length:")
        length = int(head[at + 15 : head.index(b"\r\n", at)])
        content = await self.reader.readexactly(length) if length else b""
        return int(head[9:12]), head, content


class Generator:
    """Sends raw HTTP/1.1 requests to one port of this machine over up to ``connections`` kept connections."""

    def __init__(self, port: int, connections: int = 64, *, seen: Seen | None = None) -> None:
        self.port = port
        self._seen = seen
        self._free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        self._room = connections

    async def run(self, make: Callable[[int], bytes], rate: float, count: int) -> Result:
        """Send ``count`` requests at ``rate`` per second; ``make(i)`` gives the i-th request's bytes."""
        result, tasks = Result(), set()
        loop = asyncio.get_running_loop()
        started = time.perf_counter()  # a loop's clock may count in milliseconds
        for number in range(count):
            due = started + number / rate
            delay = due - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            elif delay < -0.01:
                result.late += 1
            task = loop.create_task(self._one(make(number), due, result))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(set(tasks))
        result.elapsed = time.perf_counter() - started
        return result

    async def close(self) -> None:
        """Close the kept connections."""
        while not self._free.empty():
            self._free.get_nowait().writer.close()

    async def _one(self, raw: bytes, due: float, result: Result) -> None:
        try:
            answer = await self._ask(raw)
        except (OSError, EOFError):
            result.failed += 1
            return
        seconds = time.perf_counter() - due
        result.latencies.append(seconds)
        if self._seen is not None:
            self._seen(answer, seconds)
        if answer[0] >= 300:
            result.failed += 1

    async def _ask(self, raw: bytes) -> Answer:
        while True:
            connection, kept = await self._acquire()
            try:
                answer = await connection.ask(raw)
            except (OSError, EOFError):
                connection.writer.close()
                self._room += 1
                if not kept:
                    raise
                continue  # the server closed a connection it had kept long enough: any client opens another
            self._free.put_nowait(connection)
            return answer

    async def _acquire(self) -> tuple[_Connection, bool]:
        if self._free.empty() and self._room > 0:
            self._room -= 1
            return _Connection(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)), False
        return await self._free.get(), True


def request(method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes = b"") -> bytes:
    """One HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
