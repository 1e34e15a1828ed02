from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from shared.auth import Principal
from shared.ids import new_id
from shared.testing.client import ClientFactory
from shared.testing.plugin import PrincipalFactory
from tests.services.crm.support import KINDS, SCOPES, Events, Kind, Published, outbox


@pytest.fixture
def caller(principal: PrincipalFactory) -> Principal:
    """A user of the test's organisation who may do everything."""
    return principal(*SCOPES)


@pytest_asyncio.fixture
async def crm(client: ClientFactory, caller: Principal) -> httpx.AsyncClient:
    """The CRM as ``caller`` sees it."""
    return await client("crm", caller)


@pytest_asyncio.fixture
async def stranger(client: ClientFactory, principal: PrincipalFactory) -> httpx.AsyncClient:
    """The CRM as somebody of another organisation sees it, who may do everything there."""
    return await client("crm", principal(*SCOPES, organization_id=new_id()))


@pytest_asyncio.fixture
async def powerless(client: ClientFactory, principal: PrincipalFactory) -> httpx.AsyncClient:
    """The CRM as a caller without any scope sees it."""
    return await client("crm", principal())


@pytest.fixture
def events(postgres: str, organization_id: UUID) -> Events:
    """``await events()``: what the test's organisation published, in order, without events of pipelines."""

    async def published() -> list[Published]:
        return [each for each in await outbox(postgres, organization_id) if not each.type.startswith("pipeline.")]

    return published


@pytest.fixture(params=KINDS, ids=lambda kind: kind.plural)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the four kinds of record in turn."""
    each: Kind = request.param
    return each
