"""A round of the limiter bench: four processes that ask at the same time, and what they counted together."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any
from uuid import UUID

import asyncpg

from cli.progress import step
from shared.ids import new_id
from shared.limits.policies import SECONDS
from shared.settings import Settings
from tests.bench.events_system import Clocks, environment
from tests.bench.limiter_load import Counted, Histogram, violations
from tests.bench.limiter_worker import key_id

PROCESSES = 4
CLOSING_SECONDS = 1.5
_ATTEMPTS = 4
_BESIDES_SECONDS = 10.0
"""What a round takes beside its load: touching every key, settling; generously."""
_LINE_BYTES = 1 << 24
_NANOSECONDS = 1_000_000_000
_LEFT = "SELECT extract(epoch FROM date_trunc($1, now()) + ('1 ' || $1)::interval - now())::float8"
_PLAN = "INSERT INTO ratelimit.plans VALUES ('bench', 'Bench', 'No policies', 0) ON CONFLICT DO NOTHING"
_POLICY = """
INSERT INTO ratelimit.policies (organization_id, id, name, quota, "window", per, on_failure, version, created_at, updated_at)
VALUES ($1, uuidv7(), $2, $3, $2, '{key}', 'closed', 1, now(), now())
"""
_COUNTED = "SELECT subject, window_start, used, admitted FROM ratelimit.api_rate_limits WHERE organization_id = $1"


async def limited_organization(connection: "asyncpg.Connection[Any]", window: str, quota: int) -> UUID:
    """A new organisation whose only policy is a quota for each key."""
    organization = new_id()
    await limit_organization(connection, organization, window, quota)
    return organization


async def limit_organization(
    connection: "asyncpg.Connection[Any]", organization: UUID, window: str, quota: int
) -> None:
    """Let an organisation have one policy: a quota for each key."""
    await connection.execute(_PLAN)
    await connection.execute("SELECT ratelimit.set_plan($1, 'bench')", organization)
    await connection.execute(_POLICY, organization, window, quota)


@dataclass(frozen=True)
class Load:
    """Who asks how often for how long, and what each key may."""

    keys: int
    skew: float
    tasks: int
    quota: int
    window: str
    warm_seconds: float
    seconds: float


@dataclass
class Round:
    """What the processes of a round counted together."""

    name: str
    seconds: float
    refused: int = 0
    hot_waited: int = 0
    fallbacks: int = 0
    hot_times: Histogram = field(default_factory=Histogram)
    all_times: Histogram = field(default_factory=Histogram)
    calls: Histogram = field(default_factory=Histogram)
    cpu: dict[str, float] = field(default_factory=dict)
    exhausted: int = 0
    stranded: int = 0
    checked: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Count what one process measured."""
        self.refused += answer["refused"]
        self.hot_waited += answer["hot_waited"]
        for taken in answer["calls"]:
            self.calls.add(taken)
        self.hot_times.merge(hot := Histogram(*answer["hot_times"]))
        self.all_times.merge(hot)
        self.all_times.merge(Histogram(*answer["other_times"]))

    @property
    def decisions(self) -> int:
        """How many were made."""
        return len(self.all_times)

    @property
    def rate(self) -> float:
        """Decisions per second of all processes."""
        return self.decisions / self.seconds

    @property
    def hot_local(self) -> float:
        """The share of hot keys' decisions that did not wait for the database."""
        return 1 - self.hot_waited / len(self.hot_times)

    def as_text(self) -> list[str]:
        """Lines for people."""
        lines = [f"{self.name}: {self.rate:,.0f} decisions/s, {self.refused / self.decisions:.1%} of them refused"]
        for title, times in (("all", self.all_times), ("hot", self.hot_times)):
            parts = (f"p{share * 100:g} {times.microseconds(share):,.1f}" for share in (0.5, 0.99, 0.999))
            lines.append(f"  {title} keys, µs: {', '.join(parts)} (n={len(times):,})")
        if self.calls:
            lines.append(
                f"  {len(self.calls) / self.decisions * 1000:.2f} database calls per 1,000 decisions, "
                f"each p50 {self.calls.microseconds(0.5) / 1000:.1f}, p99 {self.calls.microseconds(0.99) / 1000:.1f} ms; "
                f"{self.fallbacks:,} decisions from start to end without the database for want of its answer"
            )
            lines.append(
                f"  {self.exhausted:,} keys used up, {self.stranded:,} units debited and not admitted, "
                f"{self.hot_waited:,} of {len(self.hot_times):,} decisions of hot keys waited"
            )
        else:
            over = len(self.violations)
            lines.append(f"  {self.exhausted:,} keys used up, {over:,} of them admitted beyond their quota")
        spent = ", ".join(f"{name} {each / self.decisions * 1e6:.1f}" for name, each in self.cpu.items())
        lines.append(f"  CPU a decision, µs: {spent}")
        return lines


