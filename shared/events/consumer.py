"""Consumers: a run of events of one organisation, in order, has its effect in one transaction.

Each transaction sets the organisation, claims the events in the inbox, calls the handler, commits; the
offset follows. A repeated event finds its inbox row and does nothing, so the effect is exactly once,
whatever was killed or taken over in between. A run that fails is redone one event at a time. An event
that still fails becomes a dead letter, and later events of its key are parked behind it, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal
from uuid import UUID

import structlog

from shared.auth import Principal
from shared.buggify import buggify
from shared.db import Database, Session
from shared.events import deadletters, metrics, wakeups
from shared.events.bus import Bus, Fenced, Received, Subscription
from shared.events.envelope import CloudEvent, InvalidEvent
from shared.events.failures import Backoff, Circuit, CircuitOpen, is_outage, is_passing
from shared.logs import request_context

Handler = Callable[[Session, Sequence[CloudEvent]], Awaitable[None]]
SpanHook = Callable[[str, Sequence[CloudEvent]], contextlib.AbstractContextManager[Any]]
ANY_TYPE = "*"
_REDRIVE_SECONDS = 5.0
# New inbox rows and parked keys in one round trip. The ids are sorted, so that two members who meet over
# the same events (one of them paused and replaced) wait for each other and do not deadlock.
_ADMIT = """
WITH fresh AS (
  INSERT INTO inbox (consumer, event_id, organization_id)
  SELECT $1, id, $2 FROM unnest($3::uuid[]) AS id ORDER BY id
  ON CONFLICT DO NOTHING RETURNING event_id
)
SELECT event_id, NULL AS key FROM fresh
UNION ALL
SELECT NULL, key FROM dead_letters WHERE consumer = $1 AND key = ANY ($4::text[])
"""
_PRUNE_INBOX = "DELETE FROM inbox WHERE consumer = $1 AND processed_at < $2"
_log = structlog.get_logger(__name__)


@contextlib.contextmanager
def no_span(_name: str, _events: Sequence[CloudEvent]) -> Iterator[None]:
    """The span hook of a consumer without tracing."""
    yield


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a consumer batches and retries; the defaults suit everything that writes to PostgreSQL."""

    run_size: int = 100
    batch_size: int = 4000
    concurrency: int = 2
    attempts: int = 5
    first_delay: float = 0.05
    longest_delay: float = 0.5


