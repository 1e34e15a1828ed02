"""``/v1/plans``."""

from typing import Annotated

from starlette.responses import Response

from services.ratelimit.plans import service
from services.ratelimit.plans.schemas import PlanList
from services.ratelimit.web import DefaultPlan
from shared.auth import Principal
from shared.http import RequestSession, json_response, requires, service_router

router = service_router("plans", "/v1/plans")
Reader = Annotated[Principal, requires("limits:read")]


@router.get("", response_model=PlanList)
async def list_plans(principal: Reader, session: RequestSession, plan: DefaultPlan) -> Response:
    """The plans there are, with their policies."""
    return json_response({"data": await service.every(session, principal, plan)})
