"""Consumers: a run of events of one organisation, in order, has its effect in one transaction.

Each transaction sets the organisation, claims the events in the inbox, calls the handler, commits; the
offset follows. A repeated event finds its inbox row and does nothing, so the effect is exactly once,
whatever was killed or taken over in between. A run that fails is halved until the event at fault stands
alone, and grows again behind it. What still fails becomes a dead letter, and later events of its key are
parked behind it, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import structlog

from shared.buggify import buggify
from shared.db import Database
from shared.events import deadletters, metrics, wakeups
from shared.events.bus import Bus, Fenced, Received, Subscription, WrongSetup
from shared.events.effects import ANY_TYPE, Effects
from shared.events.effects import Handler as Handler
from shared.events.failures import Backoff, Circuit, CircuitOpen, Hung, is_outage, is_passing
from shared.events.tracing import Spans

_REDRIVE_SECONDS = 5.0
_SUSPECT_FOR_SECONDS = 60.0
_UNDERSTOOD_SECONDS = 60.0
# Hashed, not joined: a plan that looked through the dead letters for each row would not end in time.
_PRUNE_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM inbox WHERE consumer = $1 AND processed_at < $2 AND event_id NOT IN (
    SELECT event_id FROM dead_letters WHERE consumer = $1 AND event_id IS NOT NULL)
  LIMIT 10000))
"""
_SLACK = timedelta(days=1)
"""Clocks of brokers and databases differ by less."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a consumer batches and retries; the defaults suit everything that writes to PostgreSQL."""

    run_size: int = 100
    batch_size: int = 4000
    concurrency: int = 2
    attempts: int = 5
    first_delay: float = 0.05
    longest_delay: float = 0.5
    patience: float = 1.0
    """Seconds within which one organisation's failing events of a batch are tried again in place."""
    suspect_seconds: float = 1.0
    """What the handler has for an organisation's runs for a minute after it hung over one; half after each more."""


@dataclass(slots=True)
class _Lane:
    """One organisation's events of a batch; the first ``done`` have their effect or their place."""

    organization: UUID
    events: list[Received]
    size: int
    done: int = 0
    patient_until: float = 0.0
    seconds: float | None = None
    """What the handler has for a run, once it hung over one."""
    alone_until: int = 0
    """Events before this one are handled alone: it hung over one of them."""


