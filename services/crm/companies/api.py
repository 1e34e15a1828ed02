"""``/v1/companies``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.crm.companies.schemas import (
    Company,
    CompanyBulkCreate,
    CompanyBulkResult,
    CompanyBulkUpdate,
    CompanyChange,
    CompanyCreate,
    CompanyPage,
    CompanyQuery,
)
from services.crm.companies.service import COMPANY
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

router = service_router("companies", "/v1/companies")
Reader = Annotated[Principal, requires("companies:read")]
Writer = Annotated[Principal, requires("companies:write")]


@router.get("", response_model=CompanyPage)
@rated(route_class="search")
async def list_companies(
    principal: Reader, session: RequestSession, query: Annotated[CompanyQuery, Query()]
) -> Response:
    """Companies that match the filters, newest first unless ``sort`` says otherwise."""
    return record_page(await service.page(session, principal, COMPANY, query), query)


@router.post("", status_code=201, response_model=Company)
async def create_company(principal: Writer, session: RequestSession, body: CompanyCreate) -> Response:
    """Make a company."""
    row = await service.create(session, principal, COMPANY, body.model_dump())
    return record_response(row, 201, location="/v1/companies")


@router.post("/bulk", status_code=201, response_model=CompanyBulkResult)
@rated(route_class="bulk")
async def create_companies(
    principal: Writer, begin: BeginSession, meter: MeterDep, body: CompanyBulkCreate
) -> Response:
    """Make up to 200 companies in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    items = [item.model_dump() for item in body.items]
    return bulk_response(await service.create_many(await begin(), principal, COMPANY, items), 201)


@router.patch("/bulk", response_model=CompanyBulkResult)
@rated(route_class="bulk")
async def update_companies(
    principal: Writer, begin: BeginSession, meter: MeterDep, body: CompanyBulkUpdate
) -> Response:
    """Change up to 200 companies in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    return bulk_response(await service.change_many(await begin(), principal, COMPANY, body.items))


@router.get("/{company_id}", response_model=Company)
async def get_company(principal: Reader, session: RequestSession, request: Request, company_id: UUID) -> Response:
    """One company; ``If-None-Match`` saves the transfer."""
    row = await service.get(session, principal, COMPANY, company_id)
    return not_modified(request, row["version"]) or record_response(row)


@router.patch("/{company_id}", response_model=Company)
async def update_company(
    principal: Writer, session: RequestSession, request: Request, company_id: UUID, body: CompanyChange
) -> Response:
    """Change a company; with ``If-Match`` only if it has not changed since it was read."""
    before = await service.lock(session, principal, COMPANY, company_id)
    check_if_match(request, before["version"])
    return record_response(await service.change(session, principal, COMPANY, before, body.wanted()))


@router.delete("/{company_id}", status_code=204)
async def delete_company(principal: Writer, session: RequestSession, request: Request, company_id: UUID) -> Response:
    """Delete a company; ``POST …/restore`` brings it back."""
    before = await service.lock(session, principal, COMPANY, company_id)
    check_if_match(request, before["version"])
    await service.delete(session, principal, COMPANY, before)
    return Response(status_code=204)


@router.post("/{company_id}/restore", response_model=Company)
async def restore_company(principal: Writer, session: RequestSession, request: Request, company_id: UUID) -> Response:
    """Bring a deleted company back."""
    before = await service.lock(session, principal, COMPANY, company_id, deleted=True)
    check_if_match(request, before["version"])
    return record_response(await service.restore(session, principal, COMPANY, before))
