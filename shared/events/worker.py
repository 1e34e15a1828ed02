"""A service's background half: its relay, consumers and jobs as supervised tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import structlog

from shared import clock
from shared.db import Database
from shared.events import deadletters, metrics
from shared.events.bus import Bus
from shared.events.consumer import Consumer
from shared.events.failures import Backoff
from shared.events.lease import Lease
from shared.events.partition import topic_of
from shared.events.relay import Relay

RETENTION = timedelta(days=7)
_HOUSEKEEPING_SECONDS = 3600.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """Work done every ``every`` seconds by one worker of the service at a time."""

    name: str
    every: float
    run: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class TaskState:
    """How one supervised task is doing."""

    state: str = "starting"
    restarts: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    group: str
    state: str
    lag: int
    dead_letters: int
    parked_keys: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """For readiness, the health page and the metrics. ``ready`` is false while a task keeps failing."""

    service: str
    ready: bool
    bus: str
    relay_active: bool | None
    """Whether this process has the relay's lease; None for a service that publishes nothing."""
    unsent: int
    oldest_unsent_seconds: float
    consumers: list[ConsumerStatus]
    tasks: dict[str, TaskState] = field(default_factory=dict)


class Worker:
    """What ``services.<x>.app.worker(settings)`` returns. ``relay`` is left out by services that publish nothing.

    Parts are supervised: one that raises is logged once, and started again with a growing delay.
    """

    running: ClassVar[dict[str, Worker]] = {}
    """The started workers of this process by the address of their database, for the service's status."""

    def __init__(
        self,
        database: Database,
        *,
        bus: Bus,
        relay: Relay | None = None,
        consumers: Sequence[Consumer] = (),
        jobs: Sequence[Job] = (),
        retention: timedelta = RETENTION,
    ) -> None:
        self.service = database.service
        self.relay = relay
        self.consumers = list(consumers)
        self._database = database
        self._bus = bus
        self._retention = retention
        self._jobs = [*jobs, Job("housekeeping", _HOUSEKEEPING_SECONDS, self._prune)]
        self._leases: list[Lease] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._states: dict[str, TaskState] = {}

    async def start(self) -> None:
        """Open the connections and start every task. Works while the database or the bus is away."""
        await self._database.open()
        await self._bus.start()
        self.running[self._database.dsn] = self
        if self.relay is not None:
            self._supervise("relay", self.relay.run)
        for consumer in self.consumers:
            self._supervise(f"consumer:{consumer.group}", consumer.run)
            self._supervise(f"redrive:{consumer.group}", consumer.run_redrives)
        for job in self._jobs:
            self._supervise(f"job:{job.name}", self._runner(job))

    async def stop(self, timeout: float = 10.0) -> None:
        """Finish the batches in hand (for at most ``timeout`` seconds), give leases up, close."""
        self.running.pop(self._database.dsn, None)
        for consumer in self.consumers:
            consumer.stop()
        # One that waits to be started again has no batch in hand.
        consuming = [
            task
            for name, task in self._tasks.items()
            if name.startswith("consumer:") and self._states[name].state == "running"
        ]
        if consuming:
            await asyncio.wait(consuming, timeout=timeout)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        releases = [lease.release() for lease in self._leases]
        if self.relay is not None:
            releases.append(self.relay.stop())
        for result in await asyncio.gather(*releases, return_exceptions=True):
            if isinstance(result, Exception):
                _log.info("events_lease_not_released", service=self.service, error=repr(result))
        await self._bus.stop()
        await self._database.close()

    async def status(self) -> WorkerStatus:
        """Measure now: lag of each group, age of the oldest unsent event. Raises when the database is away."""
        oldest = await self.relay.oldest_unsent_seconds() if self.relay else 0.0
        metrics.OUTBOX_AGE.labels(self.service).set(oldest)
        consumers = []
        for consumer in self.consumers:
            lag = sum((await self._bus.lag(consumer.group)).values())
            dead, parked = await deadletters.counts(self._database, consumer.group)
            metrics.LAG.labels(consumer.group).set(lag)
            metrics.DEAD.labels(consumer.group).set(dead)
            consumers.append(ConsumerStatus(consumer.group, consumer.state, lag, dead, parked, consumer.last_error))
        return WorkerStatus(
            service=self.service,
            ready=self.ready,
            bus=self._bus.features.name,
            relay_active=self.relay.active if self.relay else None,
            unsent=await self.relay.unsent() if self.relay else 0,
            oldest_unsent_seconds=oldest,
            consumers=consumers,
            tasks=dict(self._states),
        )

    @property
    def ready(self) -> bool:
        """Every task runs, as far as memory knows (no query)."""
        running = all(state.state == "running" for state in self._states.values())
        return running and all(c.state in ("running", "stopped") for c in self.consumers)

    def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        state = self._states[name] = TaskState()
        self._tasks[name] = asyncio.create_task(self._keep_running(name, run, state), name=f"{self.service}:{name}")

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]], state: TaskState) -> None:
        backoff = Backoff(0.2, 10.0)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            state.state = "running"
            try:
                await run()
            except Exception as error:
                if loop.time() - started > 30:
                    backoff.reset()
                text = repr(error)
                if text != state.last_error:
                    _log.warning("worker_task_failed", service=self.service, task=name, error=text, exc_info=True)
                state.state, state.last_error = "restarting", text
                state.restarts += 1
                await asyncio.sleep(backoff.next())
            else:
                state.state = "stopped"
                return

    def _runner(self, job: Job) -> Callable[[], Awaitable[None]]:
        lease = Lease(self._database, f"job:{job.name}", seconds=max(3 * job.every, 30.0))
        self._leases.append(lease)

        async def run() -> None:
            while True:
                if await lease.hold():
                    await job.run()
                await asyncio.sleep(job.every)

        return run

    async def _prune(self) -> None:
        """Old log entries go once every group has them; inbox rows a day after their events."""
        before: Any = clock.now() - self._retention
        if self.relay is not None:
            await self._bus.prune(topic_of(self.service), before)
        for consumer in self.consumers:
            await consumer.prune(before - timedelta(days=1))
