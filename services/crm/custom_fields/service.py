"""Use cases of custom fields."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.crm.custom_fields import domain, repository
from services.crm.custom_fields.schemas import CustomFieldChange, CustomFieldCreate, CustomFieldQuery
from services.crm.events import CustomFieldCreated, CustomFieldDeleted, CustomFieldUpdated
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import FieldError, NotFound, ValidationFailed
from shared.events import publish
from shared.http.pagination import decode_moment_cursor
from shared.ids import new_id

SORT = "created_at"


async def validate(
    session: Session,
    principal: Principal,
    record_type: str,
    values: Sequence[Mapping[str, Any]],
    *,
    bulk: bool = False,
) -> None:
    """Raise ``ValidationFailed`` for a value without a definition or of another type.

    ``bulk`` says that the values belong to the items of a bulk request, by position. Null is always fine: it
    also removes what a record holds under a definition that is gone.
    """
    keys = {key for each in values for key, value in each.items() if value is not None}
    if not keys:
        return
    found = await repository.definitions(session, principal.organization_id, record_type, keys)
    known = {row["key"]: row for row in found}
    errors = []
    for position, each in enumerate(values):
        within = f"/items/{position}/custom_fields" if bulk else "/custom_fields"
        for key, value in each.items():
            problem = domain.problem_with(known.get(key), value)
            if problem:
                errors.append(FieldError(field=f"{within}/{key}", code="custom_field_invalid", message=problem))
    if errors:
        raise ValidationFailed(
            "Custom fields are defined under /v1/custom-fields first; see 'errors' for each offending one.",
            code="custom_field_invalid",
            errors=errors,
        )


async def create(session: Session, principal: Principal, body: CustomFieldCreate) -> dict[str, Any]:
    """Define a field; raises ``Conflict`` when the key is taken."""
    now = clock.now()
    row = {"organization_id": principal.organization_id, "id": new_id(), **body.model_dump(), "version": 1,
           "created_at": now, "updated_at": now}  # fmt: skip
    await repository.add(session, row)
    event = CustomFieldCreated(record_type=body.record_type, key=body.key, label=body.label, type=body.type)
    publish(session, event, subject=row["id"], sequence=1, principal=principal)
    return {name: value for name, value in row.items() if name != "organization_id"}


async def get(session: Session, principal: Principal, field_id: UUID, *, lock: bool = False) -> Record:
    """A definition, with ``lock`` held until the transaction ends; raises ``NotFound``."""
    row = await repository.get(session, principal.organization_id, field_id, lock=lock)
    if row is None:
        raise NotFound("There is no custom field with this id.")
    return row


async def change(session: Session, principal: Principal, before: Record, body: CustomFieldChange) -> Record:
    """Change the label or the options of a locked definition."""
    wanted = body.model_dump(exclude_unset=True)
    if "options" in wanted and (before["type"] == "select") != bool(wanted["options"]):
        raise ValidationFailed(
            "A select field needs options, and no other type has them.",
            errors=[{"field": "/options", "code": "options_do_not_fit", "message": f"the type is {before['type']}"}],
        )
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if not changed:
        return before
    row = await repository.change(
        session, principal.organization_id, before["id"], {**changed, "updated_at": clock.now()}
    )
    assert row is not None, "the caller holds the row's lock"
    event = CustomFieldUpdated(
        record_type=row["record_type"], key=row["key"], label=row["label"], options=row["options"]
    )
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)
    return row


async def delete(session: Session, principal: Principal, before: Record) -> None:
    """Remove a locked definition."""
    await repository.remove(session, principal.organization_id, before["id"])
    event = CustomFieldDeleted(record_type=before["record_type"], key=before["key"])
    publish(session, event, subject=before["id"], sequence=before["version"] + 1, principal=principal)


async def page(session: Session, principal: Principal, query: CustomFieldQuery) -> list[Record]:
    """One definition more than the page holds."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    return await repository.page(session, principal.organization_id, query.record_type, after, query.limit + 1)
