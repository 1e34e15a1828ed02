"""What a request costs beyond what its contract says, taken before the work is done.

A page of more than a hundred rows costs a unit more for each hundred begun; that is done here for every list.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from shared.http.pagination import MAX_LIMIT, PageParams
from shared.http.rates import operation_of
from shared.limits.metering import Meter

ROWS_A_UNIT = 100
_ROWS = TypeAdapter(int)


async def charge(request: Request, cost: int) -> None:
    """Take ``cost`` units more for this request; raises ``QuotaExceeded`` or ``ReducedCapacity``."""
    meter: Meter | None = request.app.state.meter
    if meter is not None:
        route: APIRoute = request.scope["route"]
        charged = request.scope.setdefault("guardian.charged", [])
        await meter.charge(request.scope["principal"], operation_of(route, request.method), cost, charged)


def lists_pages(dependant: Dependant) -> bool:
    """Whether an operation's query is one of a list."""
    kinds = [field.field_info.annotation for field in dependant.query_params]
    return any(isinstance(kind, type) and issubclass(kind, PageParams) for kind in kinds)


async def charge_page(request: Request) -> None:
    """Take what a large page costs more; a ``limit`` that will be refused costs nothing."""
    text = request.query_params.get("limit")
    if text is None:
        return
    try:
        rows = _ROWS.validate_python(text)
    except ValidationError:
        return
    if ROWS_A_UNIT < rows <= MAX_LIMIT:
        await charge(request, (rows - 1) // ROWS_A_UNIT)


async def _meter(request: Request) -> Callable[[int], Awaitable[None]]:
    return partial(charge, request)


MeterDep = Annotated[Callable[[int], Awaitable[Any]], Depends(_meter)]
"""``await meter(cost)``: take so many units more, before the work is done."""
