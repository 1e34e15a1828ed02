"""``/v1/limits/audit``."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.ratelimit.selfaudit import service
from services.ratelimit.selfaudit.repository import ORDER
from services.ratelimit.selfaudit.schemas import AuditedWindow, LimitAuditQuery
from shared.auth import Principal
from shared.http import Page, RequestSession, page_response, requires, service_router

router = service_router("limits", "/v1/limits/audit")
Reader = Annotated[Principal, requires("limits:read")]


@router.get("", response_model=Page[AuditedWindow])
async def list_audited_windows(
    principal: Reader, session: RequestSession, query: Annotated[LimitAuditQuery, Query()]
) -> Response:
    """Windows that ended, the latest first: what was let through, beside what the limits allowed.

    What a process spent last it reports within seconds of the window's end; until then it looks stranded.
    """
    rows = await service.page(session, principal, query)
    return page_response(rows, query.limit, service.SORT, ORDER)
