"""A service's background half: its relay, consumers and jobs as supervised tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

import structlog

from shared import clock
from shared.db import Database
from shared.db.database import UNAVAILABLE
from shared.errors import ServiceUnavailable
from shared.events import deadletters, metrics
from shared.events.bus import AtomicRelay, Bus, BusAway, WrongSetup
from shared.events.consumer import Consumer
from shared.events.failures import Backoff, is_outage
from shared.events.lease import Lease
from shared.events.partition import topic_of
from shared.events.relay import Relay
from shared.events.wakeups import Post

STOP_SECONDS = 5.0
_HOUSEKEEPING_SECONDS = 3600.0
_REFRESH_SECONDS = 10.0
_BUS_SECONDS = 0.8
"""How long a status waits for the bus; whoever asks for it wants it now."""
_BUS_STOP_SECONDS = 2.0
_RELEASE_SECONDS = 1.0
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
    """One group. ``state`` is ``elsewhere`` where its tasks run in another process; ``lag`` is None while unknown."""

    group: str
    state: str
    lag: int | None
    dead_letters: int
    parked_keys: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """For readiness, the health page and the metrics. ``ready`` is false while a task keeps failing."""

    service: str
    ready: bool
    bus: str
    bus_error: str | None
    """Why events cannot pass through the bus; None when they can."""
    bus_reached: bool
    """Whether it answers: then ``bus_error`` says what is not as events need it."""
    relay_active: bool | None
    """Whether this process has the relay's lease; None for a service that publishes nothing."""
    unsent: int
    oldest_unsent_seconds: float
    consumers: list[ConsumerStatus]
    tasks: dict[str, TaskState] = field(default_factory=dict)


