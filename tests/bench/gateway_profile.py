"""Where each microsecond of a request goes in the gateway's process: ``PROFILE=1 make bench-gateway``.

The whole gateway on its real database, but with transports that only hand bytes over, so that what is left is its own
code: what a request takes without a profiler, and how the profiler says that this is spread over its parts.
"""

import asyncio
import cProfile
import json
import pstats
import sys
from collections import defaultdict
from collections.abc import Callable
from time import process_time
from typing import Any
from unittest.mock import patch

import uvloop
from uvicorn.server import ServerState

from cli.hosting import load_gateway
from cli.start import collect_seldom
from cli.system import SERVICES
from gateway.server import server_config
from gateway.upstream import HttpUpstream
from gateway.upstream_connection import Connection
from gateway.upstream_pool import Address
from shared import logs
from shared.settings import Settings
from shared.signing.keys import SharedSecret
from tests.bench.events_system import environment
from tests.bench.gateway_load import CONNECTIONS, Caller, plain, signed

REQUESTS, BLOCKS, PORT = 3200, 5, 8080
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\n{}"
)
STAGES = {
    "reading the request": ("gateway/protocol.py", "gateway/connections.py"),
    "its task": ("gateway/cycle.py:run", "gateway/pipeline.py", "gateway/app.py", "gateway/exchange.py"),
    "edge guard and route": ("gateway/edge.py", "gateway/routing.py", "gateway/operations.py", "gateway/addresses.py"),
    "key": ("gateway/authenticate.py", "gateway/credentials.py", "gateway/last_used.py", "shared/db/hearing.py"),
    "signature": ("shared/signing/", "gateway/signatures.py", "shared/mac.py"),
    "nonce": ("gateway/nonces.py", "asyncpg/", "shared/db/database.py"),
    "lease and usage": ("shared/limits/", "gateway/limits.py"),
    "identity, trace, ids": ("shared/auth/", "gateway/trace.py", "random.py", "base64.py"),
    "asking the service": ("gateway/upstream", "gateway/guards.py", "gateway/retries.py", "gateway/deadlines.py"),
    "answering": ("gateway/answering.py", "gateway/headers.py", "gateway/cycle.py", "gateway/metrics.py"),
}


class _Wire(asyncio.Transport):
    """A transport whose other side is a function."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__({"sockname": ("127.0.0.1", PORT), "peername": ("127.0.0.1", 50_000)})
        self.write = write  # type: ignore[assignment,method-assign]

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    abort = pause_reading = resume_reading = close


async def _connect(_address: Address, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
    connection.connection_made(_Wire(lambda _: loop.call_soon(connection.data_received, _ANSWER)))


async def _client(config: Any, state: ServerState, requests: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    answered = loop.create_future()

    def write(data: bytes) -> None:
        if b" 200 OK" not in data[:16]:
            raise SystemExit(f"a request was answered: {data.decode()}")
        answered.set_result(None)

    protocol = config.http_protocol_class(config, state, {}, loop)
    protocol.connection_made(_Wire(write))
    for request in requests:
        answered = loop.create_future()
        protocol.data_received(request)
        await answered
    protocol.connection_lost(None)


class _Run:
    """Requests of one kind, on a gateway that runs."""

    def __init__(self, config: Any, make: Callable[[], bytes]) -> None:
        self._config = config
        self._make = make
        self._state = ServerState()

    async def once(self, profiler: cProfile.Profile | None = None) -> float:
        """Microseconds of CPU a request."""
        batches = [[self._make() for _ in range(REQUESTS // CONNECTIONS)] for _ in range(CONNECTIONS)]
        await asyncio.sleep(0.2)  # the loop was held up
        if profiler is not None:
            profiler.enable()
        begun = process_time()
        await asyncio.gather(*(_client(self._config, self._state, batch) for batch in batches))
        used = process_time() - begun
        if profiler is not None:
            profiler.disable()
        return used / REQUESTS * 1e6


async def _profile(settings: Settings, callers: tuple[Caller, Caller]) -> None:
    upstreams = {service.name: HttpUpstream("http://127.0.0.1:1") for service in SERVICES}
    gateway = load_gateway(settings, upstreams)
    async with gateway.running():
        config = server_config(gateway, settings)
        config.load()
        collect_seldom()
        for name, make in (
            ("unsigned", lambda: plain(PORT, callers[0])), ("signed", lambda: signed(PORT, callers[1])),
        ):  # fmt: skip
            run = _Run(config, make)
            await run.once()
            took = min([await run.once() for _ in range(BLOCKS)])
            profiler = cProfile.Profile()
            await run.once(profiler)
            _print(name, took, pstats.Stats(profiler))


def _print(name: str, took: float, stats: pstats.Stats) -> None:
    spent: dict[str, float] = defaultdict(float)
    for (file, _, function), (_, _, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        stage = _stage(file, function)
        if stage is None:  # a built-in function is part of whatever calls it
            for (caller_file, _, caller), (_, _, by_caller, _) in callers.items():
                spent[_stage(caller_file, caller) or "the rest"] += by_caller
        else:
            spent[stage] += own
    whole = sum(spent.values())
    print(f"bench-gateway: {took:6.1f} µs  a request, {name}, without the kernel and the event loop's own I/O")
    for stage, seconds in sorted(spent.items(), key=lambda each: -each[1]):
        print(f"bench-gateway: {took * seconds / whole:6.1f} µs  {stage}")


def _stage(file: str, function: str) -> str | None:
    place = f"{file}:{function}"
    fitting = [(part, stage) for stage, parts in STAGES.items() for part in parts if part in place]
    if fitting:
        return max(fitting, key=lambda each: len(each[0]))[1]
    return None if file == "~" else "the rest"


async def profile(settings: Settings, callers: tuple[Caller, Caller]) -> None:
    """Run it in a process of its own; what it says goes to standard error."""
    keys = [(each.key, each.secret and (each.secret.key_id, each.secret.secret.decode())) for each in callers]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.gateway_profile", json.dumps(keys), env=environment(settings),
        stdin=-3, stdout=sys.stderr,
    )  # fmt: skip
    if await process.wait() != 0:
        raise SystemExit("the profile ended early; what it said is above")


def main() -> None:
    """Profile the gateway of this process's settings."""
    settings = Settings()
    logs.configure(settings)
    callers = [
        Caller(key, SharedSecret(secret[0], secret[1].encode()) if secret else None)
        for key, secret in json.loads(sys.argv[1])
    ]
    with (
        patch.object(Address, "connect", _connect),
        patch.object(Connection, "is_quiet", lambda _: True),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_profile(settings, (callers[0], callers[1])))


if __name__ == "__main__":
    main()
