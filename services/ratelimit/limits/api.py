"""``/v1/limits``."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.ratelimit.limits import service
from services.ratelimit.limits.schemas import Limit, LimitQuery
from services.ratelimit.web import DefaultPlan
from shared.auth import Principal
from shared.http import Page, RequestSession, page_response, requires, service_router

router = service_router("limits", "/v1/limits")
Reader = Annotated[Principal, requires("limits:read")]


@router.get("", response_model=Page[Limit])
async def list_limits(
    principal: Reader, session: RequestSession, plan: DefaultPlan, query: Annotated[LimitQuery, Query()]
) -> Response:
    """Usage per window: what each subject has used of every limit in effect, and what is left until when.

    The limits of the plan come first, then the organisation's own, each by name, and under each its subjects. A
    limit under which nothing was counted in the present window has one row.
    """
    rows = await service.page(session, principal, plan, query)
    place = ("place", "counted")
    return page_response(rows, query.limit, service.SORT, place, hidden=place)
