"""The CRM's use cases, found by the kind of record: what its API does for a request, done without one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cli.demo.story import Operation, Record
from services.crm.activities.schemas import ActivityChange, ActivityCreate, ActivityQuery
from services.crm.activities.service import ACTIVITY
from services.crm.companies.schemas import CompanyChange, CompanyCreate, CompanyQuery
from services.crm.companies.service import COMPANY
from services.crm.contacts.schemas import ContactChange, ContactCreate, ContactQuery
from services.crm.contacts.service import CONTACT
from services.crm.custom_fields import service as custom_fields
from services.crm.custom_fields.schemas import CustomFieldCreate, CustomFieldQuery
from services.crm.deals import service as deals
from services.crm.deals.schemas import DealChange, DealCreate, DealQuery
from services.crm.pipelines import service as pipelines
from services.crm.pipelines.schemas import PipelineCreate, PipelineQuery
from services.crm.records import service as records
from services.crm.records.resource import Resource
from services.crm.records.schemas import RecordChange, RecordInput, RecordQuery
from shared.auth import Principal
from shared.db import Session
from shared.http.pagination import MAX_LIMIT, encode_cursor

Row = Mapping[str, Any]
_SORT = "created_at"


@dataclass(frozen=True, slots=True)
class _Kind:
    resource: Resource
    create: type[RecordInput]
    change: type[RecordChange]
    query: type[RecordQuery]


_KINDS: Mapping[Record, _Kind] = {
    "company": _Kind(COMPANY, CompanyCreate, CompanyChange, CompanyQuery),
    "contact": _Kind(CONTACT, ContactCreate, ContactChange, ContactQuery),
    "deal": _Kind(deals.DEAL, DealCreate, DealChange, DealQuery),
    "activity": _Kind(ACTIVITY, ActivityCreate, ActivityChange, ActivityQuery),
}


async def create(session: Session, principal: Principal, record: Record, values: Row) -> Row:
    """Store something new; as it was stored."""
    if record == "custom_field":
        return await custom_fields.create(session, principal, CustomFieldCreate.model_validate(values))
    if record == "pipeline":
        return await pipelines.create(session, principal, PipelineCreate.model_validate(values))
    kind = _KINDS[record]
    body = kind.create.model_validate(values).model_dump()
    if record == "deal":
        return await deals.create(session, principal, body)
    return await records.create(session, principal, kind.resource, body)


async def alter(session: Session, principal: Principal, operation: Operation, record_id: UUID, values: Row) -> None:
    """Update, delete or restore a record; raises ``NotFound`` where it is not as the operation expects."""
    kind = _KINDS[operation.record]
    deleted = operation.action == "restore"
    before = await records.lock(session, principal, kind.resource, record_id, deleted=deleted)
    if operation.action == "delete":
        await records.delete(session, principal, kind.resource, before)
    elif operation.action == "restore":
        await records.restore(session, principal, kind.resource, before)
    elif operation.record == "deal":
        await deals.change(session, principal, before, kind.change.model_validate(values).wanted())
    else:
        await records.change(session, principal, kind.resource, before, kind.change.model_validate(values).wanted())


async def newest(session: Session, principal: Principal, before: datetime) -> datetime | None:
    """When the latest of all records was made, deleted ones too, of those made before ``before``."""
    moments: list[datetime] = []
    for kind in _KINDS.values():
        for deleted in (False, True):
            query = kind.query.model_validate(
                {"limit": 1, "sort": f"-{_SORT}", "deleted": deleted, "created_before": before}
            )
            moments += [row[_SORT] for row in await records.page(session, principal, kind.resource, query)]
    return max(moments, default=None)


async def made(session: Session, principal: Principal, record: Record, before: datetime) -> dict[datetime, Row]:
    """Everything of one kind that was made before ``before``, deleted or not, by the time it was made."""
    found: dict[datetime, Row] = {}
    for deleted in (False, True) if record in _KINDS else (False,):
        cursor = None
        while True:
            rows = await _page(session, principal, record, cursor, deleted=deleted)
            found.update((row[_SORT], row) for row in rows[:MAX_LIMIT] if row[_SORT] < before)
            if len(rows) <= MAX_LIMIT:
                break
            cursor = encode_cursor(_SORT, [rows[MAX_LIMIT - 1][_SORT], rows[MAX_LIMIT - 1]["id"]])
    return found


async def _page(
    session: Session, principal: Principal, record: Record, cursor: str | None, *, deleted: bool
) -> Sequence[Row]:
    if record == "custom_field":
        return await custom_fields.page(session, principal, CustomFieldQuery(limit=MAX_LIMIT, cursor=cursor))
    if record == "pipeline":
        return await pipelines.page(session, principal, PipelineQuery(limit=MAX_LIMIT, cursor=cursor))
    kind = _KINDS[record]
    query = kind.query.model_validate({"limit": MAX_LIMIT, "cursor": cursor, "sort": _SORT, "deleted": deleted})
    return await records.page(session, principal, kind.resource, query)
