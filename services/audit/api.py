"""``/v1/audit/events``."""

from typing import Annotated
from uuid import UUID

from fastapi import Query
from starlette.responses import Response

from services.audit import service
from services.audit.schemas import Entry, EntryQuery
from shared.auth import Principal
from shared.http import (
    BeginSession,
    MeterDep,
    Page,
    RequestSession,
    json_response,
    page_response,
    rated,
    requires,
    service_router,
)

router = service_router("audit", "/v1/audit/events")
SEARCH_COST = 1
"""What looking for words costs beyond a list."""
Reader = Annotated[Principal, requires("audit:read")]


@router.get("", response_model=Page[Entry])
@rated(cost=2, route_class="search")
async def list_audit_events(
    principal: Reader, begin: BeginSession, meter: MeterDep, query: Annotated[EntryQuery, Query()]
) -> Response:
    """Entries of the audit log that match every filter, newest first."""
    if query.searches:
        await meter(SEARCH_COST)
    rows = await service.page(await begin(), principal, query)
    return page_response(rows, query.limit, service.SORT, ("occurred_at", "sequence", "id"))


@router.get("/{entry_id}", response_model=Entry)
async def get_audit_event(principal: Reader, session: RequestSession, entry_id: UUID) -> Response:
    """One entry of the audit log."""
    return json_response(await service.get(session, principal, entry_id))
