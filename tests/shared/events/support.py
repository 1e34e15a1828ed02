"""What the event tests share: made-up events, consumers, handlers that leave traces or fail, waiting for a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

from shared import clock
from shared.auth import Principal
from shared.db import Database, Session
from shared.events import CloudEvent, Consumer, Event, PersonalData, Received, Tuning, event, publish
from shared.events.consumer import Handler
from shared.events.envelope import schema_uri
from shared.events.memory import MemoryBus
from shared.ids import new_id

ProcessFactory = Callable[..., Awaitable[Database]]
TOPIC = "guardian.beta.events"
GROUP = "beta.test"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@event("thing.changed", version=1, entity="thing", example={"name": "Ada", "n": 1})
class ThingChanged(Event):
    name: Annotated[str, PersonalData] = ""
    n: int = 0


def make_event(
    n: int = 0, *, organization: UUID | None = None, entity: UUID | None = None, **fields: Any
) -> CloudEvent:
    organization, entity = organization or new_id(), entity or new_id()
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "/guardian/alpha",
        "type": "thing.changed",
        "subject": entity,
        "time": clock.now(),
        "dataschema": schema_uri("thing.changed", 1),
        "organization_id": organization,
        "partitionkey": f"{organization}/{entity}",
        "sequence": n,
        "data": {"name": "", "n": n},
    }
    return CloudEvent(**(values | fields))


def system(organization: UUID) -> Principal:
    return Principal(organization, "system", "test", request_id="test-request")


async def publish_all(
    database: Database, organization: UUID, entity: UUID, numbers: Sequence[int], **data: Any
) -> list[UUID]:
    """Publish one event per number in one transaction; their ids."""
    async with database.transaction(organization) as session:
        made = [
            publish(session, ThingChanged(n=n, **data), subject=entity, sequence=n, principal=system(organization))
            for n in numbers
        ]
    return [each.id for each in made]


async def record(session: Session, events: Sequence[CloudEvent]) -> None:
    """A handler whose effects can be counted."""
    await session.connection.executemany(
        "INSERT INTO effects (organization_id, event_id, key, sequence) VALUES ($1, $2, $3, $4)",
        [(each.organization_id, each.id, each.partitionkey, each.sequence) for each in events],
    )


def failing(when: Callable[[CloudEvent], bool], error: Exception) -> Handler:
    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        await record(session, events)
        if any(when(each) for each in events):
            raise error

    return handler


class Poison:
    """A handler that fails for chosen sequences, of every entity or of one, until cured."""

    def __init__(self, *sequences: int, entity: UUID | None = None) -> None:
        self.sequences = set(sequences)
        self.entity = entity

    async def __call__(self, session: Session, events: Sequence[CloudEvent]) -> None:
        await record(session, events)
        if any(each.sequence in self.sequences and self.entity in {None, each.subject} for each in events):
            raise ValueError("poison")


def consumer_of(database: Database, handlers: Any, **options: Any) -> Consumer:
    options.setdefault("tuning", Tuning(first_delay=0.001, longest_delay=0.002))
    return Consumer(database, options.pop("bus", MemoryBus()), GROUP, [TOPIC], handlers, **options)


def received(events: Sequence[CloudEvent]) -> list[Received]:
    return [Received(TOPIC, 0, n, each.partitionkey, each) for n, each in enumerate(events)]


async def effects(database: Database) -> dict[str, list[int]]:
    """The sequences each key's effects happened in."""
    rows = await database.pool.fetch("SELECT key, sequence FROM effects ORDER BY nth")
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append(row["sequence"])
    return found


async def count(database: Database, table: str = "effects") -> int:
    return int(await database.pool.fetchval(f"SELECT count(*) FROM {table}"))


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition; fails with its name when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if await result if not isinstance(result, bool) else result:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        await asyncio.sleep(0.01)
