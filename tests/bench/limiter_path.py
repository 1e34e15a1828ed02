"""What a call of a warm key costs in CPU in the gateway's whole quota stage, in a process of its own.

``PROFILE=1 make bench-limiter`` says where it goes: each part alone, then the profiler's own table.
"""

import asyncio
import cProfile
import json
import os
import pstats
import sys
from collections.abc import Awaitable, Callable, Sequence
from time import process_time_ns
from uuid import UUID

import uvloop

from cli.hosting import routes
from gateway.limits import Metering
from gateway.metrics import GatewayMetrics
from gateway.operations import Operations
from gateway.pages import read_contract
from gateway.routing import RoutingTable
from gateway.stages import Call
from shared import logs
from shared.auth import Principal
from shared.db import Database
from shared.limits.decision import Verdict
from shared.limits.headers import limit_headers
from shared.limits.metering import caller_of
from shared.settings import Settings
from tests.bench.events_system import environment
from tests.bench.limiter_worker import key_id

PATH_MICROSECONDS = 5.0
_BLOCKS = 10
_AT_ONCE = 64
"""Calls between two looks of the loop at what arrived."""


async def measure_path(settings: Settings, organization: UUID, calls: int) -> list[float]:
    """Microseconds of CPU a decision, in each of a few blocks."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.limiter_path", str(organization), str(calls),
        env=environment(settings, PROFILE=os.environ.get("PROFILE", "")), stdin=-3, stdout=-1,
    )  # fmt: skip
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise SystemExit("the process on one key ended early; what it said is above")
    found: list[float] = json.loads(said)
    return found


async def _repeat(once: Callable[[], Awaitable[object]], calls: int) -> float:
    """Microseconds of CPU for each of ``calls``, with whatever else the process does meanwhile."""
    begun = process_time_ns()
    for _ in range(calls // _AT_ONCE):
        for _ in range(_AT_ONCE):
            await once()
        await asyncio.sleep(0)
    return (process_time_ns() - begun) / (calls // _AT_ONCE * _AT_ONCE) / 1000


class Path:
    """A call of one API key through the gateway's quota stage, and the parts of that."""

    def __init__(self, metering: Metering, organization: UUID) -> None:
        principal = Principal(organization, "api_key", key_id(0), on_behalf_of=str(organization))
        path = f"/v1/contacts/{organization}"
        route = RoutingTable(routes()).match(path)
        assert route is not None
        self._operations = Operations(read_contract() or {"paths": {}}, routes())
        self._operation = self._operations.find("GET", path, route.prefix)
        self._call = Call(
            "GET", path, path.encode(), b"", [], route, self._operation, principal, caller=caller_of(principal)
        )
        self._gate = metering.gate
        caller = caller_of(principal)
        assert caller is not None
        self._caller = caller
        self._verdicts: Sequence[Verdict] = ()

    async def whole(self) -> None:
        """All of it, as the gateway's pipeline does it."""
        await self._gate.take(self._call)

    async def nothing(self) -> None:
        """What calling a coroutine costs by itself; it is in each of these."""

    async def caller(self) -> None:
        """Who calls."""
        caller_of(self._call.principal)

    async def operation(self) -> None:
        """Which operation it is."""
        self._operations.find(self._call.method, self._call.path, self._call.route.prefix)

    async def check(self) -> None:
        """May it: the subjects, and taking from the leases."""
        self._verdicts = (await self._gate._limits.check(self._caller, self._operation)).verdicts

    async def usage(self) -> None:
        """Counting it for the organisation's usage."""
        self._gate._usage.record(self._caller, "api_key", self._operation, allowed=True, cost=1, shadow=False)

    async def headers(self) -> None:
        """The answer's headers."""
        limit_headers(self._verdicts)


async def _profile(path: Path, calls: int) -> None:
    """Each part alone, then the profiler's table, on standard error."""
    for part in (path.nothing, path.caller, path.operation, path.check, path.usage, path.headers, path.whole):
        cost = await _repeat(part, calls)
        print(f"bench-limiter: {cost:6.2f} µs  {part.__name__}: {part.__doc__}", file=sys.stderr, flush=True)
    profiler = cProfile.Profile()
    profiler.enable()
    await _repeat(path.whole, calls)
    profiler.disable()
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(20)


async def _measure(organization: UUID, calls: int) -> None:
    settings = Settings()
    logs.configure(settings)
    database = Database.for_service(settings, "gateway")
    await database.open()
    metering = Metering(settings, database, GatewayMetrics())
    async with metering.running():
        path = Path(metering, organization)
        await _repeat(path.whole, calls // _BLOCKS)
        print(json.dumps([await _repeat(path.whole, calls // _BLOCKS) for _ in range(_BLOCKS)]), flush=True)
        if os.environ.get("PROFILE"):
            await _profile(path, calls)
    await database.close()


if __name__ == "__main__":
    uvloop.run(_measure(UUID(sys.argv[1]), int(sys.argv[2])))
