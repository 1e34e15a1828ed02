"""The application factory: what every service has besides its routes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from shared import telemetry
from shared.db import Database
from shared.errors import ServiceUnavailable
from shared.http import openapi, problems
from shared.http.edge import STATUS_PATH, ServiceEdge
from shared.http.responses import json_response
from shared.http.status import StatusProbe
from shared.settings import Settings

ReadyCheck = Callable[[], Awaitable[None]]

_FASTAPI: dict[str, Any] = {
    "docs_url": None,  # the gateway serves the reference of all services together
    "redoc_url": None,
    "openapi_url": None,
    "generate_unique_id_function": openapi.operation_id,
    "redirect_slashes": False,
}


def create_service(
    *,
    name: str,
    title: str,
    description: str,
    settings: Settings,
    routers: Sequence[APIRouter],
    callers: Iterable[str] = ("gateway",),
    ready_checks: Sequence[ReadyCheck] = (),
    schema: bool = True,
    on_stop: Sequence[Callable[[], Awaitable[None]]] = (),
) -> FastAPI:
    """A service: identity required, problems as answers, unit of work, probes, metrics and spans.

    ``callers`` are those whose signed identity is accepted; ``ready_checks`` raise ``ServiceUnavailable`` when not
    ready. While ``state.draining`` is set, ``/readyz`` says that the service stops. A service without a ``schema`` has no database. ``on_stop`` closes what the service itself holds.
    """
    database = Database.for_service(settings, name) if schema else None
    probe = StatusProbe(name, database)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if database is not None:
                await database.open()
                stack.push_async_callback(database.close)
            for stop in (*on_stop, probe.stop):
                stack.push_async_callback(stop)
            yield

    app = FastAPI(title=title, description=description, version="1", lifespan=lifespan, **_FASTAPI)
    app.state.settings = settings
    app.state.database = database
    app.state.draining = False
    for router in routers:
        app.include_router(router)
    _add_probes(app, database, ready_checks, probe)
    problems.install(app)
    openapi.install(app)
    telemetry.instrument(app, name, settings)
    app.add_middleware(ServiceEdge, service=name, derive_key=settings.derive_key, callers=tuple(callers))
    return app


def _add_probes(
    app: FastAPI, database: Database | None, ready_checks: Sequence[ReadyCheck], probe: StatusProbe
) -> None:
    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return json_response({"status": "ok"})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        if app.state.draining:
            raise ServiceUnavailable("The service is stopping.")
        try:
            if database is not None:
                async with database.transaction() as session:
                    await session.connection.fetchval("SELECT 1")
        except (ServiceUnavailable, asyncpg.PostgresError, OSError) as error:
            raise ServiceUnavailable("The database cannot be reached.") from error
        for check in ready_checks:
            await check()
        return json_response({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get(STATUS_PATH, include_in_schema=False)
    async def status() -> Response:
        return json_response(await probe.status())
