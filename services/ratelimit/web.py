"""What the operations of limits ask of the application: the default plan, who is editing, and a simulation's place."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from services.ratelimit.policies.domain import Editor
from services.ratelimit.simulation.running import Simulations
from shared.http.rates import rate_of
from shared.limits.policies import Operation


def writing_operations(*routers: APIRouter) -> list[Operation]:
    """The operations of these routers that change something, with their costs and classes."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    made = []
    for route in routes:
        for method in sorted((route.methods or set()) - {"GET", "HEAD"}):
            rate = rate_of(route, method)
            made.append(Operation(method, route.path, rate["cost"], rate["class"]))
    return made


async def _default_plan(request: Request) -> str:
    plan: str = request.app.state.settings.default_plan
    return plan


async def _editor(request: Request) -> Editor:
    state = request.app.state
    return Editor(request.scope["principal"], state.editing, state.settings.default_plan)


async def _simulations(request: Request) -> Simulations:
    simulations: Simulations = request.app.state.simulations
    return simulations


DefaultPlan = Annotated[str, Depends(_default_plan)]
"""The plan of an organisation that was given none."""

CurrentEditor = Annotated[Editor, Depends(_editor)]
"""Whoever changes limits with this request."""

RunningSimulations = Annotated[Simulations, Depends(_simulations)]
"""The simulations of this process."""
