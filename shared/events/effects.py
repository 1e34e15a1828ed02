"""The transactions that give events their effect: claimed in the inbox, then handled, parked or put aside.

Each is one unit of work in one organisation. An event that cannot be read, or is of a type or a version this
consumer does not understand, is put aside without being tried: no attempt could help it, so it costs its
neighbours nothing, however many there are of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from uuid import UUID

import asyncpg
import structlog

from shared.auth import Principal
from shared.buggify import buggify
from shared.db import Database, Session
from shared.events import deadletters, metrics
from shared.events.bus import Received
from shared.events.deadletters import Letter, Reason
from shared.events.envelope import CloudEvent, InvalidEvent
from shared.events.failures import Hung, Retry, is_outage, names_no_database
from shared.events.tracing import Spans
from shared.logs import request_context

Handler = Callable[[Session, Sequence[CloudEvent]], Awaitable[None]]
ANY_TYPE = "*"
_HANDLER_SECONDS = 9.0
"""A handler that hangs is ended before PostgreSQL ends its idle connection, which would pass for an outage."""
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
_log = structlog.get_logger(__name__)


class _Undone(Exception):
    """Rolls a rehearsal back."""


@contextlib.asynccontextmanager
async def _limits(session: Session, seconds: float) -> AsyncIterator[None]:
    """Ends a handler that hangs; a connection that it lost and that is not our database's is no outage of ours."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise Hung(f"not done after {seconds:g} s") from error
        raise
    except Exception as error:
        if names_no_database(error) and _is_open(session):
            raise Retry(repr(error)) from error
        raise


def _is_open(session: Session) -> bool:
    try:
        return not session.connection.is_closed()
    except asyncpg.InterfaceError:  # the pool took it back, which it does when it is lost
        return False