class Consumer:
    """One member of consumer group ``group`` (named ``<service>.<purpose>``) on ``topics``.

    ``handlers`` is one handler for all events, or a mapping from event type (``*`` for the rest);
    types without a handler are passed over. A handler gets events of one organisation, in order, in an
    open unit of work; it raises ``Retry`` for what may pass, ``InvalidEvent`` for what never will.
    ``understands`` is the newest schema version of each type that the handlers read. A newer one, and a type
    that is neither there nor has a handler of its own, becomes a dead letter for a newer release to handle.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        group: str,
        topics: Sequence[str],
        handlers: Handler | Mapping[str, Handler],
        *,
        start: Literal["earliest", "latest"] = "earliest",
        tuning: Tuning | None = None,
        circuit: Circuit | None = None,
        understands: Mapping[str, int] | None = None,
    ) -> None:
        self.group = group
        self.topics = list(topics)
        self.state: Literal["stopped", "running", "waiting", "circuit_open"] = "stopped"
        self.last_error: str | None = None
        self.refused: str | None = None
        """Why the bus does not let this member in, while it does not: what somebody has to change there."""
        self.circuit = circuit or Circuit()
        self._database = database
        self._bus = bus
        self._start = start
        self._tuning = tuning or Tuning()
        self._understands = understands
        by_type = handlers if isinstance(handlers, Mapping) else {ANY_TYPE: handlers}
        self._effects = Effects(database, group, by_type, understands, Spans(database, bus.features.name))
        self._hung: dict[UUID, float] = {}
        self._stopping = asyncio.Event()
        self._fetching: asyncio.Future[Sequence[Received]] | None = None
        self._redrives = wakeups.subscribe(deadletters.redrive_signal(group))

    def stop(self) -> None:
        """End ``run`` after the batch in hand; cancel the task to end it sooner."""
        self._stopping.set()
        if self._fetching is not None:
            self._fetching.cancel()

    async def run(self) -> None:
        """Consume until stopped. An outage is waited out here, with the membership kept."""
        self._stopping.clear()
        backoff = Backoff(0.1, 5.0)
        try:
            subscription = await self._bus.subscribe(self.group, self.topics, start=self._start)
        except WrongSetup as error:
            self.refused = str(error)
            raise
        try:
            while not self._stopping.is_set():
                try:
                    batch = await self._fetch(subscription)
                    self.state, self.refused = "running", None
                    if batch:
                        await self.process(batch)
                        buggify("consumer.effect")
                        await subscription.commit(batch)
                        buggify("consumer.offset")
                    metrics.CIRCUIT.labels(self.group).set(self.circuit.state != "closed")
                    backoff.reset()
                except Fenced:
                    _log.info("events_partitions_lost", group=self.group)
                except Exception as error:
                    await self._pause(error, backoff)
        finally:
            self.state = "stopped"
            await subscription.close()

    async def run_redrives(self) -> None:
        """Serve ``redrive`` requests until cancelled; a task of its own beside ``run``.

        What was put aside as unsupported and no longer is gets asked for here, again from time to time:
        while a release is rolled out, a member of the old one may be the first to serve the request.
        """
        due = 0.0
        while True:
            self._redrives.clear()
            if self._understands is not None and time.monotonic() >= due:
                due = time.monotonic() + _UNDERSTOOD_SECONDS
                await deadletters.redrive_understood(self._database, self.group, self._understands)
            await self.redrive_requested()
            await self._redrives.wait(_REDRIVE_SECONDS)

    async def process(self, batch: Sequence[Received]) -> None:
        """Give every event of a batch its effect or its place among the dead letters.

        Organisations go in parallel and take turns, each one's events in order. Raises on an outage and
        ``CircuitOpen``; the batch may then be processed again from its beginning.
        """
        lanes: dict[UUID, _Lane] = {}
        for each in batch:
            if each.event is None or self._effects.handler(each.event.type) is not None:
                organization = each.organization_id
                if organization not in lanes:
                    lanes[organization] = self._lane(organization)
                lanes[organization].events.append(each)
        waiting = deque(lanes.values())
        while waiting:
            stopped, refused = await self._take_turns(waiting)
            # The circuit opened over some organisations, and then others showed that the fault is not common.
            if stopped is not None and self.circuit.state != "closed":
                raise stopped
            waiting = deque(refused)

    def _lane(self, organization: UUID) -> _Lane:
        hung = self._hung.get(organization, -math.inf) > time.monotonic() - _SUSPECT_FOR_SECONDS
        seconds = self._tuning.suspect_seconds if hung else None
        return _Lane(organization, [], self._tuning.run_size, seconds=seconds)

    async def _take_turns(self, lanes: deque[_Lane]) -> tuple[CircuitOpen | None, list[_Lane]]:
        errors: list[Exception] = []
        stopped: list[CircuitOpen] = []
        refused: list[_Lane] = []

        async def work() -> None:
            while lanes and not errors:  # once a lane met an outage: finish what runs, begin nothing
                lane = lanes.popleft()
                try:
                    await self._advance(lane)
                except CircuitOpen as error:
                    stopped.append(error)
                    refused.append(lane)
                except Exception as error:
                    errors.append(error)
                else:
                    if lane.done < len(lane.events):
                        lanes.append(lane)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._tuning.concurrency, len(lanes))):
                group.create_task(work())
        if errors:
            raise errors[0]
        return (stopped[0] if stopped else None), refused

    async def rehearse(self, run: Sequence[Received]) -> list[str | None]:
        """What handling events of one organisation would come to, by event: its error, or None. Nothing is kept."""
        return await self._effects.rehearse(run[0].organization_id, run)

    async def redrive_requested(self) -> int:
        """Handle the dead letters somebody asked for, in order within each key; how many succeeded."""
        done = 0
        for key in await deadletters.requested_keys(self._database, self.group):
            while await self._effects.redrive_first(key):
                done += 1
        return done

    async def prune(self, older_than: datetime) -> None:
        """Forget inbox rows of events that no log holds any more: read again, they would have their effect again."""
        held_since = await self._bus.oldest(self.topics)
        before = min(older_than, held_since or older_than) - _SLACK
        while await self._database.pool.execute(_PRUNE_INBOX, self.group, before) != "DELETE 0":
            pass

    async def _fetch(self, subscription: Subscription) -> Sequence[Received]:
        self._fetching = asyncio.ensure_future(subscription.fetch(self._tuning.batch_size, wakeups.POLL_SECONDS))
        try:
            return await self._fetching
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return []  # stop() ended the wait; we were not cancelled ourselves

    async def _pause(self, error: Exception, backoff: Backoff) -> None:
        text = repr(error)
        stopped = isinstance(error, CircuitOpen)
        if text != self.last_error:
            _log.warning("events_consumer_paused", group=self.group, error=text, circuit_open=stopped)
        self.last_error = text
        self.refused = str(error) if isinstance(error, WrongSetup) else None
        self.state = "circuit_open" if stopped else "waiting"
        metrics.CIRCUIT.labels(self.group).set(self.circuit.state != "closed")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self.circuit.probe() if stopped else backoff.next())

    async def _advance(self, lane: _Lane) -> None:
        """One run of a lane: its effect, or less of it next time, or the end of a single event's chances."""
        run = lane.events[lane.done : lane.done + (lane.size if lane.done >= lane.alone_until else 1)]
        try:
            handled = await self._effects.apply(lane.organization, run, lane.seconds)
        except Exception as error:
            if is_outage(error):
                raise
            self._suspect(lane, error, len(run))
            if len(run) > 1:
                lane.size = len(run) // 2
                return
            handled = await self._insist(lane, run[0], error)
        else:
            lane.size = min(lane.size * 2, self._tuning.run_size)
        if handled:
            self.circuit.succeeded(handled, lane.organization)
        lane.done += len(run)

    def _suspect(self, lane: _Lane, error: Exception, count: int) -> None:
        """Halving a run that hangs would cost the others its whole time again and again: go event by event, quickly."""
        if isinstance(error, Hung):
            least = self._tuning.suspect_seconds / 10
            lane.seconds = self._tuning.suspect_seconds if lane.seconds is None else max(lane.seconds / 2, least)
            lane.alone_until = max(lane.alone_until, lane.done + count)
            now = time.monotonic()
            self._hung = {each: at for each, at in self._hung.items() if at > now - _SUSPECT_FOR_SECONDS}
            self._hung[lane.organization] = now

    async def _insist(self, lane: _Lane, received: Received, failure: Exception) -> int:
        """Try a failing event again in place while that may help, then put it aside; how many were handled."""
        clock, backoff = asyncio.get_running_loop(), Backoff(self._tuning.first_delay, self._tuning.longest_delay)
        lane.patient_until = lane.patient_until or clock.time() + self._tuning.patience
        attempts = 1
        while is_passing(failure) and attempts < self._tuning.attempts and self.circuit.state == "closed":
            delay = backoff.next()
            if isinstance(failure, Hung) or clock.time() + delay > lane.patient_until:
                break
            await asyncio.sleep(delay)
            attempts += 1
            metrics.RETRIES.labels(self.group).inc()
            try:
                return await self._effects.apply(lane.organization, [received], lane.seconds)
            except Exception as error:
                if is_outage(error):
                    raise
                self._suspect(lane, error, 1)
                failure = error
        self.last_error = repr(failure)
        self.circuit.failed(lane.organization, passing=is_passing(failure))
        await self._effects.put_aside(lane.organization, received, failure, attempts)
        return 0
