"""Use cases every record has. A resource adds its own rules by calling these with what it worked out.

Every function takes the ``Resource`` it is for; whoever changes a record holds its lock, so that the
record's version orders its events.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from services.crm.custom_fields import service as custom_fields
from services.crm.records import domain, repository
from services.crm.records.resource import Resource
from services.crm.records.schemas import BulkItem, RecordQuery
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import NotFound, Problem
from shared.events import Event, publish
from shared.http.pagination import decode_moment_cursor, decode_name_cursor, decode_number_cursor
from shared.http.problems import unknown_reference

_NOT_FILTERS = {"limit", "cursor", "sort", "deleted"}


async def create(
    session: Session, principal: Principal, resource: Resource, values: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Store a new record; as it was stored."""
    await _check(session, principal, resource, [values])
    (row,) = await _store(session, principal, resource, [_new(principal, resource, clock.now(), values)])
    return row


def _new(principal: Principal, resource: Resource, now: datetime, values: Mapping[str, Any]) -> dict[str, Any]:
    record = domain.new_record(principal, now, values)
    resource.rule(record)
    return record


async def create_many(
    session: Session, principal: Principal, resource: Resource, inputs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Store new records, all or none; as they were stored, in the order of ``inputs``."""
    now = clock.now()
    await _check(session, principal, resource, inputs, bulk=True)
    rows = []
    for position, values in enumerate(inputs):
        try:
            rows.append(_new(principal, resource, now, values))
        except Problem as problem:
            raise domain.at_item(problem, position) from None
    return await _store(session, principal, resource, rows)


async def _store(
    session: Session, principal: Principal, resource: Resource, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    await repository.insert_records(session, resource.records, rows)
    stored = [{name: row.get(name) for name in resource.records.shown} for row in rows]
    for row in stored:
        emit(session, principal, resource.created(**{resource.name: row}), row)
    return stored


async def _check(
    session: Session,
    principal: Principal,
    resource: Resource,
    inputs: Sequence[Mapping[str, Any]],
    *,
    bulk: bool = False,
) -> None:
    """Raise ``ValidationFailed`` for custom fields and references that do not hold."""
    custom = [each.get("custom_fields", {}) for each in inputs]
    await custom_fields.validate(session, principal, resource.name, custom, bulk=bulk)
    missing: list[str] = []
    for name, table in resource.references.items():
        wanted = {each[name] for each in inputs if each.get(name) is not None}
        if wanted:
            unknown = wanted - await repository.alive(session, table, principal.organization_id, wanted)
            missing += [
                f"/items/{position}/{name}" if bulk else f"/{name}"
                for position, each in enumerate(inputs)
                if each.get(name) in unknown
            ]
    if missing:
        raise unknown_reference(missing)


def emit(session: Session, principal: Principal, event: Event, row: Mapping[str, Any]) -> None:
    """Publish what happened to a record at the version it has now."""
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)


async def get(session: Session, principal: Principal, resource: Resource, record_id: UUID) -> Record:
    """A record that is not deleted; raises ``NotFound``."""
    record = await repository.get_record(session, resource.records, principal.organization_id, record_id)
    return _require_found(resource, record)


async def lock(
    session: Session, principal: Principal, resource: Resource, record_id: UUID, *, deleted: bool = False
) -> Record:
    """A record, held until the transaction ends; raises ``NotFound``."""
    record = await repository.get_record(
        session, resource.records, principal.organization_id, record_id, deleted=deleted, lock=True
    )
    return _require_found(resource, record)


def _require_found(resource: Resource, record: Record | None) -> Record:
    if record is None:
        raise NotFound(f"There is no {resource.name} with this id.")
    return record


async def apply(
    session: Session, principal: Principal, resource: Resource, before: Record, wanted: Mapping[str, Any]
) -> tuple[Record, dict[str, Any]]:
    """Apply ``wanted`` to a locked record: the record afterwards and the fields that changed.

    A request that changes nothing leaves the version alone. The caller publishes.
    """
    wanted = dict(wanted)
    if "tags" in wanted:
        wanted["tags"] = domain.unique_tags(wanted["tags"])
    given = wanted.get("custom_fields", {})
    if "custom_fields" in wanted:
        wanted["custom_fields"] = domain.merged_custom_fields(before["custom_fields"], given)
    changed = domain.differences(before, wanted)
    if not changed:
        return before, {}
    resource.rule({**before, **changed})
    await _check(session, principal, resource, [{**changed, "custom_fields": given}])
    values = {**changed, "updated_at": clock.now()}
    row = await repository.update_record(session, resource.records, principal.organization_id, before["id"], values)
    return row, changed


async def change(
    session: Session, principal: Principal, resource: Resource, before: Record, wanted: Mapping[str, Any]
) -> Record:
    """Apply ``wanted`` to a locked record and publish what changed; nothing when nothing did."""
    row, changed = await apply(session, principal, resource, before, wanted)
    if changed:
        emit(session, principal, resource.updated(changes=domain.changes(before, changed)), row)
    return row


async def change_many(
    session: Session,
    principal: Principal,
    resource: Resource,
    items: Sequence[BulkItem],
    change_one: Callable[[Record, Mapping[str, Any]], Awaitable[Record]] | None = None,
) -> list[Record]:
    """Change several records, all or none; they are locked in the order of their ids, against deadlocks.

    ``change_one`` is for a resource whose change is more than ``change``.
    """
    change_one = change_one or partial(change, session, principal, resource)
    found = await repository.lock_records(
        session, resource.records, principal.organization_id, [item.id for item in items]
    )
    rows = []
    for position, item in enumerate(items):
        try:
            before = _require_found(resource, found.get(item.id))
            rows.append(await change_one(before, item.wanted()))
        except Problem as problem:
            raise domain.at_item(problem, position) from None
    return rows


async def delete(session: Session, principal: Principal, resource: Resource, before: Record) -> None:
    """Delete a locked record softly; it can be restored."""
    row = await _set_deleted(session, principal, resource, before, clock.now())
    emit(session, principal, resource.deleted(), row)


async def restore(session: Session, principal: Principal, resource: Resource, before: Record) -> Record:
    """Bring a locked, deleted record back."""
    row = await _set_deleted(session, principal, resource, before, None)
    emit(session, principal, resource.restored(**{resource.name: dict(row)}), row)
    return row


async def _set_deleted(
    session: Session, principal: Principal, resource: Resource, before: Record, moment: datetime | None
) -> Record:
    values = {"deleted_at": moment, "updated_at": clock.now()}
    return await repository.update_record(session, resource.records, principal.organization_id, before["id"], values)


async def page(session: Session, principal: Principal, resource: Resource, query: RecordQuery) -> list[Record]:
    """One row more than the page, so that the caller knows whether there are others."""
    values = query.model_dump(exclude=_NOT_FILTERS, exclude_none=True)
    if not values.get("q", True):
        del values["q"]
    if "q" in values and not repository.words(values["q"]):
        return []
    sort = query.sort_column
    return await repository.list_records(
        session,
        resource.records,
        principal.organization_id,
        sort=sort,
        filters=values,
        after=_cursor_values(query.cursor, sort),
        deleted=query.deleted,
        limit=query.limit + 1,
    )


def _cursor_values(cursor: str | None, sort: str) -> tuple[datetime | str | int, UUID] | None:
    if cursor is None:
        return None
    if sort.endswith("_at"):
        return decode_moment_cursor(cursor, sort)
    return decode_number_cursor(cursor, sort) if sort.endswith("_minor") else decode_name_cursor(cursor, sort)
