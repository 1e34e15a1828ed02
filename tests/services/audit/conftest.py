"""The audit service as the gateway sees it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from services.audit.app import create_app
from shared.auth import Principal
from shared.db import Database
from shared.http.client import ServiceClient
from shared.http.hosting import Hosted
from shared.settings import Settings
from shared.testing.plugin import DatabaseFactory, PrincipalFactory

Get = Callable[..., Awaitable[Any]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def audit(database: DatabaseFactory) -> Database:
    return await database("audit")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(settings: Settings) -> AsyncIterator[ServiceClient]:
    app = Hosted(create_app(settings))
    async with app.lifespan():
        made = ServiceClient(settings, caller="gateway", callee="audit", upstream=app)
        yield made
        await made.close()


@pytest.fixture
def reader(principal: PrincipalFactory) -> Principal:
    return principal("audit:read")


@pytest.fixture
def get(client: ServiceClient, reader: Principal) -> Get:
    """``await get("/v1/audit/events", action="contact.*")``: the answer's JSON."""

    async def call(path: str = "/v1/audit/events", *, principal: Principal = reader, **params: Any) -> Any:
        sent = {name: str(value) for name, value in params.items()}
        return (await client.call("GET", path, principal=principal, params=sent)).json()

    return call
