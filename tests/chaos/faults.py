"""Carries a schedule out on a running platform, and keeps account of what really happened."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psutil

from shared.db import Database
from shared.events.connect import connect_bus
from tests.chaos import collect, witness
from tests.chaos.platform import Platform
from tests.chaos.schedule import Fault, Schedule

_LOOK_SECONDS = 0.2
_ESCALATE_SECONDS = 5.0
"""A point that has not fired by then fires at the next pass."""
_PATIENCE_SECONDS = 10.0
_PAUSE_PATIENCE_SECONDS = 15.0
"""Who has not fallen asleep by then does not any more: nobody would wait for the end of it."""
_BOUNCE_SECONDS = 1.0
_GROWN_UP_SECONDS = 2.0
_WITHOUT_POINTS = ("supervisor", "postgres")
Say = Callable[[str], None]


@dataclass
class Outage:
    """One outage of the broker: when, what had piled up by its end, and how long that took to drain."""

    began: float
    ended: float = 0.0
    backlog: int = 0
    drain_seconds: float | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Account:
    """What happened."""

    kills: list[str] = field(default_factory=list)
    """The names of processes that were killed, and the points where they killed themselves."""
    pauses: list[str] = field(default_factory=list)
    fired: set[str] = field(default_factory=set)
    """Kill points that ended a process."""
    outages: list[Outage] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """Faults that could not be carried out."""


class Plan:
    """The plan file that ``shared.buggify`` looks at, and the log it writes."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}.log")
        self._seed = seed
        self._faults: dict[str, dict[str, Any]] = {}
        self._write()

    def arm(self, fault: Fault, **changes: Any) -> None:
        """Make a point fire, or change how likely it is."""
        self._faults[fault.id] = {"id": fault.id, "point": fault.target, **fault.detail, **changes}
        self._write()

    def disarm(self, fault: Fault | None = None) -> None:
        """Make one fire no more, or all of them."""
        self._faults = {} if fault is None else {i: each for i, each in self._faults.items() if i != fault.id}
        self._write()

    def firing(self, fault: Fault) -> dict[str, Any] | None:
        """When and where it fired, if it did."""
        return next((line for line in self._lines() if line.get("id") == fault.id), None)

    def started(self, pid: int) -> float | None:
        """When a process with kill points had loaded them."""
        return next((line["at"] for line in self._lines() if "started" in line and line["pid"] == pid), None)

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"seed": self._seed, "faults": list(self._faults.values())}))
        partial.replace(self._path)


