"""Limits on a migrated database of the test run, several of them where a test wants several processes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from shared.db import Database
from shared.ids import new_id
from shared.limits.client import Limits
from shared.limits.policies import Caller, Operation
from shared.testing.plugin import DatabaseFactory

SCHEMA = "ratelimit"
LIST = Operation("GET", "/v1/contacts")
ADD = Operation("POST", "/v1/contacts", 1, "write")
MakePolicy = Callable[..., Awaitable[UUID]]
MakeLimits = Callable[[], Awaitable[Limits]]


@pytest_asyncio.fixture
async def gateway(database: DatabaseFactory) -> Database:
    return await database("gateway")


@pytest_asyncio.fixture
async def admin(postgres: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def new_limits(gateway: Database) -> AsyncIterator[MakeLimits]:
    """``await new_limits()``: one more process that enforces limits; there are no plans' policies."""
    made: list[Limits] = []

    async def make() -> Limits:
        # A patience that no busy machine exhausts: what happens without an answer has tests of its own.
        limits = Limits(gateway, schema=SCHEMA, default_plan="none", patience=10)
        await limits.start()
        made.append(limits)
        return limits

    yield make
    for each in made:
        await each.stop()


@pytest_asyncio.fixture
async def limits(new_limits: MakeLimits) -> Limits:
    return await new_limits()


@pytest.fixture
def caller(organization_id: UUID) -> Caller:
    return Caller(organization_id, str(new_id()), str(new_id()))


@pytest_asyncio.fixture
async def policy(admin: Any, organization_id: UUID) -> MakePolicy:
    """``await policy(quota=10, window="hour")``: store a policy of this test's organisation; its id."""

    async def make(**fields: Any) -> UUID:
        values: dict[str, Any] = {
            "organization_id": organization_id, "id": new_id(), "name": f"p{new_id().hex[-8:]}", "quota": 10,
            "window": "hour", "version": 1,
        } | fields  # fmt: skip
        names = ", ".join(f'"{name}"' for name in values)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await admin.execute(
            f"INSERT INTO ratelimit.policies ({names}, created_at, updated_at) VALUES ({places}, now(), now())",
            *values.values(),
        )
        made: UUID = values["id"]
        return made

    return make
