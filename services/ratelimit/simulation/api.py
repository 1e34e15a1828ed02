"""``/v1/limits/simulate``."""

from typing import Annotated

from starlette.responses import Response

from services.ratelimit.simulation import service
from services.ratelimit.simulation.schemas import LimitSimulation, LimitSimulationRequest
from services.ratelimit.web import RunningSimulations
from shared.auth import Principal
from shared.http import BeginSession, json_response, rated, requires, service_router

router = service_router("limits", "/v1/limits/simulate")
Reader = Annotated[Principal, requires("usage:read")]


@router.post("", response_model=LimitSimulation)
@rated(cost=20, route_class="search")
async def simulate_limit_policy(
    principal: Reader, begin: BeginSession, running: RunningSimulations, body: LimitSimulationRequest
) -> Response:
    """Replay past usage against a policy: whom it would have refused, when and how often. Nothing is saved.

    All calls count as wanted, those that were refused then, too. An organisation has one simulation at a time
    (`simulation_running`).
    """
    with running.one(principal.organization_id):
        return json_response(await service.simulate(await begin(), principal, body))
