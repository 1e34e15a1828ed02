"""What contacts have beyond the operations of every record."""

import httpx
import pytest

from tests.services.crm.support import Events, made, problem


@pytest.mark.parametrize("body", [{"first_name": "Ada"}, {"last_name": "Lovelace"}, {"email": "ada@example.com"}])
async def test_a_name_or_an_address_is_enough(crm: httpx.AsyncClient, body: dict[str, str]) -> None:
    contact = await made(crm, "/v1/contacts", **body)
    assert {name: contact[name] for name in body} == body


@pytest.mark.parametrize("body", [{}, {"phone": "1"}, {"first_name": "  ", "email": None}])
async def test_a_contact_without_either_is_refused(crm: httpx.AsyncClient, body: dict[str, object]) -> None:
    problem(await crm.post("/v1/contacts", json=body), 422, "validation_failed", "/email")
    answer = await crm.post("/v1/contacts/bulk", json={"items": [{"first_name": "Ada"}, body]})
    problem(answer, 422, "validation_failed", "/items/1/email")


async def test_a_change_may_not_take_the_last_of_them_away(crm: httpx.AsyncClient) -> None:
    contact = await made(crm, "/v1/contacts", first_name="Ada", email="ada@example.com")
    path = f"/v1/contacts/{contact['id']}"
    assert (await crm.patch(path, json={"first_name": ""})).status_code == 200
    problem(await crm.patch(path, json={"email": None}), 422, "validation_failed", "/email")
    items = [{"id": contact["id"], "email": None}]
    problem(await crm.patch("/v1/contacts/bulk", json={"items": items}), 422, "validation_failed", "/items/0/email")
    assert (await crm.get(path)).json()["email"] == "ada@example.com"


@pytest.mark.parametrize("field", ["first_name", "last_name"])
async def test_names_are_never_null(crm: httpx.AsyncClient, field: str) -> None:
    contact = await made(crm, "/v1/contacts", first_name="Ada", last_name="Lovelace")
    answer = await crm.patch(f"/v1/contacts/{contact['id']}", json={field: None})
    problem(answer, 422, "validation_failed", f"/{field}")


async def test_null_empties_what_may_be_empty(crm: httpx.AsyncClient, events: Events) -> None:
    contact = await made(
        crm, "/v1/contacts", first_name="Ada", email="Ada@Example.com", phone="1", job_title="Countess"
    )
    assert contact["email"] == "ada@example.com"
    answer = await crm.patch(f"/v1/contacts/{contact['id']}", json={"email": None, "phone": None})
    assert (answer.json()["email"], answer.json()["phone"], answer.json()["job_title"]) == (None, None, "Countess")
    assert (await events())[-1].data["changes"] == {
        "email": {"before": "ada@example.com", "after": None},
        "phone": {"before": "1", "after": None},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"email": "no address"},
        {"email": "a@b"},
        {"email": f"{'x' * 250}@example.com"},
        {"email": "a@b.c\x00"},
        {"first_name": "x" * 201},
        {"first_name": "two\nlines"},
        {"first_name": 1},
        {"phone": "\x1b[31m"},
        {"company_id": "engines"},
    ],
    ids=str,
)
async def test_a_bad_value_names_its_field(crm: httpx.AsyncClient, wrong: dict[str, object]) -> None:
    (field,) = wrong
    answer = await crm.post("/v1/contacts", json={"last_name": "Lovelace", **wrong})
    problem(answer, 422, "validation_failed", f"/{field}")


async def test_filters(crm: httpx.AsyncClient) -> None:
    company = await made(crm, "/v1/companies", name="Engines")
    ada = await made(crm, "/v1/contacts", email="ada@example.com", company_id=company["id"])
    await made(crm, "/v1/contacts", email="grace@example.com")
    for params in ({"email": "ADA@example.com"}, {"company_id": company["id"]}):
        found = (await crm.get("/v1/contacts", params=params)).json()["data"]
        assert [each["id"] for each in found] == [ada["id"]]
