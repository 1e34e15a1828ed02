"""Calls beside a load, from a process of their own: whoever makes the load would make them late.

``python -m tests.chaos.gateway_probes '<options>'`` asks at fixed rates, without waiting for answers, and prints what it saw.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace

import uvloop

from tests.chaos.gateway_client import Client, plain
from tests.chaos.gateway_system import System

RATES = {"health": 20.0, "livez": 20.0, "sign-in": 2.0}
"""A second; signing in stays under the 60 a minute that an address has."""
_WARM_SECONDS = 0.5
FLOOR_SECONDS = 0.025
"""A baseline below this is not believed: of calls that take some milliseconds the 99th percentile on two shared cores is
how long they wait for one of them, and nobody notices whether that is 10 ms or 40."""


@dataclass
class Probe:
    """One kind of call beside the load; seconds without it and under it."""

    name: str
    before: list[float]
    under: list[float]
    failed: int = 0

    @property
    def n(self) -> int:
        """How many were asked under load."""
        return len(self.under)

    @property
    def ratio(self) -> float:
        """How many times as long the 99th percentile is."""
        return p99(self.under) / max(p99(self.before), FLOOR_SECONDS)

    def __str__(self) -> str:
        text = f"{self.name} p99 {p99(self.before) * 1000:.0f} → {p99(self.under) * 1000:.0f} ms (×{self.ratio:.1f})"
        return text + (f", {self.failed} refused" if self.failed else "")


@dataclass
class Seen:
    """What came of one kind of call; seconds from when it was due."""

    times: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True)
class Options:
    """Where to ask, as whom, for how long."""

    ports: Sequence[int]
    email: str
    password: str
    seconds: float


def p99(values: Sequence[float]) -> float:
    """The 99th percentile; infinite where nothing was answered."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))] if values else math.inf


@asynccontextmanager
async def probing(system: System, seconds: float) -> AsyncIterator["Prober"]:
    """The process, ready to ask: what it takes to start is over."""
    options = Options(system.ports, system.owner.email, system.owner.password, seconds)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.gateway_probes", json.dumps(asdict(options)), stdin=pipe, stdout=pipe
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield Prober(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Prober:
    """Asks when it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self) -> dict[str, Seen]:
        """Every kind of call at its rate, from now on; raises when the process fails."""
        said, _ = await self._process.communicate(b"\n")
        if self._process.returncode != 0:
            raise RuntimeError(f"the probes ended with {self._process.returncode}")
        return {name: Seen(**each) for name, each in json.loads(said).items()}


async def _probe(name: str, options: Options) -> Seen:
    account = json.dumps({"email": options.email, "password": options.password}).encode()
    request = {
        "health": plain("GET", "/v1/health"), "livez": plain("GET", "/livez"),
        "sign-in": plain("POST", "/v1/sessions", content=account),
    }[name]  # fmt: skip
    seen, rate, began = Seen(), RATES[name], time.monotonic()

    async def one(port: int, due: float) -> None:
        client = Client(port)
        attempt = await client.ask(request)
        client.close()
        seen.times.append(attempt.ended - due)
        seen.failed += not attempt.acknowledged

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * options.seconds)):
            due = began + number / rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            group.create_task(one(options.ports[number % len(options.ports)], due))
    return seen


async def _all(options: Options) -> dict[str, Seen]:
    return dict(zip(RATES, await asyncio.gather(*(_probe(name, options) for name in RATES)), strict=True))


def main() -> None:
    """Wait for a line, ask, and print what came of it as JSON."""
    options = Options(**json.loads(sys.argv[1]))
    # As those who watch a platform do: they have asked before.
    uvloop.run(_all(replace(options, seconds=_WARM_SECONDS)))
    print("ready", flush=True)
    sys.stdin.readline()
    found = uvloop.run(_all(options))
    print(json.dumps({name: asdict(each) for name, each in found.items()}))


if __name__ == "__main__":
    main()
