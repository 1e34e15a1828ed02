"""Reads a platform's rows, events and effects into a ``History``, once nothing is under way any more."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from shared.db import Database
from shared.events import Received
from shared.events.connect import connect_bus
from shared.settings import Settings
from tests.chaos import witness
from tests.chaos.history import Effect, Entry, History, Row, Write

OUTBOXES = ("identity", "crm")
CONSUMERS = {"audit": "audit", witness.SCHEMA: witness.GROUP}
"""The group of each schema that consumes."""
RECORDS = ("contacts", "companies", "deals", "activities")
_ROWS = " UNION ALL ".join(f"SELECT organization_id, id, version FROM crm.{table}" for table in RECORDS)
_AUDITED = "SELECT id, organization_id, target_id, sequence FROM audit.audit_logs_enhanced"
_WITNESSED = f"SELECT event_id, organization_id, key, sequence, nth FROM {witness.SCHEMA}.effects"
_SETTLE_SECONDS = 1.5
Connection = Any  # asyncpg.Connection[asyncpg.Record], which exists for type checkers only


async def outbox(connection: Connection) -> list[UUID]:
    """The events that are committed and not sent yet."""
    union = " UNION ALL ".join(f"SELECT id FROM {schema}.outbox" for schema in OUTBOXES)
    return [row["id"] for row in await connection.fetch(union)]


async def handled(connection: Connection, events: Sequence[UUID]) -> bool:
    """Whether every consumer is done with these events."""
    for schema, group in CONSUMERS.items():
        statement = f"SELECT count(*) FROM {schema}.inbox WHERE consumer = $1 AND event_id = ANY ($2::uuid[])"
        if await connection.fetchval(statement, group, events) < len(events):
            return False
    return True


async def read_log(settings: Settings) -> list[Received]:
    """Every entry of the log, in the order of each partition."""
    database = Database.for_service(settings, witness.SCHEMA)
    bus = connect_bus(settings, database)
    await database.open()
    await bus.start()
    try:
        return [entry async for entry in bus.read(witness.TOPICS, "earliest", follow=False)]
    finally:
        await bus.stop()
        await database.close()


async def drained(settings: Settings, connection: Connection, seconds: float) -> list[Received]:
    """Wait until nothing is in an outbox and every consumer is done, or ``seconds`` are over; the log then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and await outbox(connection):  # noqa: ASYNC110 (other processes empty it)
        await asyncio.sleep(0.2)
    entries = await read_log(settings)
    events = list({entry.event.id for entry in entries if entry.event is not None})
    while time.monotonic() < deadline and not await handled(connection, events):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    # Whatever a process that slept would still do to spoil it, it has the time to do.
    await asyncio.sleep(_SETTLE_SECONDS)
    return await read_log(settings)


async def collect(connection: Connection, writes: Sequence[Write], entries: Sequence[Received]) -> History:
    """The history of a run; ``entries`` is the whole log."""
    left: dict[str, int] = {"outboxes": len(await outbox(connection))}
    for schema in CONSUMERS:
        left[f"{schema}.dead_letters"] = await connection.fetchval(f"SELECT count(*) FROM {schema}.dead_letters")
    left["entries that cannot be read"] = sum(entry.event is None for entry in entries)
    rows = [Row(_key(row), row["organization_id"], row["version"]) for row in await connection.fetch(_ROWS)]
    return History(
        writes=writes,
        rows=rows,
        log=[_entry(entry) for entry in entries if entry.event is not None],
        effects=[*await _audited(connection), *await _witnessed(connection)],
        consumers=tuple(CONSUMERS),
        left=left,
    )


def _key(row: Any, column: str = "id") -> str:
    return f"{row['organization_id']}/{row[column]}"


def _entry(received: Received) -> Entry:
    event = received.event
    assert event is not None
    return Entry(
        event.id, received.key, event.organization_id, event.sequence, event.correlationid,
        received.topic, received.partition, received.position,
    )  # fmt: skip


async def _audited(connection: Connection) -> list[Effect]:
    rows = await connection.fetch(_AUDITED)
    return [Effect("audit", row["id"], _key(row, "target_id"), row["organization_id"], row["sequence"]) for row in rows]


async def _witnessed(connection: Connection) -> list[Effect]:
    rows = await connection.fetch(_WITNESSED)
    return [
        Effect(witness.SCHEMA, row["event_id"], row["key"], row["organization_id"], row["sequence"], row["nth"])
        for row in rows
    ]
