"""slowapi over the counters: what it lets pass, what it refuses, and that it waits for nothing."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from shared.auth import Principal
from shared.db import Database
from shared.http import create_service, json_response, service_router
from shared.ids import NIL, new_id
from shared.limits import anonymous
from shared.limits.anonymous import AddressLimits, address_subject, by_address, platform_policy
from shared.limits.client import Limits
from shared.limits.decision import Decision, Verdict
from shared.limits.policies import Policy
from shared.settings import Settings
from shared.testing.client import SignedAs
from tests.shared.limits.conftest import SCHEMA

router = service_router("doors", "/v1/doors")
opened: list[str] = []


class Knock(BaseModel):
    name: str


@router.post("")
@by_address("knock")
async def knock(body: Knock) -> Response:
    opened.append(body.name)
    return json_response({"name": body.name})


@router.get("/{number}")
@by_address("knock")
async def look(request: Request, number: int) -> Response:
    return json_response({"number": number, "path": request.url.path})


OpenDoor = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest_asyncio.fixture
async def open_door(settings: Settings) -> AsyncIterator[OpenDoor]:
    """``await open_door(policy, address)``: one more process with the two operations, called from an address."""
    async with AsyncExitStack() as stack:

        async def start(policy: Policy, address: str | None = "192.0.2.1") -> httpx.AsyncClient:
            app = create_service(
                name="crm", title="Doors", description="", settings=settings, routers=[router], limits_schema=SCHEMA
            )
            app.state.address_limits = AddressLimits(app.state.limits, {"knock": policy})
            await stack.enter_async_context(app.router.lifespan_context(app))
            return await stack.enter_async_context(_client(app, settings, address))

        yield start


def _client(app: FastAPI, settings: Settings, address: str | None) -> httpx.AsyncClient:
    who = Principal(NIL, "anonymous", "anonymous", client_address=address, request_id="test-request")
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://doors", auth=SignedAs(settings, "crm", who)
    )


def three() -> Policy:
    return platform_policy(f"knock-{new_id()}", 3, "hour")


async def knocks(client: httpx.AsyncClient, times: int) -> list[int]:
    return [(await client.post("/v1/doors", json={"name": "ada"})).status_code for _ in range(times)]


class TestByAddress:
    async def test_beyond_the_limit_the_handler_does_not_run(self, open_door: OpenDoor) -> None:
        client = await open_door(three())
        opened.clear()
        assert await knocks(client, 5) == [200, 200, 200, 429, 429]
        assert len(opened) == 3

    async def test_the_refusal_is_a_problem_that_says_when(self, open_door: OpenDoor) -> None:
        policy = three()
        client = await open_door(policy)
        await knocks(client, 3)
        answer = await client.get("/v1/doors/7")
        body = answer.json()
        assert (answer.status_code, body["code"]) == (429, "too_many_requests")
        assert answer.headers["content-type"] == "application/problem+json"
        assert 0 < int(answer.headers["retry-after"]) <= 3600
        assert answer.headers["ratelimit-policy"].startswith(f'"{policy.name}";q=3;w=3600;pk=:')
        assert f'"{policy.name}";r=0;t={answer.headers["retry-after"]}' in answer.headers["ratelimit"]
        assert "192.0.2.1" not in str(answer.headers)

    async def test_operations_with_one_limit_share_it_and_get_what_they_ask_for(self, open_door: OpenDoor) -> None:
        client = await open_door(three())
        assert (await client.get("/v1/doors/7")).json() == {"number": 7, "path": "/v1/doors/7"}
        assert await knocks(client, 3) == [200, 200, 429]

    async def test_what_is_not_valid_does_not_count(self, open_door: OpenDoor) -> None:
        client = await open_door(three())
        for _ in range(5):
            assert (await client.post("/v1/doors", json={})).status_code == 422
        assert await knocks(client, 4) == [200, 200, 200, 429]

    async def test_processes_count_together(self, open_door: OpenDoor) -> None:
        policy = three()
        one, other = await open_door(policy), await open_door(policy)
        assert await knocks(one, 2) + await knocks(other, 2) == [200, 200, 200, 429]

    async def test_addresses_do_not_share(self, open_door: OpenDoor) -> None:
        policy = three()
        for address in ("192.0.2.1", "192.0.2.2", None):
            client = await open_door(policy, address)
            assert (await knocks(client, 4))[-2:] == [200, 429]

    def test_the_contract_is_the_handlers(self) -> None:
        assert list(inspect.signature(knock).parameters) == ["body", "request"]
        assert list(inspect.signature(look).parameters) == ["request", "number"]


class Said:
    """Limits that always say the same."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    async def take(self, wanted: Sequence[tuple[Policy, str]], cost: int = 1) -> Decision:
        return self.decision


