"""What companies have beyond the operations of every record."""

import httpx
import pytest

from tests.services.crm.support import made, problem


async def test_a_company_needs_a_name(crm: httpx.AsyncClient) -> None:
    for body in ({}, {"name": ""}, {"name": " "}, {"name": None}):
        problem(await crm.post("/v1/companies", json=body), 422, "validation_failed", "/name")
    company = await made(crm, "/v1/companies", name=" Engines ")
    assert company["name"] == "Engines"
    answer = await crm.patch(f"/v1/companies/{company['id']}", json={"name": None})
    problem(answer, 422, "validation_failed", "/name")


@pytest.mark.parametrize(
    "wrong",
    [
        {"employee_count": -1},
        {"employee_count": 10**9},
        {"employee_count": 10**30},
        {"employee_count": 1.5},
        {"employee_count": True},
        {"employee_count": "12"},
        {"domain": "https://engines.example"},
        {"domain": "engines"},
        {"industry": "x" * 201},
    ],
    ids=str,
)
async def test_a_bad_value_names_its_field(crm: httpx.AsyncClient, wrong: dict[str, object]) -> None:
    (field,) = wrong
    problem(await crm.post("/v1/companies", json={"name": "Engines", **wrong}), 422, "validation_failed", f"/{field}")


async def test_filters(crm: httpx.AsyncClient) -> None:
    engines = await made(crm, "/v1/companies", name="Engines", domain="Engines.example", industry="Computing")
    await made(crm, "/v1/companies", name="Looms", domain="looms.example")
    for params in ({"domain": "engines.example"}, {"industry": "Computing"}):
        found = (await crm.get("/v1/companies", params=params)).json()["data"]
        assert [each["id"] for each in found] == [engines["id"]]
