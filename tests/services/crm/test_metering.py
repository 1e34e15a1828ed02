"""Large pages cost more than the call itself, which the gateway has counted already."""

import asyncio
import time
from uuid import UUID

import httpx
import pytest

from tests.services.crm.support import problem
from tests.services.policies import store_policy, usage_of


async def pages(crm: httpx.AsyncClient, limit: int | str, times: int) -> list[int]:
    return [(await crm.get("/v1/contacts", params={"limit": limit})).status_code for _ in range(times)]


async def test_a_page_of_more_than_a_hundred_costs_a_unit_more(
    crm: httpx.AsyncClient, postgres: str, organization_id: UUID
) -> None:
    policy = await store_policy(postgres, organization_id, name="rows", quota=2, routes=["GET /v1/contacts"])
    assert await pages(crm, 100, 3) == [200] * 3
    assert await pages(crm, 101, 3) == [200, 200, 429]
    answer = await crm.get("/v1/contacts", params={"limit": 200})
    body = problem(answer, 429, "quota_exceeded")
    assert body["violated-policies"] == ["rows"]
    assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    (entry,) = [each for each in body["receipt"]["policies"] if each["refused"]]
    assert (entry["policy_id"], entry["cost"], entry["subject"]) == (str(policy), 1, "organization")
    assert body["receipt"]["operation"] == "GET /v1/contacts"
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert '"rows";q=2;w=3600' in answer.headers["ratelimit-policy"]
    assert '"rows";r=0;t=' in answer.headers["ratelimit"]
    assert await pages(crm, 100, 1) == [200]


@pytest.mark.parametrize("limit", ["+200", "200.0", " 200"])
async def test_however_the_number_is_written(
    crm: httpx.AsyncClient, postgres: str, organization_id: UUID, limit: str
) -> None:
    await store_policy(postgres, organization_id, quota=1)
    assert await pages(crm, limit, 2) == [200, 429]


async def test_what_is_not_done_costs_nothing(
    crm: httpx.AsyncClient, powerless: httpx.AsyncClient, postgres: str, organization_id: UUID
) -> None:
    await store_policy(postgres, organization_id, quota=1)
    assert await pages(crm, 201, 2) + await pages(crm, "many", 2) == [422] * 4
    assert await pages(powerless, 200, 3) == [403] * 3
    assert await pages(crm, 200, 2) == [200, 429]


@pytest.mark.parametrize("fields", [{"weighted": False}, {"unit": "concurrent-requests", "window": None}])
async def test_limits_that_count_calls_do_not_count_work(
    crm: httpx.AsyncClient, postgres: str, organization_id: UUID, fields: dict[str, object]
) -> None:
    await store_policy(postgres, organization_id, quota=1, **fields)
    assert await pages(crm, 200, 5) == [200] * 5


async def test_a_limit_of_a_key_is_the_keys(crm: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
    await store_policy(postgres, organization_id, quota=0, per=["key"])
    assert await pages(crm, 200, 2) == [200] * 2
    await store_policy(postgres, organization_id, quota=1, per=["user", "route"])
    deadline = time.monotonic() + 2
    while (await pages(crm, 200, 1)) == [200]:  # known within a second
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    answer = await crm.get("/v1/companies", params={"limit": 200})
    assert answer.status_code == 200


async def test_the_units_are_usage_of_no_call(crm: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
    await pages(crm, 200, 3)
    await pages(crm, 50, 3)
    deadline = time.monotonic() + 5
    while not (rows := await usage_of(postgres, organization_id)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert {(row["route"], row["actor_type"]) for row in rows} == {("GET /v1/contacts", "user")}
    assert sum(row["cost"] for row in rows) == 3
    assert sum(row["calls"] for row in rows) == 0


async def test_each_record_of_a_bulk_request_is_a_unit(
    crm: httpx.AsyncClient, postgres: str, organization_id: UUID
) -> None:
    await store_policy(postgres, organization_id, quota=5, classes=["bulk"])

    async def add(count: int) -> int:
        items = [{"first_name": f"No {number}"} for number in range(count)]
        return (await crm.post("/v1/contacts/bulk", json={"items": items})).status_code

    # The first record is the call itself, which the gateway counts.
    assert [await add(4), await add(4), await add(3), await add(1), await add(2)] == [201, 429, 201, 201, 429]
    page = (await crm.get("/v1/contacts")).json()
    assert len(page["data"]) == 8
