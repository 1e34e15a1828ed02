"""``/v1/limits/simulate``."""

from typing import Annotated

from starlette.responses import Response

from services.ratelimit.simulation import service
from services.ratelimit.simulation.schemas import LimitSimulation, LimitSimulationRequest
from shared.auth import Principal
from shared.http import RequestSession, json_response, rated, requires, service_router

router = service_router("limits", "/v1/limits/simulate")
Reader = Annotated[Principal, requires("limits:read")]


@router.post("", response_model=LimitSimulation)
@rated(cost=20, route_class="search")
async def simulate_limit_policy(principal: Reader, session: RequestSession, body: LimitSimulationRequest) -> Response:
    """Replay past usage against a policy: whom it would have refused, when and how often. Nothing is saved.

    All calls count as wanted, those that were refused then, too.
    """
    return json_response(await service.simulate(session, principal, body))
