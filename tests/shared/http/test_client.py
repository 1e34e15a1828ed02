"""The client services call each other with, over a real server and over an application of this process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from fastapi import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from shared import logs
from shared.auth import Principal
from shared.errors import Conflict, Problem, ServiceUnavailable
from shared.http import PrincipalDep, create_service, service_router
from shared.http.client import ServiceClient
from shared.ids import new_id
from shared.settings import Settings

SETTINGS = Settings(environment="test")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
ALICE = Principal(new_id(), "user", str(new_id()), frozenset({"a:read"}), request_id="request-1", client_address="::1")
router = service_router("echo")


@router.post("/echo")
async def echo(principal: PrincipalDep, request: Request) -> Response:
    body: dict[str, Any] = {
        "organization_id": str(principal.organization_id),
        "actor_id": principal.actor_id,
        "scopes": sorted(principal.scopes),
        "request_id": principal.request_id,
        "traceparent": logs.current_traceparent(),
        "query": dict(request.query_params),
        "body": await request.json(),
        "extra": request.headers.get("x-extra"),
    }
    return JSONResponse(body, 201)


@router.get("/taken")
async def taken() -> Response:
    raise Conflict("It is taken.", code="name_taken", errors=[{"field": "/name", "code": "taken", "message": "x"}])


@router.get("/busy")
async def busy() -> Response:
    raise ServiceUnavailable("Later.", code="busy", retry_after=7)


@router.get("/teapot")
async def teapot() -> Response:
    return JSONResponse({"code": "teapot"}, 418)


@router.get("/broken")
async def broken() -> Response:
    raise RuntimeError("a mistake")


@router.get("/plain")
async def plain() -> Response:
    return PlainTextResponse("no", 502)


entered = asyncio.Event()


@router.get("/slow")
async def slow() -> Response:
    try:
        entered.set()
        await asyncio.sleep(2)
    finally:
        # As a rollback against a database that does not answer: it outlives the cancellation.
        await asyncio.shield(asyncio.sleep(0.3))
    return Response()


def service() -> ASGIApp:
    return create_service(
        name="echo", title="Echo", description="", settings=SETTINGS, routers=[router], callers=("crm",), schema=False
    )


@pytest_asyncio.fixture(params=["asgi", "http"], loop_scope="session")
async def client(request: pytest.FixtureRequest) -> AsyncIterator[ServiceClient]:
    if request.param == "asgi":
        made = ServiceClient(SETTINGS, caller="crm", callee="echo", upstream=service())
        yield made
        await made.close()
        return
    server = uvicorn.Server(uvicorn.Config(service(), log_config=None, ws="none", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server._serve([listener]))
        made = ServiceClient(
            SETTINGS, caller="crm", callee="echo", upstream=f"http://127.0.0.1:{listener.getsockname()[1]}"
        )
        yield made
        await made.close()
        server.should_exit = True
        server.force_exit = True
        await serving


async def test_a_call_carries_the_caller_the_trace_and_the_content(client: ServiceClient) -> None:
    with logs.request_context(ALICE, TRACE):
        response = await client.call(
            "POST", "/echo", principal=ALICE, params={"n": "1"}, json={"a": [1]}, headers={"X-Extra": "y"}
        )
    assert response.status_code == 201
    assert response.json() == {
        "organization_id": str(ALICE.organization_id),
        "actor_id": ALICE.actor_id,
        "scopes": ["a:read"],
        "request_id": "request-1",
        "traceparent": TRACE,
        "query": {"n": "1"},
        "body": {"a": [1]},
        "extra": "y",
    }


async def test_a_problem_becomes_its_error(client: ServiceClient) -> None:
    with pytest.raises(Conflict) as caught:
        await client.call("GET", "/taken", principal=ALICE)
    assert (caught.value.code, caught.value.detail) == ("name_taken", "It is taken.")
    assert caught.value.errors == [{"field": "/name", "code": "taken", "message": "x"}]
    with pytest.raises(ServiceUnavailable) as busy:
        await client.call("GET", "/busy", principal=ALICE)
    assert (busy.value.code, busy.value.headers["Retry-After"]) == ("busy", "7")
    with pytest.raises(Problem) as odd:
        await client.call("GET", "/teapot", principal=ALICE)
    assert (odd.value.status, odd.value.code) == (418, "teapot")
    with pytest.raises(Problem) as internal:
        await client.call("GET", "/broken", principal=ALICE)
    assert (internal.value.status, internal.value.code) == (500, "internal_error")
    with pytest.raises(ServiceUnavailable) as answer:
        await client.call("GET", "/plain", principal=ALICE)
    assert answer.value.code == "upstream_unavailable"


async def test_the_deadline_holds_even_when_the_callee_is_slow_to_give_up(client: ServiceClient) -> None:
    async with asyncio.timeout(0.25):
        with pytest.raises(ServiceUnavailable, match=r"within 0\.05 s"):
            await client.call("GET", "/slow", principal=ALICE, deadline=0.05)


async def test_a_caller_that_goes_away_ends_its_call(client: ServiceClient) -> None:
    entered.clear()
    call = asyncio.create_task(client.call("GET", "/slow", principal=ALICE, deadline=20))
    async with asyncio.timeout(5):
        await entered.wait()
        running = set(client._running)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait(running)
    assert all(task.cancelled() for task in running)
    assert not client._running


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = ServiceClient(SETTINGS, caller="crm", callee="echo", upstream=f"http://127.0.0.1:{port}")
    with pytest.raises(ServiceUnavailable, match="echo could not be reached") as caught:
        await client.call("GET", "/echo", principal=ALICE)
    assert caught.value.code == "upstream_unavailable"
    await client.close()


async def test_an_identity_is_for_one_service_only() -> None:
    wrong = ServiceClient(SETTINGS, caller="crm", callee="audit", upstream=service())
    stranger = ServiceClient(SETTINGS, caller="flags", callee="echo", upstream=service())
    for client in (wrong, stranger):
        with pytest.raises(Problem) as caught:
            await client.call("POST", "/echo", principal=ALICE, json={})
        assert (caught.value.status, caught.value.code) == (401, "invalid_identity")
        await client.close()


async def test_certificates_are_checked_over_https() -> None:
    client = ServiceClient(SETTINGS, caller="crm", callee="echo", upstream="https://127.0.0.1:1")
    pool: Any = client._client._transport
    assert pool._pool._ssl_context.verify_mode.name == "CERT_REQUIRED"
    assert pool._pool._ssl_context.cert_store_stats()["x509_ca"] > 0
    await client.close()
