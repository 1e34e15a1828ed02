"""Looking for words in the audit log costs more than a list of it."""

from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest_asyncio

from shared.auth import Principal
from shared.settings import Settings
from shared.testing.client import ServiceFactory, SignedAs
from tests.services.policies import store_policy


@pytest_asyncio.fixture
async def audit_log(
    settings: Settings, service_app: ServiceFactory, reader: Principal
) -> AsyncIterator[httpx.AsyncClient]:
    transport, auth = httpx.ASGITransport(app=await service_app("audit")), SignedAs(settings, "audit", reader)
    async with httpx.AsyncClient(transport=transport, base_url="http://audit", auth=auth) as made:
        yield made


async def statuses(log: httpx.AsyncClient, times: int, **params: str | int) -> list[int]:
    return [(await log.get("/v1/audit/events", params=params)).status_code for _ in range(times)]


async def test_a_search_costs_a_unit_more(audit_log: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
    await store_policy(postgres, organization_id, quota=2)
    assert await statuses(audit_log, 3, action="contact.*") == [200] * 3
    assert await statuses(audit_log, 3, q="   ") == [200] * 3
    assert await statuses(audit_log, 3, q="ada") == [200, 200, 429]
    assert await statuses(audit_log, 1) == [200]


async def test_a_large_page_of_one_costs_both(
    audit_log: httpx.AsyncClient, postgres: str, organization_id: UUID
) -> None:
    await store_policy(postgres, organization_id, quota=4)
    assert await statuses(audit_log, 3, q="ada", limit=200) == [200, 200, 429]
