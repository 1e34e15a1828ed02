"""``/v1/deals``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.crm.deals import service
from services.crm.deals.schemas import (
    Deal,
    DealBulkCreate,
    DealBulkResult,
    DealBulkUpdate,
    DealChange,
    DealCreate,
    DealPage,
    DealQuery,
)
from services.crm.deals.service import DEAL
from services.crm.records import service as records
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

router = service_router("deals", "/v1/deals")
Reader = Annotated[Principal, requires("deals:read")]
Writer = Annotated[Principal, requires("deals:write")]


@router.get("", response_model=DealPage)
@rated(route_class="search")
async def list_deals(principal: Reader, session: RequestSession, query: Annotated[DealQuery, Query()]) -> Response:
    """Deals that match the filters, newest first unless ``sort`` says otherwise."""
    return record_page(await records.page(session, principal, DEAL, query), query)


@router.post("", status_code=201, response_model=Deal)
async def create_deal(principal: Writer, session: RequestSession, body: DealCreate) -> Response:
    """Open a deal; without a pipeline or stage it begins at the default pipeline's first open stage."""
    row = await service.create(session, principal, body.model_dump())
    return record_response(row, 201, location="/v1/deals")


@router.post("/bulk", status_code=201, response_model=DealBulkResult)
@rated(route_class="bulk")
async def create_deals(principal: Writer, begin: BeginSession, meter: MeterDep, body: DealBulkCreate) -> Response:
    """Make up to 200 deals in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    items = [item.model_dump() for item in body.items]
    return bulk_response(await service.create_many(await begin(), principal, items), 201)


@router.patch("/bulk", response_model=DealBulkResult)
@rated(route_class="bulk")
async def update_deals(principal: Writer, begin: BeginSession, meter: MeterDep, body: DealBulkUpdate) -> Response:
    """Change up to 200 deals in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    return bulk_response(await service.change_many(await begin(), principal, body.items))


@router.get("/{deal_id}", response_model=Deal)
async def get_deal(principal: Reader, session: RequestSession, request: Request, deal_id: UUID) -> Response:
    """One deal; ``If-None-Match`` saves the transfer."""
    row = await records.get(session, principal, DEAL, deal_id)
    return not_modified(request, row["version"]) or record_response(row)


@router.patch("/{deal_id}", response_model=Deal)
async def update_deal(
    principal: Writer, session: RequestSession, request: Request, deal_id: UUID, body: DealChange
) -> Response:
    """Change a deal, or move it to another stage; with ``If-Match`` only if it has not changed since."""
    before = await records.lock(session, principal, DEAL, deal_id)
    check_if_match(request, before["version"])
    return record_response(await service.change(session, principal, before, body.wanted()))


@router.delete("/{deal_id}", status_code=204)
async def delete_deal(principal: Writer, session: RequestSession, request: Request, deal_id: UUID) -> Response:
    """Delete a deal; ``POST …/restore`` brings it back."""
    before = await records.lock(session, principal, DEAL, deal_id)
    check_if_match(request, before["version"])
    await records.delete(session, principal, DEAL, before)
    return Response(status_code=204)


@router.post("/{deal_id}/restore", response_model=Deal)
async def restore_deal(principal: Writer, session: RequestSession, request: Request, deal_id: UUID) -> Response:
    """Bring a deleted deal back."""
    before = await records.lock(session, principal, DEAL, deal_id, deleted=True)
    check_if_match(request, before["version"])
    return record_response(await records.restore(session, principal, DEAL, before))
