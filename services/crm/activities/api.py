"""``/v1/activities``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from starlette.responses import Response

from services.crm.activities.schemas import (
    Activity,
    ActivityBulkCreate,
    ActivityBulkResult,
    ActivityBulkUpdate,
    ActivityChange,
    ActivityCreate,
    ActivityPage,
    ActivityQuery,
)
from services.crm.activities.service import ACTIVITY
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

router = service_router("activities", "/v1/activities")
Reader = Annotated[Principal, requires("activities:read")]
Writer = Annotated[Principal, requires("activities:write")]


@router.get("", response_model=ActivityPage)
@rated(route_class="search")
async def list_activities(
    principal: Reader, session: RequestSession, query: Annotated[ActivityQuery, Query()]
) -> Response:
    """Activities that match the filters, the latest first unless ``sort`` says otherwise."""
    return record_page(await service.page(session, principal, ACTIVITY, query), query)


@router.post("", status_code=201, response_model=Activity)
async def create_activity(principal: Writer, session: RequestSession, body: ActivityCreate) -> Response:
    """Record an activity."""
    row = await service.create(session, principal, ACTIVITY, body.model_dump())
    return record_response(row, 201, location="/v1/activities")


@router.post("/bulk", status_code=201, response_model=ActivityBulkResult)
@rated(route_class="bulk")
async def create_activities(
    principal: Writer, begin: BeginSession, meter: MeterDep, body: ActivityBulkCreate
) -> Response:
    """Record up to 200 activities in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    items = [item.model_dump() for item in body.items]
    return bulk_response(await service.create_many(await begin(), principal, ACTIVITY, items), 201)


@router.patch("/bulk", response_model=ActivityBulkResult)
@rated(route_class="bulk")
async def update_activities(
    principal: Writer, begin: BeginSession, meter: MeterDep, body: ActivityBulkUpdate
) -> Response:
    """Change up to 200 activities in one transaction."""
    await meter(len(body.items) - 1)  # each record is a unit; the first is the call
    return bulk_response(await service.change_many(await begin(), principal, ACTIVITY, body.items))


@router.get("/{activity_id}", response_model=Activity)
async def get_activity(principal: Reader, session: RequestSession, request: Request, activity_id: UUID) -> Response:
    """One activity; ``If-None-Match`` saves the transfer."""
    row = await service.get(session, principal, ACTIVITY, activity_id)
    return not_modified(request, row["version"]) or record_response(row)


@router.patch("/{activity_id}", response_model=Activity)
async def update_activity(
    principal: Writer, session: RequestSession, request: Request, activity_id: UUID, body: ActivityChange
) -> Response:
    """Change an activity; with ``If-Match`` only if it has not changed since it was read."""
    before = await service.lock(session, principal, ACTIVITY, activity_id)
    check_if_match(request, before["version"])
    return record_response(await service.change(session, principal, ACTIVITY, before, body.wanted()))


@router.delete("/{activity_id}", status_code=204)
async def delete_activity(principal: Writer, session: RequestSession, request: Request, activity_id: UUID) -> Response:
    """Delete an activity; ``POST …/restore`` brings it back."""
    before = await service.lock(session, principal, ACTIVITY, activity_id)
    check_if_match(request, before["version"])
    await service.delete(session, principal, ACTIVITY, before)
    return Response(status_code=204)


@router.post("/{activity_id}/restore", response_model=Activity)
async def restore_activity(principal: Writer, session: RequestSession, request: Request, activity_id: UUID) -> Response:
    """Bring a deleted activity back."""
    before = await service.lock(session, principal, ACTIVITY, activity_id, deleted=True)
    check_if_match(request, before["version"])
    return record_response(await service.restore(session, principal, ACTIVITY, before))
