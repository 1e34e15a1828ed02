"""Part b of a gateway run: what is still answered when three times as much is asked for as can be answered.

Load and probes are open loops: they ask when it is time to, whatever the answers take, and times are counted from then.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import psutil

from tests.bench.gateway_load import Caller
from tests.bench.openloop import Answer, Generator
from tests.chaos.gateway_client import plain
from tests.chaos.gateway_load import CONTACTS, contact
from tests.chaos.gateway_probes import RATES, Probe, probing
from tests.chaos.gateway_system import Say, System

GOOD_SECONDS = 1.0
"""An answer that comes later is for nobody any more: as long as a request may wait for its turn."""
KEEPS_UP = 0.95
TIMES = 3.0
_FIRST_RATE, _FASTER, _HIGHEST_RATE = 60.0, 1.4, 5_000.0
_STEP_SECONDS, _BETWEEN_SECONDS = 2.5, 1.0
_SECONDS = 10.0
_CONNECTIONS = 1_000
"""To each gateway: more than are ever answered late, so that it is the platform that refuses and not the generator."""
_WRITES_EVERY = 5
_REFUSALS = frozenset({"503 overloaded", "429 quota_exceeded", "429 too_many_requests"})


@dataclass
class Tally:
    """What came of one rate."""

    rate: float
    seconds: float
    good: int = 0
    late: int = 0
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Answers a second that were worth something."""
        return self.good / self.seconds

    def seen(self, answer: Answer, seconds: float) -> None:
        """One answer."""
        status, head, content = answer
        if status < 300:
            self.good += seconds <= GOOD_SECONDS
            self.late += seconds > GOOD_SECONDS
            return
        said = f"{status} {_code(content)}"
        if said in _REFUSALS and b"\r\nretry-after:" in head.lower():
            self.refused += 1
        else:
            self.wrong[said] += 1


@dataclass
class Overload:
    """What part b came to."""

    maximum: float
    tally: Tally
    probes: dict[str, Probe]
    others: float = 0.0
    """Cores that were used by what is not part of the run: where they are many, the figures say little."""

    @property
    def offered(self) -> int:
        return int(self.tally.rate * self.tally.seconds)

    @property
    def share(self) -> float:
        """Goodput under overload of the maximum."""
        return self.tally.goodput / self.maximum if self.maximum else 0.0

    @property
    def refused(self) -> int:
        return self.tally.refused

    @property
    def wrong(self) -> int:
        """Refusals other than those that are meant."""
        return self.tally.wrong.total()

    def __str__(self) -> str:
        tally = self.tally
        wrong = f"; WRONG: {dict(tally.wrong)}" if tally.wrong else ""
        return (
            f"  b: {self.maximum:.0f}/s at most; of {tally.rate:.0f}/s {tally.goodput:.0f}/s were good"
            f" ({self.share:.0%}), {tally.late} late, {tally.refused} refused{wrong};"
            f" {'; '.join(map(str, self.probes.values()))}; others used {self.others:.1f} cores"
        )


def _code(content: bytes) -> str:
    try:
        return str(json.loads(content)["code"])
    except (ValueError, LookupError, TypeError):
        return "?"


async def overload(system: System, say: Say) -> Overload:
    """Find the maximum, then offer ``TIMES`` as much."""
    async with AsyncExitStack() as stack:
        load = _Load(system.ports, system.plain)
        stack.push_async_callback(load.close)
        await load.offer(_FIRST_RATE, _STEP_SECONDS)  # whatever is done once is done now
        before = await (await stack.enter_async_context(probing(system, _SECONDS))).ask()
        maximum = await _maximum(load, say)
        await asyncio.sleep(_BETWEEN_SECONDS)
        prober = await stack.enter_async_context(probing(system, _SECONDS - 1))
        machine = Machine(system)
        tally, under = await asyncio.gather(load.offer(TIMES * maximum, _SECONDS), prober.ask())
        probes = {name: Probe(name, before[name].times, under[name].times, under[name].failed) for name in RATES}
        return Overload(maximum, tally, probes, machine.others())


async def _maximum(load: "_Load", say: Say) -> float:
    """The goodput at the highest rate that is kept up with; between that and the next one is looked once more."""
    best, rate, found = 0.0, _FIRST_RATE, 0.0
    while rate < _HIGHEST_RATE and (goodput := await _kept_up(load, rate, say)):
        best, found, rate = rate, goodput, rate * _FASTER
    return await _kept_up(load, math.sqrt(best * rate), say) or found


async def _kept_up(load: "_Load", rate: float, say: Say) -> float:
    """The goodput at a rate that is kept up with, otherwise 0. Tried twice: a machine may have had something else to do."""
    for _ in range(2):
        tally = await load.offer(rate, _STEP_SECONDS)
        say(f"  {rate:.0f}/s offered, {tally.goodput:.0f}/s good, {tally.refused} refused, {tally.late} late")
        await asyncio.sleep(_BETWEEN_SECONDS)
        if tally.goodput >= KEEPS_UP * rate:
            return tally.goodput
    return 0.0


class Machine:
    """How many cores are used by what is neither the system nor its load, from now on."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = time.monotonic()
        self._before = self._spent()

    def others(self) -> float:
        """Cores, on average."""
        return max(self._spent() - self._before, 0) / (time.monotonic() - self._began)

    def _spent(self) -> float:
        idle = {"idle", "iowait", "guest", "guest_nice"}
        all_together = sum(value for name, value in psutil.cpu_times()._asdict().items() if name not in idle)
        ours = psutil.Process().cpu_times()
        return float(all_together - ours.user - ours.system - sum(map(_seconds, self._system.processes())))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


class _Load:
    """The same rate for every gateway; each fifth request writes."""

    def __init__(self, ports: Sequence[int], caller: Caller) -> None:
        self._tally = Tally(0, 0)
        self._generators = [Generator(port, _CONNECTIONS, seen=self._seen) for port in ports]
        self._read = plain("GET", f"{CONTACTS}?limit=20", caller)
        self._write = plain("POST", CONTACTS, caller, contact("under load"))

    async def offer(self, rate: float, seconds: float) -> Tally:
        """So many requests a second for so long."""
        self._tally = tally = Tally(rate, seconds)
        each = rate / len(self._generators)
        results = await asyncio.gather(
            *(generator.run(self._make, each, int(each * seconds)) for generator in self._generators)
        )
        unanswered = sum(int(each * seconds) - len(result.latencies) for result in results)
        if unanswered:
            tally.wrong["no answer"] += unanswered
        return tally

    async def close(self) -> None:
        for generator in self._generators:
            await generator.close()

    def _make(self, number: int) -> bytes:
        return self._read if number % _WRITES_EVERY else self._write

    def _seen(self, answer: Answer, seconds: float) -> None:
        self._tally.seen(answer, seconds)