class Effects:
    """What consumer group ``group`` does with events; ``understands`` is the newest version of each type it reads."""

    def __init__(
        self,
        database: Database,
        group: str,
        handlers: Mapping[str, Handler],
        understands: Mapping[str, int] | None,
        spans: Spans,
    ) -> None:
        self._database = database
        self._group = group
        self._handlers = handlers
        self._understands = understands
        self._spans = spans

    def handler(self, event_type: str) -> Handler | None:
        """The handler of a type; None for types that are passed over."""
        return self._handlers.get(event_type) or self._handlers.get(ANY_TYPE)

    def refusal(self, received: Received) -> tuple[Reason, str] | None:
        """Why an event is not even tried, and what to do about it; None when it is."""
        event = received.event
        if event is None:
            return "invalid", received.error or "it cannot be read"
        if self._understands is None:
            return None
        newest = self._understands.get(event.type)
        if newest is None and event.type not in self._handlers:
            fault = f"{event.type} is a type that {self._group} does not know"
        elif newest is not None and event.version > newest:
            fault = f"{event.type} has version {event.version}, and {self._group} reads versions up to {newest}"
        else:
            return None
        service = self._group.partition(".")[0]
        return "unsupported", (
            f"{fault}. Where a newer release of {service} reads it, deploy that: it then handles it by itself. Where "
            "none does, it is a mistake of its publisher: mend that, and drop this event."
        )

    async def apply(self, organization: UUID, run: Sequence[Received], seconds: float | None = None) -> int:
        """Handle a run in one transaction; how many events the handler saw. Raises what the handler raises.

        ``seconds`` is what the handler has, where that is less than usual; then it is ended, and this raises ``Hung``.
        """
        refusals = [self.refusal(each) for each in run]
        ready: list[Received] = []
        letters: list[Letter] = []
        async with self._database.transaction(organization) as session:
            fresh, parked = await self.admit(session, organization, run, lock=any(refusals))
            for each, refusal in zip(run, refusals, strict=True):
                identity = each.identity
                if identity not in fresh:
                    continue
                fresh.remove(identity)  # the same event twice in one run counts once
                if each.key in parked:
                    letters.append(Letter(each, "parked"))
                elif refusal is not None:
                    letters.append(Letter(each, *refusal, attempts=1))
                    parked.add(each.key)
                else:
                    ready.append(each)
            if letters:
                await deadletters.insert(session, self._group, letters)
            if ready:
                await self._handle(session, organization, ready, seconds)
        self._count(len(run), len(ready), letters)
        return len(ready)

    async def put_aside(self, organization: UUID, received: Received, error: Exception, attempts: int) -> None:
        """Make an event that keeps failing a dead letter, unless another member has dealt with it."""
        reason: Reason = "invalid" if isinstance(error, InvalidEvent) else "failed"
        letter = Letter(received, reason, repr(error), attempts)
        async with self._database.transaction(organization) as session:
            if not (await self.admit(session, organization, [received], lock=True))[0]:
                return
            await deadletters.insert(session, self._group, [letter])
        self._count(1, 0, [letter])

    async def admit(
        self, session: Session, organization: UUID, run: Sequence[Received], *, lock: bool = False
    ) -> tuple[set[UUID], set[str]]:
        """The entries of the run that were never claimed, and the keys of the run that are parked."""
        ids = [each.identity for each in run]
        keys = list({each.key for each in run})
        rows = await session.connection.fetch(_ADMIT, self._group, organization, ids, keys)
        fresh = {row["event_id"] for row in rows if row["key"] is None}
        parked = {row["key"] for row in rows if row["key"] is not None}
        # A conflict may have waited for the member that dead-lettered the event: its parked key is not in
        # this statement's snapshot, so look again.
        if lock or parked or len(fresh) < len(ids):
            parked = await deadletters.lock_keys(session, self._group, keys)
        return fresh, parked

    async def redrive_first(self, key: str) -> bool:
        """Handle the oldest dead letter of a key; False when there is none or it failed again."""
        failed: int | None = None
        reason: Reason = "failed"
        try:
            async with self._database.transaction() as probe:
                first = await deadletters.first_of(probe, self._group, key)
            if first is None:
                return False
            organization = first[2].organization_id
            async with self._database.transaction(organization) as session:
                first = await deadletters.first_of(session, self._group, key)
                if first is None:
                    return False
                failed, known, received = first
                if (refusal := self.refusal(received)) is not None:
                    reason, error = refusal
                    raise InvalidEvent(error)
                # What could not be read is known by its place. Readable now, it may have come again before, mended.
                repeated = received.identity != known and not (await self.admit(session, organization, [received]))[0]
                await deadletters.handled_again(session, self._group, failed, received)
                if not repeated:
                    await self._handle(session, organization, [received])
        except Exception as error:
            if is_outage(error) or failed is None:
                raise
            text = str(error) if reason != "failed" else repr(error)
            await deadletters.failed_again(self._database, self._group, key, failed, text, reason)
            return False
        return True

    async def rehearse(self, organization: UUID, run: Sequence[Received]) -> list[str | None]:
        """What handling a run would come to, by event: the error, or None. Everything is rolled back.

        Nothing is claimed in the inbox, published or run after a commit. The run is tried whole, and event
        by event (each on what those before it did) when that fails.
        """
        errors: list[str | None] = [refusal[1] if (refusal := self.refusal(each)) else None for each in run]
        ready = [number for number, error in enumerate(errors) if error is None]
        outcomes = await self._undone(organization, [[run[number] for number in ready]])
        if any(outcomes):
            outcomes = await self._undone(organization, [[run[number]] for number in ready])
        else:
            outcomes = [None] * len(ready)
        for number, outcome in zip(ready, outcomes, strict=True):
            errors[number] = outcome
        return errors

    async def _undone(self, organization: UUID, runs: Sequence[Sequence[Received]]) -> list[str | None]:
        """The error of each run, or None, in one transaction that does not commit."""
        errors: list[str | None] = []
        with contextlib.suppress(_Undone):
            async with self._database.transaction(organization) as session:
                for run in filter(None, runs):
                    await session.connection.execute("SAVEPOINT rehearsal")
                    try:
                        await self._handle(session, organization, run)
                        errors.append(None)
                    except Exception as error:
                        if is_outage(error):
                            raise
                        errors.append(repr(error))
                        await session.connection.execute("ROLLBACK TO SAVEPOINT rehearsal")
                raise _Undone
        return errors

    async def _handle(
        self, session: Session, organization: UUID, run: Sequence[Received], seconds: float | None = None
    ) -> None:
        events = [each.event for each in run if each.event is not None]
        actor = Principal(organization, "system", self._group, request_id=events[0].correlationid or "")
        took = metrics.PROCESS_SECONDS.labels(self._group)
        with request_context(actor, events[0].traceparent), self._spans.processing(self._group, run), took.time():
            async with _limits(session, _HANDLER_SECONDS if seconds is None else seconds):
                for handler, segment in groupby(events, lambda event: self.handler(event.type)):
                    if handler is not None:
                        await handler(session, list(segment))
        buggify("consumer.handled")

    def _count(self, seen: int, done: int, letters: Sequence[Letter]) -> None:
        dead = [each for each in letters if each.reason != "parked"]
        outcomes = {"done": done, "parked": len(letters) - len(dead), "dead": len(dead)}
        outcomes["repeated"] = seen - sum(outcomes.values())
        for outcome, count in outcomes.items():
            metrics.HANDLED.labels(self._group, outcome).inc(count)
        for each in dead:
            metrics.DEAD_LETTERED.labels(self._group, each.reason).inc()
        if dead:
            first = dead[0]
            _log.warning(
                "events_dead_letter", group=self._group, count=len(dead), key=first.received.key,
                topic=first.received.topic, partition=first.received.partition, position=first.received.position,
                reason=first.reason, error=first.error,
            )  # fmt: skip
