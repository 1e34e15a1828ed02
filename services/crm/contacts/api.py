"""``/v1/contacts``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.crm.contacts.schemas import (
    Contact,
    ContactBulkCreate,
    ContactBulkResult,
    ContactBulkUpdate,
    ContactChange,
    ContactCreate,
    ContactPage,
    ContactQuery,
)
from services.crm.contacts.service import CONTACT
from services.crm.records import service
from services.crm.records.responses import bulk_response, record_page, record_response
from shared.auth import Principal
from shared.http import (
    BeginSession,
    MeterDep,
    RequestSession,
    check_if_match,
    not_modified,
    rated,
    requires,
    service_router,
)

router = service_router("contacts", "/v1/contacts")
Reader = Annotated[Principal, requires("contacts:read")]
Writer = Annotated[Principal, requires("contacts:write")]


@router.get("", response_model=ContactPage)
@rated(route_class="search")
async def list_contacts(
    principal: Reader, session: RequestSession, query: Annotated[ContactQuery, Query()]
) -> Response:
    """Contacts that match the filters, newest first unless ``sort`` says otherwise."""
    return record_page(await service.page(session, principal, CONTACT, query), query)


@router.post("", status_code=201, response_model=Contact)
async def create_contact(principal: Writer, session: RequestSession, body: ContactCreate) -> Response:
    """Make a contact."""
    row = await service.create(session, principal, CONTACT, body.model_dump())
    return record_response(row, 201, location="/v1/contacts")


@router.post("/bulk", status_code=201, response_model=ContactBulkResult)
@rated(route_class="bulk")
async def create_contacts(principal: Writer, begin: BeginSession, meter: MeterDep, body: ContactBulkCreate) -> Response:
    """Make up to 200 contacts in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    items = [item.model_dump() for item in body.items]
    return bulk_response(await service.create_many(await begin(), principal, CONTACT, items), 201)


@router.patch("/bulk", response_model=ContactBulkResult)
@rated(route_class="bulk")
async def update_contacts(principal: Writer, begin: BeginSession, meter: MeterDep, body: ContactBulkUpdate) -> Response:
    """Change up to 200 contacts in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    return bulk_response(await service.change_many(await begin(), principal, CONTACT, body.items))


@router.get("/{contact_id}", response_model=Contact)
async def get_contact(principal: Reader, session: RequestSession, request: Request, contact_id: UUID) -> Response:
    """One contact; ``If-None-Match`` saves the transfer."""
    row = await service.get(session, principal, CONTACT, contact_id)
    return not_modified(request, row["version"]) or record_response(row)


@router.patch("/{contact_id}", response_model=Contact)
async def update_contact(
    principal: Writer, session: RequestSession, request: Request, contact_id: UUID, body: ContactChange
) -> Response:
    """Change a contact; with ``If-Match`` only if it has not changed since it was read."""
    before = await service.lock(session, principal, CONTACT, contact_id)
    check_if_match(request, before["version"])
    return record_response(await service.change(session, principal, CONTACT, before, body.wanted()))


@router.delete("/{contact_id}", status_code=204)
async def delete_contact(principal: Writer, session: RequestSession, request: Request, contact_id: UUID) -> Response:
    """Delete a contact; ``POST …/restore`` brings it back."""
    before = await service.lock(session, principal, CONTACT, contact_id)
    check_if_match(request, before["version"])
    await service.delete(session, principal, CONTACT, before)
    return Response(status_code=204)


@router.post("/{contact_id}/restore", response_model=Contact)
async def restore_contact(principal: Writer, session: RequestSession, request: Request, contact_id: UUID) -> Response:
    """Bring a deleted contact back."""
    before = await service.lock(session, principal, CONTACT, contact_id, deleted=True)
    check_if_match(request, before["version"])
    return record_response(await service.restore(session, principal, CONTACT, before))
