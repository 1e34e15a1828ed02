"""What a limiter run breaks: a PostgreSQL of its own, processes with a lease client, proxies between them.

``Fleet`` carries a schedule out and keeps account of what really happened, in monotonic seconds.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import psutil
from pydantic import SecretStr

from cli.home import changed, with_secret
from cli.migrate import migrate
from cli.postgres import EmbeddedPostgres
from shared.ids import new_id
from shared.settings import Settings
from tests.bench.events_system import environment
from tests.bench.report import require_durable
from tests.chaos.faultproxy import Proxy
from tests.chaos.limiter_history import Change, Disturbance, Life, Row
from tests.chaos.limiter_load import PLAN, PROCESSES, TENANTS, Call, Journal
from tests.chaos.limiter_schedule import PROXIED, Fault, Schedule, skew_of
from tests.chaos.limiter_worker import Options

_LOOK_SECONDS = 0.05
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_DOWN_SECONDS = 0.5
"""How long a process or a database that crashed stays away."""
_POLICY = """
INSERT INTO ratelimit.policies (organization_id, id, name, quota, unit, "window", per, mode, on_failure, version,
  created_at, updated_at)
VALUES ($1, uuidv7(), $2, $3, $4, $5, $6, $7, $8, 1, now(), now())
"""
_ROWS = """
SELECT p.name, r.subject, extract(epoch FROM r.window_start)::float8 AS starts, r.used, r.admitted, r.highest_quota
FROM ratelimit.api_rate_limits r JOIN ratelimit.policies p ON p.organization_id = r.organization_id AND p.id = r.policy_id
WHERE isfinite(r.window_start)
"""
Say = Callable[[str], None]


@dataclass
class Member:
    """One process of the fleet, as it runs now."""

    options: Options
    process: "subprocess.Popen[bytes]"
    paused: bool = False


class Fleet:
    """Use ``running``; ``faults`` of the schedule then."""

    def __init__(self, folder: Path, schedule: Schedule, say: Say, *, mutant: str = "") -> None:
        self.folder = folder
        self.schedule = schedule
        self.disturbances: list[Disturbance] = []
        self.changes: list[Change] = []
        self.lives: list[Life] = []
        self.missed: list[str] = []
        self.began = 0.0
        self._say = say
        self._mutant = mutant
        self._database = EmbeddedPostgres(folder / "home")
        self._members: dict[int, Member] = {}
        self._proxies: list[Proxy] = []
        self._organizations = {tenant.name: str(new_id()) for tenant in TENANTS}
        self._settings: Settings | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._cutting: defaultdict[Proxy, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything there is, from its start to its stop."""
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self._database.start)
            stack.callback(self._database.stop)
            stack.callback(self._signal_database, signal.SIGCONT)
            home = self.folder / "home"
            settings = with_secret(Settings(home=home, log_level="ERROR", kafka_bootstrap_servers=None))
            self._settings = changed(settings, database_url=SecretStr(self._database.dsn))
            await migrate(self._settings)
            await self._prepare()
            port = urlsplit(self._database.dsn).port or 0
            for number in range(PROXIED):
                proxy = Proxy(f"{number}", ("127.0.0.1", port), seed=self.schedule.seed)
                self._proxies.append(await stack.enter_async_context(proxy))
            stack.callback(self._end)
            self.began = time.monotonic()
            for number in range(PROCESSES):
                self._start(number, 0)
            await self._until(lambda: all(self._state(each) == 1 for each in self._members.values()), _START_SECONDS)
            self.began = time.monotonic()
            yield

    async def carry_out(self) -> None:
        """Every fault in its time, until the load is over and each has ended."""
        kinds: Mapping[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "kill": self._kill, "pause": self._pause, "partition": self._partition, "change": self._change,
            "crash": self._crash, "freeze": self._freeze, "gone": self._crash,
        }  # fmt: skip
        for fault in self.schedule.faults:
            await asyncio.sleep(max(self.began + fault.at - time.monotonic(), 0))
            self._say(f"  {fault}")
            self._tasks.add(asyncio.create_task(kinds[fault.kind](fault), name=str(fault)))
        await asyncio.sleep(max(self.began + self.schedule.seconds - time.monotonic(), 0))
        for task, result in zip(
            list(self._tasks), await asyncio.gather(*self._tasks, return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException):
                self.missed.append(f"{task.get_name()}: {result!r}")

    async def stop(self) -> None:
        """Let every process give back what it holds; raises when one does not end well."""
        for member in self._members.values():
            member.process.terminate()
        await self._until(
            lambda: all(each.process.poll() is not None for each in self._members.values()), _STOP_SECONDS
        )
        for member in self._members.values():
            if member.process.returncode != 0 or self._state(member) != 2:
                raise RuntimeError(f"process {member.options.process} did not end well; see {self.folder}/*.log")
            self._end_life(member, time.monotonic(), killed=False)

    def calls(self) -> list[Call]:
        """What all processes that ever ran wrote down, by time."""
        found = [
            call
            for life in self.lives
            for call in Journal.read(self._journal(life.process, life.generation), life.process, life.generation)
        ]
        return sorted(found, key=lambda call: call.at)

    async def rows(self) -> list[Row]:
        """What the database says in the end."""
        connection = await asyncpg.connect(self._database.dsn)
        try:
            return [
                Row(each["name"], _key_of(each["subject"]), each["starts"], each["used"], each["admitted"],
                    each["highest_quota"])
                for each in await connection.fetch(_ROWS)
            ]  # fmt: skip
        finally:
            await connection.close()

    # Beginning and ending.

    async def _prepare(self) -> None:
        connection = await asyncpg.connect(self._database.dsn)
        try:
            await require_durable(connection)
            await connection.execute("INSERT INTO ratelimit.plans VALUES ($1, $1, $1, 0)", PLAN)
            for tenant in TENANTS:
                for limit in tenant.limits:
                    await connection.execute(
                        _POLICY, UUID(self._organizations[tenant.name]), limit.name, limit.quota,
                        "requests" if limit.window else "concurrent-requests", limit.window,
                        ["key"] if limit.by_key else ["organization"], limit.mode, limit.on_failure,
                    )  # fmt: skip
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()

    def _start(self, number: int, generation: int) -> None:
        assert self._settings is not None
        dsn = self._database.dsn
        if number < PROXIED:
            parts = urlsplit(dsn)
            dsn = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self._proxies[number].port}"))
        options = Options(
            str(self._journal(number, generation)), number, generation, self.schedule.seed,
            skew_of(self.schedule.seed, number, generation), self.began, self._organizations, self._mutant,
        )  # fmt: skip
        with (self.folder / f"process-{number}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.limiter_worker", json.dumps(asdict(options))],
                env=environment(changed(self._settings, database_url=SecretStr(dsn))),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._members[number] = Member(options, process)

    def _journal(self, number: int, generation: int) -> Path:
        return self.folder / f"journal-{number}-{generation}"

    def _state(self, member: Member) -> int:
        if member.process.poll() not in (None, 0):
            raise RuntimeError(f"process {member.options.process} ended by itself; see {self.folder}/*.log")
        return Journal.state(Path(member.options.journal))

    def _end_life(self, member: Member, at: float, *, killed: bool) -> None:
        self.lives.append(Life(member.options.process, member.options.generation, at, killed))

    async def _until(self, true: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError("the processes take too long")
            await asyncio.sleep(_LOOK_SECONDS)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for member in self._members.values():
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()

    # The kinds of faults.

    @asynccontextmanager
    async def _disturbing(self, fault: Fault, process: int | None) -> AsyncIterator[None]:
        disturbance = Disturbance(fault.kind, process, time.monotonic())
        self.disturbances.append(disturbance)
        yield
        disturbance.ended = time.monotonic()

    async def _kill(self, fault: Fault) -> None:
        number = int(fault.target)
        await self._until(lambda: self._is_up(number), _START_SECONDS)
        member = self._members[number]
        async with self._disturbing(fault, number):
            at = time.monotonic()
            member.process.kill()
            member.process.wait()
            self._end_life(member, at, killed=True)
            await asyncio.sleep(_DOWN_SECONDS)
            self._start(number, member.options.generation + 1)
            await self._until(lambda: self._is_up(number), _START_SECONDS)

    def _is_up(self, number: int) -> bool:
        member = self._members[number]
        return not member.paused and member.process.poll() is None and self._state(member) == 1

    async def _pause(self, fault: Fault) -> None:
        number = int(fault.target)
        await self._until(lambda: self._is_up(number), _START_SECONDS)
        member = self._members[number]
        member.paused = True
        async with self._disturbing(fault, number):
            member.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            member.process.send_signal(signal.SIGCONT)
        member.paused = False

    async def _partition(self, fault: Fault) -> None:
        proxy = self._proxies[int(fault.target)]
        async with self._cutting[proxy], self._disturbing(fault, int(fault.target)):
            if fault.cut == "drop":
                await proxy.disable()
            else:
                for stream in ("upstream", "downstream"):
                    toxicity = 0.5 if fault.cut == "half" else 1.0
                    proxy.add(type="timeout", stream=stream, toxicity=toxicity, attributes={"timeout": 0})
            await asyncio.sleep(fault.seconds)
            proxy.reset()
            await proxy.enable()

    async def _change(self, fault: Fault) -> None:
        organization = next(
            self._organizations[tenant.name]
            for tenant in TENANTS
            if any(limit.name == fault.target for limit in tenant.limits)
        )
        before = time.monotonic()  # of the first attempt: an answer that is lost says nothing
        while True:
            try:
                connection = await asyncpg.connect(self._database.dsn, timeout=3)
                try:
                    await connection.execute(
                        "UPDATE ratelimit.policies SET quota = $3, version = version + 1 "
                        "WHERE organization_id = $1 AND name = $2",
                        UUID(organization), fault.target, fault.quota,
                    )  # fmt: skip
                finally:
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            self.changes.append(Change(fault.target, fault.quota, before, time.monotonic()))
            return

    async def _crash(self, fault: Fault) -> None:
        async with self._disturbing(fault, None):
            assert self._database.pid is not None
            os.kill(self._database.pid, signal.SIGKILL)
            await asyncio.sleep(fault.seconds or _DOWN_SECONDS)
            await asyncio.to_thread(self._database.ensure_running)

    async def _freeze(self, fault: Fault) -> None:
        async with self._disturbing(fault, None):
            self._signal_database(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            self._signal_database(signal.SIGCONT)

    def _signal_database(self, number: signal.Signals) -> None:
        if self._database.pid is None:
            return
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(self._database.pid)
            # The postmaster first: it makes no further process then.
            for each in (server, *server.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(number)


def _key_of(subject: str) -> int:
    return UUID(subject.removeprefix("key:")).int - 1 if subject.startswith("key:") else 0
