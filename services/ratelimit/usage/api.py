"""``/v1/usage``."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.ratelimit.usage import service
from services.ratelimit.usage.schemas import Usage, UsageQuery
from shared.auth import Principal
from shared.http import Page, RequestSession, page_response, requires, service_router

router = service_router("usage", "/v1/usage")
Reader = Annotated[Principal, requires("usage:read")]


@router.get("", response_model=Page[Usage])
async def list_usage(principal: Reader, session: RequestSession, query: Annotated[UsageQuery, Query()]) -> Response:
    """How much was called, by hour and key unless told otherwise; oldest first. Usage is kept for 35 days.

    The last second may not be written yet.
    """
    rows = await service.page(session, principal, query)
    return page_response(rows, query.limit, service.sort(query), ("start", "value"), hidden=("value",))
