"""A record refers only to what its organisation has; everything else looks the same as nothing."""

import httpx
import pytest

from tests.services.crm.support import NOWHERE, made, problem

REFERENCES = [
    ("/v1/contacts", {"first_name": "Ada"}, "company_id", "/v1/companies", {"name": "Engines"}),
    ("/v1/deals", {"name": "x"}, "company_id", "/v1/companies", {"name": "Engines"}),
    ("/v1/deals", {"name": "x"}, "contact_id", "/v1/contacts", {"first_name": "Ada"}),
    ("/v1/activities", {"kind": "call", "subject": "x"}, "contact_id", "/v1/contacts", {"first_name": "Ada"}),
    ("/v1/activities", {"kind": "call", "subject": "x"}, "company_id", "/v1/companies", {"name": "Engines"}),
    ("/v1/activities", {"kind": "call", "subject": "x"}, "deal_id", "/v1/deals", {"name": "x"}),
]


@pytest.mark.parametrize(
    ("path", "body", "field", "target_path", "target_body"), REFERENCES, ids=[f"{r[0][4:]}.{r[2]}" for r in REFERENCES]
)
async def test_references(
    crm: httpx.AsyncClient,
    stranger: httpx.AsyncClient,
    path: str,
    body: dict[str, str],
    field: str,
    target_path: str,
    target_body: dict[str, str],
) -> None:
    theirs = await made(stranger, target_path, **target_body)
    deleted = await made(crm, target_path, **target_body)
    await crm.delete(f"{target_path}/{deleted['id']}")
    record = await made(crm, path, **body)
    answers = []
    for unknown in (NOWHERE, theirs["id"], deleted["id"]):
        wrong = {**body, field: unknown}
        answers.append(problem(await crm.post(path, json=wrong), 422, "unknown_reference", f"/{field}"))
        answer = await crm.post(f"{path}/bulk", json={"items": [body, wrong]})
        problem(answer, 422, "unknown_reference", f"/items/1/{field}")
        answer = await crm.patch(f"{path}/{record['id']}", json={field: unknown})
        problem(answer, 422, "unknown_reference", f"/{field}")
        assert unknown not in answer.text
    assert {answer["detail"] for answer in answers} == {answers[0]["detail"]}
    target = await made(crm, target_path, **target_body)
    answer = await crm.patch(f"{path}/{record['id']}", json={field: target["id"]})
    assert (answer.status_code, answer.json()[field]) == (200, target["id"])
    assert (await crm.patch(f"{path}/{record['id']}", json={field: None})).json()[field] is None


async def test_what_a_record_refers_to_may_be_deleted_afterwards(crm: httpx.AsyncClient) -> None:
    company = await made(crm, "/v1/companies", name="Engines")
    contact = await made(crm, "/v1/contacts", first_name="Ada", company_id=company["id"])
    assert (await crm.delete(f"/v1/companies/{company['id']}")).status_code == 204
    answer = await crm.patch(f"/v1/contacts/{contact['id']}", json={"phone": "1", "company_id": company["id"]})
    assert (answer.status_code, answer.json()["company_id"]) == (200, company["id"])
