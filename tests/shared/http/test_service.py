"""What every service has besides its routes: identity, probes, problems, conventions in its OpenAPI document."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from shared.auth import IdentitySigner
from shared.http import check_if_match, create_service, json_response, not_modified, rated, requires, service_router
from shared.settings import Settings
from shared.testing.client import SignedAs
from shared.testing.plugin import PrincipalFactory

router = service_router("things", "/v1/things")


@router.get("/broken")
async def get_broken() -> Response:
    raise RuntimeError("secret")


@router.get("/half")
@rated(cost=5, route_class="search")
async def get_half() -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("too late to answer otherwise")

    return StreamingResponse(body())


@router.get("/{number}", dependencies=[requires("things:read")])
async def get_thing(request: Request, number: int) -> Response:
    check_if_match(request, number)
    return not_modified(request, number) or json_response({"number": number})


@router.post("")
async def create_thing(body: dict[str, Any]) -> Response:
    return json_response(body, 201)


@pytest.fixture(scope="module")
def app(settings: Settings) -> FastAPI:
    return create_service(name="crm", title="Things", description="", settings=settings, routers=[router])


@pytest_asyncio.fixture
async def things(app: FastAPI, settings: Settings, principal: PrincipalFactory) -> AsyncIterator[httpx.AsyncClient]:
    auth = SignedAs(settings, "crm", principal("things:read"))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://things", auth=auth) as client,
    ):
        yield client


async def test_nobody_comes_without_an_identity(
    things: httpx.AsyncClient, settings: Settings, principal: PrincipalFactory
) -> None:
    gateway, other = IdentitySigner(settings.derive_key, "gateway"), IdentitySigner(settings.derive_key, "audit")
    caller, now = principal("things:read"), time.time()
    good = gateway.sign(caller, "crm", now).decode()
    wrong = [
        gateway.sign(caller, "audit", now).decode(),
        gateway.sign(caller, "crm", now - 120).decode(),
        gateway.sign(caller, "crm", now + 120).decode(),
        other.sign(caller, "crm", now).decode(),
        good[:-2] + ("AA" if not good.endswith("AA") else "BB"),
        good.replace("v1.", "v2.", 1),
        "v1",
        "",
    ]
    assert (await things.get("/v1/things/1", auth=None, headers={"guardian-identity": good})).status_code == 200
    for header in (*wrong, None):
        headers = {} if header is None else {"guardian-identity": header}
        answer = await things.get("/v1/things/1", auth=None, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_identity"), header


async def test_probes_and_metrics_need_none(things: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz"):
        answer = await things.get(path, auth=None)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    await things.get("/v1/things/1")
    answer = await things.get("/metrics", auth=None)
    assert 'http_server_request_duration_seconds_count{method="GET",service="crm",status_class="2xx"}' in answer.text


async def test_what_breaks_is_answered_once(things: httpx.AsyncClient) -> None:
    answer = await things.get("/v1/things/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.json()["request_id"].startswith("test-")


async def test_what_breaks_in_the_middle_breaks_the_answer(things: httpx.AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="too late"):
        await things.get("/v1/things/half")


async def test_unknown_paths_and_methods(things: httpx.AsyncClient) -> None:
    answer = await things.get("/v1/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = await things.put("/v1/things")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": '"3"'}, 200),
        ({"if-match": '"4", "3"'}, 200),
        ({"if-match": 'W/"3"'}, 412),
        ({"if-match": "3"}, 412),
        ({"if-none-match": '"3"'}, 304),
        ({"if-none-match": 'W/"3"'}, 304),
        ({"if-none-match": '"33"'}, 200),
    ],
    ids=str,
)
async def test_conditions(things: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    assert (await things.get("/v1/things/3", headers=headers)).status_code == status


async def test_json_of_another_name_is_json(things: httpx.AsyncClient) -> None:
    for media_type in ("application/json; charset=utf-8", "application/merge-patch+json", "Application/JSON"):
        answer = await things.post("/v1/things", content=b'{"a": 1}', headers={"content-type": media_type})
        assert (answer.status_code, answer.json()) == (201, {"a": 1}), media_type


def test_the_document_holds_the_conventions(app: FastAPI) -> None:
    document = app.openapi()
    assert document is app.openapi()
    read = document["paths"]["/v1/things/{number}"]["get"]
    assert (read["operationId"], read["tags"], read["x-required-scope"]) == ("getThing", ["things"], "things:read")
    answers = document["components"]["responses"]
    for status, schema in {
        "400": "Problem",
        "404": "Problem",
        "422": "Problem",
        "429": "LimitProblem",
        "503": "LimitProblem",
    }.items():
        name = read["responses"][status]["$ref"].removeprefix("#/components/responses/")
        reference = {"$ref": f"#/components/schemas/{schema}"}
        assert answers[name]["content"] == {"application/problem+json": {"schema": reference}}
        assert {"RateLimit", "RateLimit-Policy"} <= set(answers[name]["headers"])
    assert set(read["responses"]["200"]["headers"]) == {"RateLimit", "RateLimit-Policy"}
    create = document["paths"]["/v1/things"]["post"]
    assert "x-required-scope" not in create
    assert {"$ref": "#/components/parameters/IdempotencyKey"} in create["parameters"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_an_operation_says_what_a_call_costs(app: FastAPI) -> None:
    rates = {
        (method, path): operation["x-rate-limit"]
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    }
    assert rates["get", "/v1/things/{number}"] == {"cost": 1, "class": "read"}
    assert rates["post", "/v1/things"] == {"cost": 1, "class": "write"}
    assert rates["get", "/v1/things/half"] == {"cost": 5, "class": "search"}
    with pytest.raises(ValueError, match="give units back"):
        rated(cost=-1)
