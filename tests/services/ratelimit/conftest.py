from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from shared.auth import Principal
from shared.db.database import service_dsn
from shared.ids import new_id
from shared.settings import Settings
from shared.testing.client import ClientFactory
from shared.testing.plugin import PrincipalFactory
from tests.services.ratelimit.recording import Process
from tests.services.ratelimit.support import SCOPES, Published, outbox

Events = Callable[[], Awaitable[list[Published]]]


@pytest.fixture
def caller(principal: PrincipalFactory) -> Principal:
    """A user of the test's organisation who may do everything here."""
    return principal(*SCOPES)


@pytest_asyncio.fixture
async def limits(client: ClientFactory, caller: Principal) -> httpx.AsyncClient:
    """The service as ``caller`` sees it."""
    return await client("ratelimit", caller)


@pytest_asyncio.fixture
async def stranger(client: ClientFactory, principal: PrincipalFactory) -> httpx.AsyncClient:
    """The service as somebody of another organisation sees it, who may do everything there."""
    return await client("ratelimit", principal(*SCOPES, organization_id=new_id()))


@pytest_asyncio.fixture
async def powerless(client: ClientFactory, principal: PrincipalFactory) -> httpx.AsyncClient:
    """The service as a caller without any scope sees it."""
    return await client("ratelimit", principal())


@pytest.fixture
def events(postgres: str, organization_id: UUID) -> Events:
    """``await events()``: what the test's organisation published, in order."""

    async def published() -> list[Published]:
        return await outbox(postgres, organization_id)

    return published


@pytest_asyncio.fixture
async def process(settings: Settings, organization_id: UUID) -> AsyncIterator[Process]:
    """A process that hands in usage of the test's organisation."""
    connection = await asyncpg.connect(service_dsn(settings, "gateway"))
    yield Process(connection, organization_id)
    await connection.close()
