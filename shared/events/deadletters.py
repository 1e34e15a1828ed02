"""Dead letters: events that could not be handled, and those parked behind them.

A key is parked while it has a row here. Every step that adds to a key or takes from it holds the key's
advisory lock in its transaction, so that a redrive which has just taken the last row and a consumer that
is about to park one more behind it never miss each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from shared.db import Database, Session
from shared.events.bus import Received
from shared.events.envelope import CloudEvent, InvalidEvent
from shared.events.wakeups import wake

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1 || '|' || k, 0)) FROM unnest($2::text[]) AS k"
_PARKED = "SELECT DISTINCT key FROM dead_letters WHERE consumer = $1 AND key = ANY ($2::text[])"
_INSERT = """
INSERT INTO dead_letters (consumer, key, organization_id, event_id, event_type, topic, partition, position,
                          reason, error, attempts, trace_id, body)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_LIST = """
SELECT id, consumer, key, organization_id, event_type, reason, error, attempts, trace_id, topic, partition, position,
  body, requested_at, created_at
FROM dead_letters WHERE ($1::text IS NULL OR consumer = $1) AND ($2::text IS NULL OR key = $2) AND id > $3
  AND ($5::uuid IS NULL OR organization_id = $5) AND ($6::text IS NULL OR reason = $6)
ORDER BY id LIMIT $4
"""
_REQUEST = """
UPDATE dead_letters SET requested_at = now()
WHERE consumer = $1 AND ($2::text IS NULL OR key = $2)
  AND ($3::bigint IS NULL OR key = (SELECT key FROM dead_letters WHERE consumer = $1 AND id = $3))
RETURNING key
"""
_REQUESTED = "SELECT DISTINCT key FROM dead_letters WHERE consumer = $1 AND requested_at IS NOT NULL ORDER BY key"
_FIRST = "SELECT * FROM dead_letters WHERE consumer = $1 AND key = $2 ORDER BY id LIMIT 1"
# The error of what cannot be read is the one that its bus gave: of its body alone no more can be said.
_FAILED_AGAIN = """
UPDATE dead_letters SET attempts = attempts + 1, reason = $3,
  error = CASE WHEN reason = 'invalid' AND $3 = 'invalid' THEN error ELSE $2 END
WHERE id = $1
"""
# CASE: only what is unsupported is known to have a body that is JSON. It is not read as such: PostgreSQL gives up
# on a document with an escaped NUL anywhere. A quote in any other attribute is escaped.
_UNDERSTOOD = """
UPDATE dead_letters SET requested_at = now() WHERE consumer = $1 AND requested_at IS NULL AND key IN (
  SELECT key FROM dead_letters WHERE consumer = $1 AND reason = 'unsupported' AND CASE reason WHEN 'unsupported'
    THEN substring(convert_from(body, 'UTF8') FROM '"dataschema":"[^"]*:([0-9]+)"')::numeric
      <= ($2::json ->> event_type)::numeric END)
"""
_UNREQUEST = "UPDATE dead_letters SET requested_at = NULL WHERE consumer = $1 AND key = $2"
# The inbox row may be as old as the dead letter: from now on it is kept like that of an event just handled.
_DISCARD = """
WITH gone AS (DELETE FROM dead_letters WHERE consumer = $1 AND id = $2 RETURNING event_id, organization_id),
known AS (
  INSERT INTO inbox (consumer, event_id, organization_id)
  SELECT DISTINCT $1, id, organization_id FROM gone CROSS JOIN unnest(ARRAY[event_id, $3]) AS id WHERE id IS NOT NULL
  ON CONFLICT (consumer, event_id) DO UPDATE SET processed_at = excluded.processed_at
)
SELECT count(*) FROM gone
"""
_COUNT = "SELECT count(*), count(DISTINCT key) FROM dead_letters WHERE consumer = $1"
Reason = Literal["failed", "invalid", "parked", "unsupported"]
"""It kept failing, it cannot be read, it waits behind another of its key, or it is too new for this consumer."""
_LONGEST_ERROR = 4000
# A body in structured mode tells its trace even where it is no event that can be read.
_TRACEPARENT = re.compile(rb'"traceparent"\s*:\s*"[0-9a-f]{2}-([0-9a-f]{32})-')


