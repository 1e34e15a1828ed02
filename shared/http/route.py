"""One request is one transaction, and a keyed request happens once.

The route commits before it gives the answer on, so a commit that fails is an error the caller sees and
not an answer already sent. With ``Idempotency-Key`` the rendered answer is stored in the same transaction.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from shared.http import idempotency
from shared.http.dependencies import guards
from shared.http.metering import charge_page, lists_pages
from shared.http.problems import PROBLEM_RESPONSES
from shared.http.unit_of_work import UnitOfWork

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRequest(Request):
    """A request whose body is parsed by orjson, which takes JSON and nothing more: no ``NaN``, no lone
    surrogate, no nesting without end.
    """

    async def json(self) -> Any:
        """The parsed body; raises ``json.JSONDecodeError``."""
        return orjson.loads(await self.body())


class UnitOfWorkRoute(APIRoute):
    """A FastAPI route whose handler runs in a unit of work."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, wrapped."""
        handler, allowed, is_list = super().get_route_handler(), guards(self.dependant), lists_pages(self.dependant)

        async def run(request: Request) -> Response:
            scope = request.scope
            request = JsonRequest(scope, request.receive)
            if is_list:
                for guard in allowed:  # who may not see the list is not charged for it
                    await guard(request)
                await charge_page(request)
            async with UnitOfWork(scope["app"].state.database, scope["principal"]) as unit:
                scope["unit_of_work"] = unit
                key = request.headers.get("idempotency-key") if scope["method"] == "POST" else None
                if key is None:
                    return await handler(request)
                for guard in allowed:  # before a stored answer is shown: scopes may have been taken away since
                    await guard(request)
                return await idempotency.once(key, request, unit, scope["route"].path, handler)

        return run


def service_router(tag: str, prefix: str = "") -> APIRouter:
    """A router of one resource: its tag, the unit of work, and the problems every operation may answer."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=UnitOfWorkRoute, responses=PROBLEM_RESPONSES)