class Consumer:
    """One member of consumer group ``group`` (named ``<service>.<purpose>``) on ``topics``.

    ``handlers`` is one handler for all events, or a mapping from event type (``*`` for the rest);
    types without a handler are passed over. A handler gets events of one organisation, in order, in an
    open unit of work; it raises ``Retry`` for what may pass, ``InvalidEvent`` for what never will.
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
        span: SpanHook = no_span,
    ) -> None:
        self.group = group
        self.topics = list(topics)
        self.state: Literal["stopped", "running", "waiting", "circuit_open"] = "stopped"
        self.last_error: str | None = None
        self.circuit = circuit or Circuit()
        self._database = database
        self._bus = bus
        self._handlers = handlers if isinstance(handlers, Mapping) else {ANY_TYPE: handlers}
        self._start = start
        self._tuning = tuning or Tuning()
        self._span = span
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
        subscription = await self._bus.subscribe(self.group, self.topics, start=self._start)
        try:
            while not self._stopping.is_set():
                try:
                    batch = await self._fetch(subscription)
                    self.state = "running"
                    if batch:
                        await self.process(batch)
                        buggify("consumer.effect")
                        await subscription.commit(batch)
                        buggify("consumer.offset")
                    backoff.reset()
                except Fenced:
                    _log.info("events_partitions_lost", group=self.group)
                except Exception as error:
                    await self._pause(error, backoff)
        finally:
            self.state = "stopped"
            await subscription.close()

    async def run_redrives(self) -> None:
        """Serve ``redrive`` requests until cancelled; a task of its own beside ``run``."""
        while True:
            self._redrives.clear()
            await self.redrive_requested()
            await self._redrives.wait(_REDRIVE_SECONDS)

    async def process(self, batch: Sequence[Received]) -> None:
        """Give every event of a batch its effect or its place among the dead letters.

        Organisations go in parallel, each one's events in order. Raises on an outage and ``CircuitOpen``;
        the batch may then be processed again from its beginning.
        """
        by_organization: dict[UUID, list[Received]] = {}
        for each in batch:
            if each.event is None or self._handler(each.event.type) is not None:
                by_organization.setdefault(each.organization_id, []).append(each)
        lanes = iter(by_organization.items())

        errors: list[Exception] = []

        async def work() -> None:
            for organization, events in lanes:
                for first in range(0, len(events), self._tuning.run_size):
                    if errors:
                        return  # another lane met an outage or the open circuit: finish what runs, begin nothing
                    try:
                        await self._run(organization, events[first : first + self._tuning.run_size])
                    except Exception as error:
                        errors.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._tuning.concurrency, len(by_organization))):
                group.create_task(work())
        if errors:
            raise errors[0]

    async def redrive_requested(self) -> int:
        """Handle the dead letters somebody asked for, in order within each key; how many succeeded."""
        done = 0
        for key in await deadletters.requested_keys(self._database, self.group):
            while await self._redrive_first(key):
                done += 1
        return done

    async def prune(self, older_than: Any) -> None:
        """Forget inbox rows of events that are no longer in any log."""
        await self._database.pool.execute(_PRUNE_INBOX, self.group, older_than)

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
        self.state = "circuit_open" if stopped else "waiting"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self.circuit.probe() if stopped else backoff.next())

    def _handler(self, event_type: str) -> Handler | None:
        return self._handlers.get(event_type) or self._handlers.get(ANY_TYPE)

    async def _run(self, organization: UUID, run: list[Received]) -> None:
        if len(run) > 1 and all(each.event is not None for each in run):
            try:
                await self._once(organization, run)
            except Exception as error:
                if is_outage(error):
                    raise
            else:
                return
        for each in run:
            await self._alone(organization, each)

    async def _alone(self, organization: UUID, received: Received) -> None:
        backoff = Backoff(self._tuning.first_delay, self._tuning.longest_delay)
        failure: Exception
        attempt = 0
        while True:
            attempt += 1
            try:
                if received.event is None:
                    raise InvalidEvent(received.error)
                await self._once(organization, [received])
            except Exception as error:
                if is_outage(error):
                    raise
                failure = error
            else:
                return
            if not is_passing(failure) or attempt >= self._tuning.attempts:
                break
            await asyncio.sleep(backoff.next())
        self.circuit.failed()
        self.last_error = repr(failure)
        _log.warning(
            "events_dead_letter", group=self.group, key=received.key, position=received.position, error=repr(failure)
        )
        async with self._database.transaction(organization) as session:
            if received.event is not None and not (await self._admit(session, organization, [received]))[0]:
                return
            await deadletters.lock_keys(session, self.group, [received.key])
            reason: deadletters.Reason = "invalid" if isinstance(failure, InvalidEvent) else "failed"
            await deadletters.insert(session, self.group, received, reason, error=repr(failure), attempts=attempt)
        metrics.HANDLED.labels(self.group, "dead").inc()

    async def _once(self, organization: UUID, run: list[Received]) -> None:
        """One transaction: claim in the inbox, park what must wait, handle the rest."""
        async with self._database.transaction(organization) as session:
            fresh, parked = await self._admit(session, organization, run)
            ready: list[CloudEvent] = []
            waiting = 0
            for each in run:
                if each.event is None or each.event.id not in fresh:
                    continue
                fresh.remove(each.event.id)  # the same event twice in one run counts once
                if each.key in parked:
                    await deadletters.insert(session, self.group, each, "parked")
                    waiting += 1
                else:
                    ready.append(each.event)
            if ready:
                await self._handle(session, organization, ready)
        self.circuit.succeeded(len(ready) or 1)
        metrics.HANDLED.labels(self.group, "done").inc(len(ready))
        metrics.HANDLED.labels(self.group, "parked").inc(waiting)
        metrics.HANDLED.labels(self.group, "repeated").inc(len(run) - len(ready) - waiting)

    async def _admit(self, session: Session, organization: UUID, run: list[Received]) -> tuple[set[UUID], set[str]]:
        """The events of the run that were never claimed, and the keys of the run that are parked."""
        ids = [each.event.id for each in run if each.event is not None]
        keys = list({each.key for each in run})
        rows = await session.connection.fetch(_ADMIT, self.group, organization, ids, keys)
        fresh = {row["event_id"] for row in rows if row["key"] is None}
        parked = {row["key"] for row in rows if row["key"] is not None}
        # A conflict may have waited for the member that dead-lettered the event: its parked key is not in
        # this statement's snapshot, so look again.
        if parked or len(fresh) < len(ids):
            parked = await deadletters.lock_keys(session, self.group, keys)
        return fresh, parked

    async def _handle(self, session: Session, organization: UUID, events: list[CloudEvent]) -> None:
        actor = Principal(organization, "system", self.group, request_id=events[0].correlationid or "")
        with request_context(actor, events[0].traceparent), self._span(self.group, events):
            for handler, segment in groupby(events, lambda event: self._handler(event.type)):
                if handler is not None:
                    await handler(session, list(segment))
        buggify("consumer.handled")

    async def _redrive_first(self, key: str) -> bool:
        """Handle the oldest dead letter of a key; False when there is none or it failed again."""
        failed: tuple[int, str] | None = None
        try:
            async with self._database.transaction() as probe:
                first = await deadletters.first_of(probe, self.group, key)
            if first is None:
                return False
            organization = first[1].organization_id
            async with self._database.transaction(organization) as session:
                first = await deadletters.first_of(session, self.group, key)
                if first is None:
                    return False
                failed = first[0], "InvalidEvent"
                if first[1].event is None:
                    raise InvalidEvent(first[1].error)
                await deadletters.handled_again(session, self.group, first[0])
                await self._handle(session, organization, [first[1].event])
        except Exception as error:
            if is_outage(error) or failed is None:
                raise
            await deadletters.failed_again(self._database, self.group, key, failed[0], repr(error))
            return False
        return True