class Worker:
    """What ``services.<x>.app.worker(settings)`` returns. ``relay`` is left out by services that publish nothing.

    Parts are supervised: one that raises is logged once, and started again with a growing delay. A process that
    only serves the API calls ``observe`` in place of ``start``.
    """

    running: ClassVar[dict[str, Worker]] = {}
    """The workers of this process, started or observing, by the address of their database: for the status."""

    _without_bus: ClassVar[dict[Worker, str]] = {}

    def __init__(
        self,
        database: Database,
        *,
        bus: Bus,
        relay: Relay | None = None,
        consumers: Sequence[Consumer] = (),
        jobs: Sequence[Job] = (),
    ) -> None:
        self.service = database.service
        self.relay = relay
        self.consumers = list(consumers)
        self._database = database
        self._bus = bus
        self._retention = timedelta(days=database.settings.event_retention_days)
        self._jobs = [*jobs, Job("housekeeping", _HOUSEKEEPING_SECONDS, self._prune)]
        self._leases: list[Lease] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._states: dict[str, TaskState] = {}
        self._lags: dict[str, int] = {}
        self._bus_error: Exception | None = None
        self._looking: asyncio.Task[None] | None = None
        self._post: Post | None = None

    async def observe(self) -> None:
        """Open the connections and run no task: for the status, and to wake the worker in another process."""
        await self._database.open()
        self._post = Post.open(self._database)
        await self._bus.start()
        self.running[self._database.dsn] = self

    async def start(self) -> None:
        """Open the connections and start every task. Works while the database or the bus is away."""
        await self.observe()
        if self.relay is not None:
            self._supervise("relay", self.relay.run)
        for consumer in self.consumers:
            self._supervise(f"consumer:{consumer.group}", consumer.run)
            self._supervise(f"redrive:{consumer.group}", consumer.run_redrives)
        for job in self._jobs:
            self._supervise(f"job:{job.name}", self._runner(job))
        self._supervise("gauges", self._refresh)

    async def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Finish the batches in hand (for at most ``timeout`` seconds), give leases up, close."""
        self.running.pop(self._database.dsn, None)
        self._without_bus.pop(self, None)
        for consumer in self.consumers:
            consumer.stop()
        if self.relay is not None:
            self.relay.finish()
        # One that waits to be started again has no batch in hand.
        finishing = [
            task
            for name, task in self._tasks.items()
            if name.startswith(("consumer:", "relay")) and self._states[name].state == "running"
        ]
        if finishing:
            await asyncio.wait(finishing, timeout=timeout)
        tasks = {*self._tasks.values(), *([self._looking] if self._looking else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            # Not gathered: a statement that is cancelled waits for a database that may be away.
            await asyncio.wait(tasks, timeout=_RELEASE_SECONDS)
        self._tasks.clear()
        await self._give_up()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._bus.stop(), _BUS_STOP_SECONDS)
        if self._post is not None:
            await self._post.close()
        await self._database.close()

    async def _give_up(self) -> None:
        releases = [lease.release() for lease in self._leases]
        if self.relay is not None:
            releases.append(self.relay.stop())
        # A lease that cannot be given up runs out by itself.
        bounded = [asyncio.wait_for(each, _RELEASE_SECONDS) for each in releases]
        for result in await asyncio.gather(*bounded, return_exceptions=True):
            if isinstance(result, Exception):
                _log.info("events_lease_not_released", service=self.service, error=repr(result))

    async def status(self) -> WorkerStatus:
        """Measure now: lag of each group, age of the oldest unsent event.

        Raises when the database is away. A bus that is away, or set up wrong, is said in ``bus_error``.
        """
        await self._look_at_bus()
        oldest = await self.relay.oldest_unsent_seconds() if self.relay else 0.0
        metrics.OUTBOX_AGE.labels(self.service).set(oldest)
        consumers = []
        for consumer in self.consumers:
            group, lag = consumer.group, None if self._bus_error else self._lags.get(consumer.group)
            dead, parked = await deadletters.counts(self._database, group)
            if lag is not None:
                metrics.LAG.labels(group).set(lag)
            metrics.DEAD.labels(group).set(dead)
            state = consumer.state if self._tasks else "elsewhere"
            if state == "stopped" and self._states[f"consumer:{group}"].state != "stopped":
                state = "waiting"  # it is about to join, or to try that again
            consumers.append(ConsumerStatus(group, state, lag, dead, parked, consumer.last_error))
        return WorkerStatus(
            service=self.service,
            ready=self.ready,
            bus=self._bus.features.name,
            bus_error=str(self._bus_error) or repr(self._bus_error) if self._bus_error else None,
            bus_reached=self._bus_error is None or isinstance(self._bus_error, WrongSetup),
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
                if isinstance(error, (BusAway, WrongSetup)):
                    self._note_bus(error)
                elif text != state.last_error:
                    trace = not is_outage(error)
                    _log.warning("worker_task_failed", service=self.service, task=name, error=text, exc_info=trace)
                state.state, state.last_error = "restarting", text
                state.restarts += 1
                await asyncio.sleep(backoff.next())
            else:
                state.state = "stopped"
                return

    async def _refresh(self) -> None:
        while True:
            with contextlib.suppress(ServiceUnavailable, *UNAVAILABLE):
                await self.status()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _look_at_bus(self) -> None:
        """Each group's lag, or why it cannot be had. A bus that takes its time is left as it was last known."""
        if isinstance(self._bus, AtomicRelay):
            await self._measure()  # it lives in the database: when that is away, this raises like all the rest
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._try_bus(), name=f"{self.service}:look-at-bus")
        await asyncio.wait({self._looking}, timeout=_BUS_SECONDS)

    async def _try_bus(self) -> None:
        try:
            await self._measure()
        except Exception as error:
            self._note_bus(error)
        else:
            refused = next((each.refused for each in self.consumers if each.refused), None)
            self._note_bus(WrongSetup(refused) if refused else None)

    async def _measure(self) -> None:
        # A service without consumers asks for a group nobody is in, to hear whether anybody answers.
        for group in [consumer.group for consumer in self.consumers] or [self.service]:
            self._lags[group] = sum((await self._bus.lag(group)).values())
        topics = {topic for consumer in self.consumers for topic in consumer.topics}
        await self._bus.check(sorted(topics | ({self.relay.topic} if self.relay else set())))

    def _note_bus(self, error: Exception | None) -> None:
        """Remember whether events can pass, and say it once for all workers of the process."""
        name, without = self._bus.features.name, self._without_bus
        before, self._bus_error = dict(without), error
        without.pop(self, None)
        if error is not None:
            # What has to be mended is said in each case; how exactly nobody answers is not.
            without[self] = str(error) if isinstance(error, WrongSetup) else ""
            if without[self] not in before.values():
                text = f"Events cannot pass through the bus; they wait in the outboxes until they can. {error}"
                _log.warning("bus_away", bus=name, message=text)
        elif before and not without:
            _log.warning("bus_back", bus=name, message="Events pass through the bus again.")

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
        """Old log entries go once every group has them; inbox rows a day after the log has lost their events."""
        before = clock.now() - self._retention
        with contextlib.suppress(BusAway, WrongSetup):  # what cannot be known to be gone is kept until the next time
            if self.relay is not None:
                while await self._bus.prune(topic_of(self.service), before):
                    pass
            for consumer in self.consumers:
                await consumer.prune(before)
