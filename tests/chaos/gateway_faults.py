"""Carries a schedule out on a running system, and keeps account of what really happened."""

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from deploy.postgres import stop_postmaster
from tests.bench.gateway_load import Caller
from tests.chaos.gateway_client import Client, signed
from tests.chaos.gateway_history import Outage
from tests.chaos.gateway_load import CONTACTS, contact
from tests.chaos.gateway_schedule import Fault, Kind, Schedule
from tests.chaos.gateway_system import Member, Say, System

RECOVERY_SECONDS, NEVER_SECONDS = 5.0, 1_000.0
_DOWN_SECONDS = 0.3
"""How long what was killed stays away."""
_LOOK_SECONDS = 0.5
_SLOW_KB = 60
"""A second, for answers that are to be reset while they come."""
_PROBE_SECONDS = 0.1


class Injector:
    """``run`` carries the schedule out; ``restarted`` is called whenever somebody may have forgotten something."""

    def __init__(self, system: System, schedule: Schedule, say: Say, restarted: Callable[[], None]) -> None:
        self.happened: Counter[Kind] = Counter()
        self.outages: list[Outage] = []
        self.missed: list[str] = []
        self.began = self.ended = 0.0
        """When the load began and when the last fault was over, in monotonic seconds."""
        self._system = system
        self._schedule = schedule
        self._say = say
        self._restarted = restarted
        self._alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> None:
        """Every fault in its time, until each has ended."""
        kinds: Mapping[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "kill": self._kill, "crash": self._crash, "pause": self._pause, "partition": self._partition,
            "delay": self._delay, "cut": self._cut, "snap": self._snap,
        }  # fmt: skip
        self.began = began = time.monotonic()
        looking = asyncio.create_task(self._look_on())
        tasks: list[asyncio.Task[None]] = []
        for fault in self._schedule.faults:
            await asyncio.sleep(max(began + fault.at - time.monotonic(), 0))
            self._say(f"  {fault}")
            tasks.append(asyncio.create_task(self._one(fault, kinds[fault.kind]), name=str(fault)))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            if isinstance(result, BaseException):
                self.missed.append(f"{task.get_name()}: {result!r}")
        self.ended = time.monotonic()
        looking.cancel()

    async def _one(self, fault: Fault, make: Callable[[Fault], Coroutine[Any, Any, None]]) -> None:
        """One fault at a time for each target: a process that is down can neither be killed nor paused."""
        async with self._alone[fault.target]:
            await make(fault)
            self.happened[fault.kind] += 1

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.gather(*(self._system.look(number) for number in range(len(self._system.gateways))))

    # The kinds of faults.

    async def _kill(self, fault: Fault) -> None:
        member = self._system[fault.target]
        if member.service == "gateway":
            await self._system.look(self._system.gateways.index(member))
        assert member.process is not None
        member.process.kill()
        member.process.wait()
        await asyncio.sleep(_DOWN_SECONDS)
        self._system.start(member)
        if member.service == "gateway":
            self._restarted()
        await self._system.until_up(member)

    async def _crash(self, _fault: Fault) -> None:
        database = self._system.database
        assert database.pid is not None
        began = time.time()
        await asyncio.to_thread(stop_postmaster, database.pid, mode="immediate")
        await asyncio.sleep(_DOWN_SECONDS)
        await asyncio.to_thread(database.ensure_running)
        self.outages.append(Outage(began, time.time()))
        self._restarted()

    async def _pause(self, fault: Fault) -> None:
        member: Member = self._system[fault.target]
        assert member.process is not None
        member.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            member.process.send_signal(signal.SIGCONT)

    async def _partition(self, fault: Fault) -> None:
        proxy = self._system.proxies[int(fault.target)]
        if fault.how == "drop":
            await proxy.disable()
        else:
            for stream in ("upstream", "downstream"):
                proxy.add(type="timeout", stream=stream, attributes={"timeout": 0})
        await asyncio.sleep(fault.seconds)
        # Nothing that was swallowed may be missing in the middle of a connection that goes on: TCP does not do that.
        await proxy.disable()
        proxy.reset()
        await proxy.enable()

    async def _delay(self, fault: Fault) -> None:
        proxy = self._system.proxies[int(fault.target)]
        proxy.add(type="latency", attributes={"latency": float(fault.how), "jitter": float(fault.how) / 3})
        await asyncio.sleep(fault.seconds)
        proxy.reset()

    async def _cut(self, fault: Fault) -> None:
        proxy = self._system.proxies[int(fault.target)]
        # Not in every connection, or the breaker would leave nothing to cut.
        proxy.add(type="limit_data", toxicity=0.5, attributes={"bytes": int(fault.how)})
        await asyncio.sleep(fault.seconds)
        proxy.reset()

    async def _snap(self, fault: Fault) -> None:
        proxy = self._system.proxies[int(fault.target)]
        proxy.add(type="bandwidth", attributes={"rate": _SLOW_KB})
        await asyncio.sleep(fault.seconds)
        await proxy.disable()
        proxy.reset()
        await proxy.enable()


async def recovery(ports: list[int], caller: Caller, seed: int, since: float) -> float:
    """Seconds from ``since`` until every gateway has answered a read and a write."""
    found = await asyncio.gather(
        *(_recovered(Client(port, number), caller, seed, since) for number, port in enumerate(ports))
    )
    return max(found)


async def _recovered(client: Client, caller: Caller, seed: int, since: float) -> float:
    key = f"recovered-{seed}-{client.gateway}"
    write = signed("POST", CONTACTS, caller, contact(key), key=key)
    while time.monotonic() - since < 6 * RECOVERY_SECONDS:
        read = await client.ask(signed("GET", f"{CONTACTS}?limit=1", caller))
        if read.acknowledged and (await client.ask(write)).acknowledged:
            client.close()
            return time.monotonic() - since
        await asyncio.sleep(_PROBE_SECONDS)
    client.close()
    return NEVER_SECONDS