class TestWithoutCounters:
    @pytest.fixture
    def app(self, settings: Settings) -> FastAPI:
        return create_service(name="crm", title="Doors", description="", settings=settings, routers=[router])

    async def test_503_where_nothing_may_pass_uncounted(self, app: FastAPI, settings: Settings) -> None:
        verdict = Verdict(three(), "address:192.0.2.1", 3, 0, 0.0, False, "fallback")
        limits = Said(Decision(False, (verdict,), 1, unavailable=True))
        app.state.address_limits = AddressLimits(limits, {"knock": three()})  # type: ignore[arg-type]
        async with app.router.lifespan_context(app), _client(app, settings, "192.0.2.1") as client:
            answer = await client.post("/v1/doors", json={"name": "ada"})
        assert (answer.status_code, answer.json()["code"]) == (503, "limiter_unavailable")
        assert answer.headers["retry-after"] == "1"

    async def test_an_open_limit_lets_pass(self, app: FastAPI, settings: Settings) -> None:
        verdict = Verdict(replace(three(), on_failure="open"), "address:192.0.2.1", 3, 0, 0.0, True, "fallback")
        limits = Said(Decision(True, (verdict,)))
        app.state.address_limits = AddressLimits(limits, {"knock": three()})  # type: ignore[arg-type]
        async with app.router.lifespan_context(app), _client(app, settings, "192.0.2.1") as client:
            assert await knocks(client, 5) == [200] * 5


class TestSlowapi:
    def test_no_variable_of_the_environment_turns_it_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"ENABLED": "false", "STORAGE_URL": "memory://", "DEFAULT": "1/day"}.items():
            monkeypatch.setenv(f"RATELIMIT_{name}", value)
        limiter = anonymous._Limiter(key_func=anonymous._key, storage_uri="asked://")
        assert limiter.enabled
        assert isinstance(limiter.limiter.storage, anonymous._Said)
        assert limiter._default_limits == []

    def test_its_storage_repeats_what_was_said(self) -> None:
        verdict = Verdict(three(), "address:192.0.2.1", 3, 1, 60.0, True, "database")
        storage = anonymous._limiter.limiter.storage
        anonymous._said.set(verdict)
        assert (storage.incr("any", 3600), storage.get("any"), storage.check()) == (2, 2, True)
        anonymous._said.set(verdict._replace(allowed=False))
        assert storage.incr("any", 3600) == 4
        assert storage.get_expiry("any") > 0
        storage.clear("any")
        storage.reset()


@pytest.mark.parametrize(
    "address, subject",
    [
        ("192.0.2.1", "address:192.0.2.1"),
        ("::ffff:192.0.2.1", "address:192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "address:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("unix", "address:unknown"),
        (None, "address:unknown"),
    ],
)
def test_what_an_address_is_counted_under(address: str | None, subject: str) -> None:
    assert address_subject(address) == subject


def test_a_policy_is_the_same_in_every_process() -> None:
    assert platform_policy("sign-in", 1, "hour").id == platform_policy("sign-in", 2, "minute").id
    assert platform_policy("sign-in", 1, "hour").id != platform_policy("sign-up", 1, "hour").id


async def test_a_process_that_only_takes_listens_to_nothing(gateway: Database) -> None:
    limits = Limits(gateway, schema=SCHEMA, default_plan="none", patience=10)
    await limits.start(at_once=False)
    assert (limits._ticking, limits._listener._task) == (None, None)
    assert (await limits.take([(three(), "address:192.0.2.1")])).allowed
    assert limits._ticking is not None
    assert limits._listener._task is None
    await limits.stop()
