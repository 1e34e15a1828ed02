"""Use cases of the audit log."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from services.audit import domain, repository
from services.audit.schemas import EntryQuery
from shared import clock
from shared.auth import Principal
from shared.db import Session
from shared.errors import BadRequest, NotFound
from shared.events import CloudEvent
from shared.http.pagination import decode_cursor

SORT = "-occurred_at"
_NOT_FILTERS = {"limit", "cursor"}


async def record(session: Session, events: Sequence[CloudEvent], months: set[date]) -> None:
    """Store the entries of events of one organisation; an event that is nobody's act makes none.

    ``months`` are those known to have a partition; what is made here joins them with the commit.
    """
    now = clock.now()
    events = [event for event in events if event.type not in domain.NOBODYS]
    if not events:
        return
    missing = domain.missing_months([event.time for event in events], months, now)
    if missing is not None:
        await repository.ensure_partitions(session, *missing)
        session.after_commit(lambda: months.update(domain.months_between(*missing)))
    await repository.add(session, events[0].organization_id, [entry_of(event, now) for event in events])


def entry_of(event: CloudEvent, recorded_at: datetime) -> dict[str, Any]:
    """The entry an event makes; its id is the event's, so that one event is one entry."""
    changes, data = domain.split(event.data)
    return {
        "id": event.id,
        "sequence": event.sequence,
        "action": event.type,
        "actor_type": domain.actor_type_of(event.authtype),
        "actor_id": event.authid,
        "target_type": event.type.partition(".")[0],
        "target_id": event.subject,
        "occurred_at": event.time,
        "recorded_at": recorded_at,
        "source": event.source.rpartition("/")[2],
        "risk_level": domain.risk_of(event.type),
        "request_id": event.correlationid,
        "causation_id": event.causationid,
        "trace_id": event.trace_id,
        "schema_version": event.version,
        "changes": changes,
        "data": data,
    }


async def page(session: Session, principal: Principal, query: EntryQuery) -> list[dict[str, Any]]:
    """One entry more than the page holds, newest first."""
    filters = query.model_dump(exclude=_NOT_FILTERS, exclude_none=True)
    if not query.searches:
        filters.pop("q", None)
    rows = await repository.page(session, principal.organization_id, filters, _position(query.cursor), query.limit + 1)
    return [_shown(row) for row in rows]


async def get(session: Session, principal: Principal, entry_id: UUID) -> dict[str, Any]:
    """One entry; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, entry_id)
    if row is None:
        raise NotFound("There is no audit entry with this id.")
    return _shown(row)


def _position(cursor: str | None) -> repository.Position | None:
    if cursor is None:
        return None
    text, sequence, entry_id = decode_cursor(cursor, SORT, 3)
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
        return moment, int(sequence), UUID(entry_id)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise BadRequest(
            "The cursor is not one of this list; start again without one.", code="invalid_cursor"
        ) from None


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    entry = dict(row)
    entry["actor"] = {"type": entry.pop("actor_type"), "id": entry.pop("actor_id")}
    entry["target"] = {"type": entry.pop("target_type"), "id": entry.pop("target_id")}
    return entry
