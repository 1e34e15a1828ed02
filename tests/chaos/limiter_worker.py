"""One process of a limiter run: a lease client, and tasks that call as often as the run's organisations do.

``python -m tests.chaos.limiter_worker '<options>'``. SIGTERM ends it in an orderly way: everything is given back.
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import uvloop

from shared import logs
from shared.db import Database
from shared.limits.bundle import Bundle
from shared.limits.cells import Cell
from shared.limits.client import Limits
from shared.limits.decision import Decision, Source, Verdict
from shared.limits.policies import Caller
from shared.settings import Settings
from tests.chaos.limiter_load import KEY_SECONDS, OPERATION, PLAN, TENANTS, Journal, Kind, Tenant
from tests.chaos.limiter_mutants import MUTANTS

_TICK_SECONDS = 0.001
_ON_TIME_SECONDS = 0.005
"""A tick that is late by less is no excuse for anything."""
_WRITTEN_LAG_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """``began`` is the monotonic start of the load, ``skew`` what this process' wall clock is off by, in seconds."""

    journal: str
    process: int
    generation: int
    seed: int
    skew: float
    began: float
    organizations: dict[str, str]
    mutant: str = ""


class Ticker:
    """How long this process was late in all, so that a call that waited for the machine accuses nobody else."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._late = 0.0
        self._due = time.monotonic()

    async def run(self) -> None:
        while True:
            self._due = time.monotonic() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            late = now - self._due
            if late > _ON_TIME_SECONDS:
                self._late += late
            if late > _WRITTEN_LAG_SECONDS:
                self._journal.add("second", "lag", "lease", now, now, waited=late)

    def late(self, now: float) -> float:
        """The lateness of all ticks until now, that of one that is overdue included."""
        overdue = now - self._due
        return self._late + (overdue if overdue > _ON_TIME_SECONDS else 0.0)


class Worker:
    """The tasks, and what they write down."""

    def __init__(self, options: Options, limits: Limits, journal: Journal) -> None:
        self._options = options
        self._limits = limits
        self._journal = journal
        self._ticker = Ticker(journal)

    async def run(self) -> None:
        """Until cancelled."""
        dice = Random(f"{self._options.seed}/{self._options.process}/{self._options.generation}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ticker.run())
            for tenant in TENANTS:
                ask = self._ask if tenant.rate else self._occupy
                for _ in range(tenant.tasks):
                    group.create_task(ask(tenant, Random(dice.random())))

    async def _ask(self, tenant: Tenant, dice: Random) -> None:
        while True:
            await asyncio.sleep(dice.expovariate(tenant.rate / tenant.tasks))
            await self._check(tenant, dice.choice(tenant.costs) if tenant.costs else None)

    async def _occupy(self, tenant: Tenant, dice: Random) -> None:
        while True:
            decision = await self._check(tenant, None)
            if not decision.allowed:
                await asyncio.sleep(dice.uniform(0.05, 0.3))
                continue
            await asyncio.sleep(14.0 if dice.random() < 0.02 else dice.uniform(0.02, 0.8))
            now = time.monotonic()
            self._journal.add("concurrent", "ended", "lease", now, now)
            decision.release()

    async def _check(self, tenant: Tenant, cost: int | None) -> Decision:
        key = int((time.monotonic() - self._options.began) / KEY_SECONDS) if tenant.limits[0].by_key else 0
        caller = Caller(UUID(self._options.organizations[tenant.name]), str(UUID(int=key + 1)))
        begun, late = time.monotonic(), self._ticker.late(time.monotonic())
        decision = await self._limits.check(caller, OPERATION, cost)
        now = time.monotonic()
        waited, lag = now - begun, self._ticker.late(now) - late
        for verdict in decision.verdicts:
            kind = _kind(decision, verdict)
            # ``resets_in`` is absolute here, see ``_tell_ends``.
            self._journal.add(
                verdict.policy.name, kind, verdict.source, now, verdict.resets_in,
                key=key, cost=cost or 1, waited=waited, lag=lag,
            )  # fmt: skip
        if not decision.verdicts:
            for limit in tenant.limits:
                self._journal.add(limit.name, "unavailable", "fallback", now, now, key=key, waited=waited, lag=lag)
        return decision


def _kind(decision: Decision, verdict: Verdict) -> Kind:
    if decision.allowed:
        return "admitted"
    if decision.unavailable:
        return "unavailable"
    return "passed" if verdict.allowed else "refused"


def _tell_ends() -> None:
    """Make verdicts carry the moment their window ends: the one of spending is not known any more afterwards."""
    told, spend = Cell.verdict, Bundle.spend

    def verdict(self: Cell, now: float, *, allowed: bool, source: Source) -> Verdict:
        made = told(self, now, allowed=allowed, source=source)
        return made._replace(resets_in=now + made.resets_in)

    def spend_and_tell(self: Bundle, now: float) -> Decision:
        verdicts = spend(self, now).verdicts
        return Decision(True, tuple(each._replace(resets_in=now + each.resets_in) for each in verdicts))

    Cell.verdict, Bundle.spend = verdict, spend_and_tell  # type: ignore[method-assign]


def _skew(seconds: float) -> None:
    """Put this process' wall clock forward or back; nothing about limits may depend on it."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)


async def _serve(options: Options) -> None:
    settings = Settings()
    logs.configure(settings)
    database = Database.for_service(settings, "gateway")
    await database.open()
    limits = Limits(database, schema="ratelimit", default_plan=PLAN)
    await limits.start()
    journal = Journal(Path(options.journal))
    journal.say("ready")
    running = asyncio.create_task(Worker(options, limits, journal).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()
    await limits.stop()
    journal.say("stopped")
    await database.close()


def main(given: dict[str, Any]) -> None:
    """Prepare this process for being measured, and run it."""
    options = Options(**given)
    _skew(options.skew)
    if options.mutant:
        MUTANTS[options.mutant]()
    _tell_ends()
    uvloop.run(_serve(options))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