class Worker:
    """One process, spoken to in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def answer(self) -> dict[str, Any]:
        """The next line it says."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of the bench ended early; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Tell it to do something and wait until that is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what} | arguments).encode() + b"\n")
        return await self.answer()

    async def end(self) -> None:
        """Let it go; without input it ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def workers(role: str, settings: Settings, options: Mapping[str, Any]) -> AsyncIterator[list[Worker]]:
    """The processes of a round, ready to be asked; each draws its keys from a seed of its own."""
    async with AsyncExitStack() as stack:
        found = []
        for seed in range(PROCESSES):
            command = [sys.executable, "-m", "tests.bench.limiter_worker", role, json.dumps({**options, "seed": seed})]
            process = await asyncio.create_subprocess_exec(
                *command, stdin=-1, stdout=-1, env=environment(settings), limit=_LINE_BYTES
            )
            found.append(Worker(process))
            stack.push_async_callback(found[-1].end)
        await asyncio.gather(*(worker.answer() for worker in found))
        yield found


async def _together(found: Iterable[Worker], what: str, **arguments: Any) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(worker.do(what, **arguments) for worker in found)))


class Rounds:
    """Rounds of ours and of the peer, each with processes of its own and keys that nobody has counted yet."""

    def __init__(
        self, connection: "asyncpg.Connection[Any]", settings: Settings, load: Load, socket: Path, pids: dict[str, int]
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._load = load
        self._socket = socket
        self._pids = pids

    async def ours(self) -> Round:
        """One of ours, whose counts are checked; begun again where its window ended before it did."""
        for _ in range(_ATTEMPTS):
            organization = await limited_organization(self._connection, self._load.window, self._load.quota)
            async with workers("ours", self._settings, self._options(organization)) as found:
                await self._room()
                measured, refused = await self._measure("guardian", found, "postgres")
                end = perf_counter_ns() + int(CLOSING_SECONDS * _NANOSECONDS)
                await _together(found, "close", keys=refused, end=end)
                counts = await _together(found, "stop")
            rows = await self._connection.fetch(_COUNTED, organization)
            if len({row["window_start"] for row in rows}) == 1:
                self._check(measured, counts, rows)
                return measured
            say(f"the {self._load.window} ended before the round did; again")
        raise SystemExit(f"no round fits into one {self._load.window}: take --window hour, or fewer --seconds")

    async def peer(self) -> Round:
        """One of the peer's. Its windows begin with the first call of a key, and none ends before the round does."""
        async with workers("peer", self._settings, self._options(new_id())) as found:
            measured, _ = await self._measure("limits with Redis", found, "redis")
            counts = await _together(found, "stop")
        for key in range(self._load.keys):
            let_in = sum(each["admitted"][key] for each in counts)
            if let_in > self._load.quota:
                measured.violations.append(f"key {key}: {let_in} admitted, more than its quota")
        measured.exhausted = sum(any(each["refused"][key] for each in counts) for key in range(self._load.keys))
        return measured

    def _options(self, organization: UUID) -> dict[str, Any]:
        return asdict(self._load) | {"organization": str(organization), "socket": str(self._socket)}

    async def _room(self) -> None:
        """Wait for the next window if the round may not fit into what is left of this one."""
        left: float = await self._connection.fetchval(_LEFT, self._load.window)
        needed = self._load.warm_seconds + self._load.seconds + _BESIDES_SECONDS
        if left < needed < SECONDS[self._load.window]:
            with step(f"Waiting {left:.0f} s for the next {self._load.window}"):
                await asyncio.sleep(left + 0.1)

    async def _measure(self, name: str, found: Sequence[Worker], server: str) -> tuple[Round, list[int]]:
        """Touch every key, warm up and measure; also the keys that were refused in any process."""
        measured = Round(name, self._load.seconds)
        with step(f"{name}: touching {self._load.keys:,} keys in {len(found)} processes"):
            await _together(found, "touch")
        start = perf_counter_ns() + int(self._load.warm_seconds * _NANOSECONDS)
        end = start + int(self._load.seconds * _NANOSECONDS)
        with step(f"{name}: {self._load.seconds:g} s of load"):
            running = asyncio.create_task(_together(found, "run", start=start, end=end))
            await asyncio.sleep((start - perf_counter_ns()) / _NANOSECONDS)
            clocks = Clocks({f"{worker.pid}": worker.pid for worker in found} | {server: self._pids[server]})
            answers = await running
            spent = clocks.spent()
        measured.cpu = {server: spent.pop(server), "processes": sum(spent.values())}
        for answer in answers:
            measured.add(answer)
        return measured, sorted({key for answer in answers for key in answer["refused_keys"]})

    def _check(self, measured: Round, counts: Sequence[Mapping[str, Any]], rows: Sequence[Any]) -> None:
        keys = {f"key:{key_id(key)}": key for key in range(self._load.keys)}
        counted = {keys[row["subject"]]: Counted(row["used"], row["admitted"]) for row in rows}
        admitted, refused = ([each[name] for each in counts] for name in ("admitted", "refused"))
        measured.violations = violations(self._load.quota, admitted, refused, counted)
        measured.checked = len(rows)
        measured.exhausted = sum(any(each[key] for each in refused) for key in range(self._load.keys))
        measured.fallbacks = sum(each["fallbacks"] for each in counts)
        measured.stranded = sum(each.used - each.admitted for each in counted.values())


def say(text: str) -> None:
    """A line for people."""
    print(f"bench-limiter: {text}", file=sys.stderr, flush=True)
