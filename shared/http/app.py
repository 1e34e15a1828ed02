"""The application factory: what every service has besides its routes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
from shared.limits.client import Limits
from shared.limits.metering import Meter
from shared.limits.usage import UsageRecorder
from shared.settings import Settings

LIMITS_PATIENCE_SECONDS = 2.0
"""A service waits for its limits as long as for a connection: without the database it could not answer either."""

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
    limits_schema: str | None = None,
    on_stop: Sequence[Callable[[], Awaitable[None]]] = (),
) -> FastAPI:
    """A service: identity required, problems as answers, unit of work, probes, metrics and spans.

    ``callers`` are those whose signed identity is accepted; ``ready_checks`` raise ``ServiceUnavailable`` when not
    ready. While ``state.draining`` is set, ``/readyz`` says that the service stops. A service without a ``schema`` has
    no database. One with ``limits_schema``, where limits are counted, meters (``state.meter``) and may limit by itself
    (``state.limits``). ``on_stop`` closes what the service itself holds.
    """
    database = Database.for_service(settings, name) if schema else None
    probe = StatusProbe(name, database)
    limits, meter = _metering(database, limits_schema, settings)
    running = _running(database, limits, meter, (*on_stop, probe.stop))
    app = FastAPI(title=title, description=description, version="1", lifespan=running, **_FASTAPI)
    app.state.settings = settings
    app.state.database = database
    app.state.draining = False
    app.state.limits, app.state.meter = limits, meter
    for router in routers:
        app.include_router(router)
    _add_probes(app, database, ready_checks, probe)
    problems.install(app)
    openapi.install(app)
    telemetry.instrument(app, name, settings)
    app.add_middleware(ServiceEdge, service=name, derive_key=settings.derive_key, callers=tuple(callers))
    return app


def _running(
    database: Database | None,
    limits: Limits | None,
    meter: Meter | None,
    on_stop: Iterable[Callable[[], Awaitable[None]]],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if database is not None:
                await database.open()
                stack.push_async_callback(database.close)
            if limits is not None and meter is not None:
                await limits.start(at_once=False)
                stack.push_async_callback(limits.stop)
                stack.push_async_callback(meter.stop)
            for stop in on_stop:
                stack.push_async_callback(stop)
            yield

    return lifespan


def _metering(
    database: Database | None, schema: str | None, settings: Settings
) -> tuple[Limits, Meter] | tuple[None, None]:
    if database is None or schema is None:
        return None, None
    plan, patience = settings.default_plan, LIMITS_PATIENCE_SECONDS
    limits = Limits(database, schema=schema, default_plan=plan, patience=patience)
    return limits, Meter(limits, UsageRecorder(database, schema=schema))


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