@dataclass(frozen=True, slots=True)
class Letter:
    """One event on its way here."""

    received: Received
    reason: Reason
    error: str | None = None
    attempts: int = 0

    @property
    def trace_id(self) -> str | None:
        """The trace of the event, also of one that cannot be read where headers or body tell it."""
        if self.received.event is not None:
            return self.received.event.trace_id
        if self.received.traceparent:
            return self.received.traceparent[3:35]
        found = _TRACEPARENT.search(self.received.body)
        return found[1].decode() if found else None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One row, for people. ``body`` is the structured event, or the raw bytes that could not be read."""

    id: int
    consumer: str
    key: str
    organization_id: UUID
    event_type: str | None
    reason: Reason
    error: str | None
    attempts: int
    trace_id: str | None
    topic: str
    partition: int
    position: int
    body: bytes
    requested_at: datetime | None
    """When somebody last asked for it to be handled again, while it waits for that."""
    created_at: datetime


def redrive_signal(consumer: str) -> str:
    """The name of the hint that a redrive was asked for."""
    return f"redrive:{consumer}"


async def lock_keys(session: Session, consumer: str, keys: Iterable[str]) -> set[str]:
    """Lock keys until the end of the transaction; those of them that are parked."""
    ordered = sorted(keys)
    await session.connection.execute(_LOCK, consumer, ordered)
    return {row["key"] for row in await session.connection.fetch(_PARKED, consumer, ordered)}


async def insert(session: Session, consumer: str, letters: Sequence[Letter]) -> None:
    """Add events to the dead letters, in order; the locks of their keys are held."""
    await session.connection.executemany(_INSERT, [_row(consumer, letter) for letter in letters])


def _row(consumer: str, letter: Letter) -> tuple[Any, ...]:
    received, event = letter.received, letter.received.event
    reason, body = letter.reason, received.body
    if event is not None:
        try:
            body = event.to_json()
        except Exception:  # whatever it is, an event that cannot be written must not stop those behind it
            reason, body = "invalid", body or repr(event).encode(errors="replace")
    return (
        consumer,
        received.key,
        received.organization_id,
        received.identity,
        event.type if event else None,
        received.topic,
        received.partition,
        received.position,
        reason,
        _storable(letter.error),
        letter.attempts,
        _storable(letter.trace_id),
        body,
    )


def _storable(text: str | None) -> str | None:
    # An error may quote what made it fail. PostgreSQL's text holds no NUL and no lone surrogates.
    return text and text[:_LONGEST_ERROR].replace("\0", "\ufffd").encode(errors="replace").decode()


async def first_of(session: Session, consumer: str, key: str) -> tuple[int, UUID, Received] | None:
    """The oldest dead letter of a key, behind its id and the inbox's; the key is locked. None when there is none."""
    await session.connection.execute(_LOCK, consumer, [key])
    row: Any = await session.connection.fetchrow(_FIRST, consumer, key)
    if row is None:
        return None
    place = (row["topic"], row["partition"], row["position"], row["key"])
    try:
        # Whatever its size: in this form an event may be larger than in the one that it came in.
        return row["id"], row["event_id"], Received(*place, CloudEvent.from_json(row["body"], limit=None))
    except InvalidEvent as error:
        return row["id"], row["event_id"], Received(*place, None, row["body"], str(error))


async def dead(
    database: Database,
    consumer: str | None = None,
    *,
    key: str | None = None,
    organization_id: UUID | None = None,
    reason: Reason | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[DeadLetter]:
    """The dead letters of a service that match, oldest first; a page begins after id ``after``."""
    rows: Sequence[Any] = await database.pool.fetch(_LIST, consumer, key, after, limit, organization_id, reason)
    return [DeadLetter(**dict(row)) for row in rows]


async def count(database: Database, consumer: str) -> int:
    """How many events of a consumer wait here."""
    return (await counts(database, consumer))[0]


async def counts(database: Database, consumer: str) -> tuple[int, int]:
    """How many events of a consumer wait here, and how many keys they park."""
    row: Any = await database.pool.fetchrow(_COUNT, consumer)
    return row[0], row[1]


async def redrive(database: Database, consumer: str, *, key: str | None = None, id: int | None = None) -> int:  # noqa: A002
    """Ask the running consumer to handle dead letters again: all, one key's, or the key that ``id`` is of.

    Returns how many events will be tried. Each key goes in order and stops at its first failure.
    """
    rows = await database.pool.fetch(_REQUEST, consumer, key, id)
    if rows:
        wake(redrive_signal(consumer))
    return len(rows)


async def discard(database: Database, consumer: str, id: int) -> bool:  # noqa: A002
    """Drop one dead letter for good; False when there is none. What is parked behind it can be redriven."""
    return bool(await database.pool.fetchval(_DISCARD, consumer, id, None))


async def requested_keys(database: Database, consumer: str) -> list[str]:
    """The keys somebody asked to redrive."""
    return [row["key"] for row in await database.pool.fetch(_REQUESTED, consumer)]


async def handled_again(session: Session, consumer: str, id: int, received: Received) -> None:  # noqa: A002
    """A dead letter has its effect in this transaction."""
    await session.connection.execute(_DISCARD, consumer, id, received.identity)


async def failed_again(
    database: Database,
    consumer: str,
    key: str,
    id: int,  # noqa: A002
    error: str,
    reason: Reason,
) -> None:
    """A redrive stopped at this dead letter; the key waits for the next request."""
    async with database.transaction() as session:
        await session.connection.execute(_FAILED_AGAIN, id, _storable(error), reason)
        await session.connection.execute(_UNREQUEST, consumer, key)


async def redrive_understood(database: Database, consumer: str, understands: Mapping[str, int]) -> int:
    """Ask for the events that were unsupported and, by these newest versions of their types, no longer are."""
    tag = await database.pool.execute(_UNDERSTOOD, consumer, dict(understands))
    return int(tag.rpartition(" ")[2])
