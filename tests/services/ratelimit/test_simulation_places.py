"""How many simulations run at a time, and what becomes of one too many."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from services.ratelimit.simulation.running import AT_ONCE
from shared.db import Database
from shared.ids import new_id
from shared.testing.client import ClientFactory
from shared.testing.plugin import PrincipalFactory
from tests.services.ratelimit.recording import until
from tests.services.ratelimit.support import SCOPES, problem

PATH = "/v1/limits/simulate"
BODY: dict[str, Any] = {"policy": {"name": "try", "quota": 10, "window": "minute"}}
WAITING = """SELECT count(*) FROM pg_locks WHERE relation = 'ratelimit.usage_minutes'::regclass AND NOT granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

Tasks = list[asyncio.Task[httpx.Response]]
Held = Callable[..., AbstractAsyncContextManager[Tasks]]


@pytest.fixture
def held(postgres: str) -> Held:
    """``async with held(client, …) as tasks``: each client's simulation runs, and none ends before the block does."""

    @asynccontextmanager
    async def hold(*clients: httpx.AsyncClient) -> AsyncIterator[Tasks]:
        admin = await asyncpg.connect(postgres)
        try:
            async with admin.transaction():
                await admin.execute("LOCK TABLE ratelimit.usage_minutes")
                tasks = [asyncio.create_task(each.post(PATH, json=BODY)) for each in clients]

                async def all_wait() -> bool:
                    return bool(await admin.fetchval(WAITING) == len(clients))

                await until(all_wait)
                yield tasks
        finally:
            await admin.close()

    return hold


@pytest_asyncio.fixture
async def another(client: ClientFactory, principal: PrincipalFactory) -> Callable[[], Awaitable[httpx.AsyncClient]]:
    """``await another()``: the service as somebody of yet another organisation sees it."""

    async def connect() -> httpx.AsyncClient:
        return await client("ratelimit", principal(*SCOPES, organization_id=new_id()))

    return connect


async def works(*clients: httpx.AsyncClient) -> None:
    for each in clients:
        answer = await each.post(PATH, json=BODY)
        assert answer.status_code == 200, answer.text


async def test_an_organisation_has_one_at_a_time(
    limits: httpx.AsyncClient, stranger: httpx.AsyncClient, held: Held
) -> None:
    async with held(limits, stranger) as running:
        for client in (limits, stranger):
            refused = problem(await client.post(PATH, json=BODY), 409, "simulation_running")
            assert "wait for its answer, then send this one again" in refused["detail"]
    assert [task.status_code for task in await asyncio.gather(*running)] == [200, 200]
    await works(limits, stranger)


async def test_a_process_has_few_at_a_time_whoever_asks(
    another: Callable[[], Awaitable[httpx.AsyncClient]], held: Held
) -> None:
    *clients, late = [await another() for _ in range(AT_ONCE + 1)]
    async with held(*clients) as running:
        answer = await late.post(PATH, json=BODY)
        assert "send this one again in 5 seconds" in problem(answer, 503, "service_unavailable")["detail"]
        assert answer.headers["retry-after"] == "5"
    await asyncio.gather(*running)
    await works(late)


async def test_one_too_many_takes_no_connection(
    limits: httpx.AsyncClient, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise AssertionError("a connection was taken")

    async with held(limits) as running:
        with monkeypatch.context() as patched:
            patched.setattr(Database, "transaction", taken)
            problem(await limits.post(PATH, json=BODY), 409, "simulation_running")
    await asyncio.gather(*running)


async def test_a_place_is_given_back_by_what_fails(limits: httpx.AsyncClient) -> None:
    for _ in range(AT_ONCE + 1):
        mars = {**BODY, "policy": {**BODY["policy"], "timezone": "Mars/Olympus"}}
        problem(await limits.post(PATH, json=mars), 422, "validation_failed", "/policy/timezone")
    await works(limits)


async def test_a_place_is_given_back_by_what_is_cancelled(
    limits: httpx.AsyncClient, stranger: httpx.AsyncClient, held: Held
) -> None:
    async with held(limits, stranger) as running:
        for task in running:
            task.cancel()
        found = await asyncio.gather(*running, return_exceptions=True)
        assert [type(each) for each in found] == [asyncio.CancelledError] * 2
    await works(limits, stranger)


async def test_it_takes_the_scope_of_usage(client: ClientFactory, principal: PrincipalFactory) -> None:
    without = await client("ratelimit", principal("limits:read", "limits:write"))
    assert problem(await without.post(PATH, json=BODY), 403, "missing_scope")["required_scope"] == "usage:read"
    await works(await client("ratelimit", principal("usage:read")))