class Injector:
    """``run`` carries the schedule out; ``heal`` ends whatever is still wrong."""

    def __init__(self, platform: Platform, schedule: Schedule, say: Say) -> None:
        self.account = Account()
        self.plan = Plan(platform.plan, schedule.seed)
        self._platform = platform
        self._schedule = schedule
        self._say = say
        self._stopped: list[psutil.Process] = []
        self._over_at = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._drains: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Begin each fault in its time; returns when the last one has begun."""
        started = time.monotonic()
        kinds: Mapping[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "kill": self._kill, "point": self._point, "pause": self._pause,
            "outage": self._outage, "toxic": self._toxic, "rewind": self._rewind,
        }  # fmt: skip
        for fault in self._schedule.faults:
            await asyncio.sleep(max(started + fault.at - time.monotonic(), 0))
            self._say(str(fault))
            task = asyncio.create_task(kinds[fault.kind](fault), name=str(fault))
            self._tasks.add(task)

    async def heal(self) -> None:
        """Wait for what has its own end, end the rest, and take away every fault."""
        self._over_at = time.monotonic()
        for task, result in zip(
            list(self._tasks), await asyncio.gather(*self._tasks, return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException):
                self.account.missed.append(f"{task.get_name()}: {result!r}")
        self.plan.disarm()
        for process in self._stopped:
            _send(process, signal.SIGCONT)
        for link in self._platform.links.values():
            link.reset()
            await link.enable()

    async def drains(self) -> None:
        """Wait until the backlog of every outage is gone."""
        await asyncio.gather(*self._drains)

    # The kinds of faults.

    async def _kill(self, fault: Fault) -> None:
        if fault.target == "kafka":
            await self._without_broker(_BOUNCE_SECONDS)
            return
        process = await self._living(fault.target)
        if process is None:
            self.account.missed.append(f"{fault}: no such process runs")
        elif _send(process, signal.SIGKILL):
            self.account.kills.append(fault.target)

    async def _living(self, name: str) -> psutil.Process | None:
        """A process of that name that had the time to do something; one that is being started again is waited for."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (found := [each for each in self._platform.find(name) if self._grown(name, each)]):
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(_LOOK_SECONDS)
        return found[int(self._schedule.seed) % len(found)]

    def _grown(self, name: str, process: psutil.Process) -> bool:
        """Whether it has begun its work: killing it while it is loaded shows nothing."""
        with suppress(psutil.NoSuchProcess):
            begun = process.create_time() if name in _WITHOUT_POINTS else self.plan.started(process.pid)
            return begun is not None and time.time() - begun > _GROWN_UP_SECONDS
        return False

    async def _point(self, fault: Fault) -> None:
        self.plan.arm(fault)
        begun, escalated = time.monotonic(), False
        while (firing := self.plan.firing(fault)) is None:
            if not escalated and time.monotonic() - begun > _ESCALATE_SECONDS:
                self.plan.arm(fault, probability=1)
                escalated = True
            last = begun + _PAUSE_PATIENCE_SECONDS if fault.seconds else self._over_at + 2 * _PATIENCE_SECONDS
            if time.monotonic() > last:
                self.plan.disarm(fault)
                self.account.missed.append(f"{fault}: never passed")
                return
            await asyncio.sleep(_LOOK_SECONDS)
        self.plan.disarm(fault)
        self._say(f"          fired   {fault.target} in {firing['process']} ({fault.detail['action']})")
        if fault.detail["action"] == "kill":
            self.account.kills.append(fault.target)
            self.account.fired.add(fault.target)
            return
        with suppress(psutil.NoSuchProcess):
            await self._asleep(psutil.Process(firing["pid"]), f"{firing['process']} at {fault.target}", fault.seconds)

    async def _pause(self, fault: Fault) -> None:
        process = await self._living(fault.target)
        if process is not None and _send(process, signal.SIGSTOP):
            await self._asleep(process, fault.target, fault.seconds)

    async def _asleep(self, process: psutil.Process, name: str, seconds: float) -> None:
        self._stopped.append(process)
        self.account.pauses.append(f"{name} for {seconds:g} s")
        await asyncio.sleep(seconds)
        _send(process, signal.SIGCONT)

    async def _outage(self, fault: Fault) -> None:
        outage = Outage(time.monotonic())
        self.account.outages.append(outage)
        await self._without_broker(fault.seconds)
        outage.ended = time.monotonic()
        self._drains.append(asyncio.create_task(self._measure(outage)))

    async def _without_broker(self, seconds: float) -> None:
        broker = self._platform.broker
        assert broker is not None
        await broker.proxy.disable()
        await asyncio.to_thread(broker.kill)
        self.account.kills.append("kafka")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(broker.start)
        await broker.proxy.enable()

    async def _measure(self, outage: Outage) -> None:
        """How long until what stood in the outboxes at the end of the outage has had its effect everywhere."""
        backlog: list[UUID] | None = None
        while outage.drain_seconds is None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self._platform.dsn, timeout=3)
                try:
                    if backlog is None:
                        backlog = await collect.outbox(connection)
                        outage.backlog = len(backlog)
                    if await collect.handled(connection, backlog):
                        outage.drain_seconds = time.monotonic() - outage.ended
                finally:
                    await connection.close()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _toxic(self, fault: Fault) -> None:
        link = self._platform.links[fault.target]
        toxic = link.add(name=fault.id, **fault.detail)
        await asyncio.sleep(fault.seconds)
        link.remove(toxic.name)

    async def _rewind(self, fault: Fault) -> None:
        """Every event is seen again; no effect may be repeated."""
        database = Database.for_service(self._platform.settings, fault.target)
        bus = connect_bus(self._platform.settings, database)
        await database.open()
        await bus.start()
        try:
            async with asyncio.timeout(2 * _PATIENCE_SECONDS):
                await self._until_moved(lambda: bus.seek(fault.target, witness.TOPICS, "earliest"))
        finally:
            await bus.stop()
            await database.close()

    async def _until_moved(self, seek: Callable[[], Coroutine[Any, Any, None]]) -> None:
        said = ""
        while True:
            try:
                await seek()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                if repr(error) != said:
                    said = repr(error)
                    self._say(f"          again   rewind ({said})")
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether the signal was sent to this very process, and not to one that has its number now."""
    try:
        if process.is_running():
            os.kill(process.pid, number)
            return True
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass
    return False
