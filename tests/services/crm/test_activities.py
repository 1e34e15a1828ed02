"""What activities have beyond the operations of every record."""

from datetime import datetime

import httpx
import pytest

from shared.clock import FixedClock
from tests.services.crm.support import made, problem


async def test_it_happened_now_unless_it_says_otherwise(crm: httpx.AsyncClient, frozen_clock: FixedClock) -> None:
    now = await made(crm, "/v1/activities", kind="note", body="Called back.")
    assert datetime.fromisoformat(now["occurred_at"]) == frozen_clock.moment
    then = await made(crm, "/v1/activities", kind="note", subject="x", occurred_at="2025-06-01T10:00:00+02:00")
    assert then["occurred_at"] == "2025-06-01T08:00:00Z"


async def test_it_needs_a_subject_or_a_body(crm: httpx.AsyncClient) -> None:
    problem(
        await crm.post("/v1/activities", json={"kind": "note", "body": " \n"}), 422, "validation_failed", "/subject"
    )
    note = await made(crm, "/v1/activities", kind="note", body="text\nin lines")
    answer = await crm.patch(f"/v1/activities/{note['id']}", json={"body": ""})
    problem(answer, 422, "validation_failed", "/subject")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "fax"},
        {"kind": None},
        {"subject": None},
        {"body": "\x00"},
        {"body": "\x01"},
        {"body": "x" * 20_001},
        {"occurred_at": None},
        {"occurred_at": "2026-01-01"},
        {"occurred_at": "2026-01-01T10:00:00"},
        {"occurred_at": 1_700_000_000},
        {"occurred_at": "1700000000"},
        {"occurred_at": "9999-12-31T23:59:59Z"},
        {"due_at": True},
        {"deal_id": 1},
    ],
    ids=str,
)
async def test_a_bad_value_names_its_field(crm: httpx.AsyncClient, wrong: dict[str, object]) -> None:
    (field,) = wrong
    body = {"kind": "call", "subject": "First call", **wrong}
    problem(await crm.post("/v1/activities", json=body), 422, "validation_failed", f"/{field}")


async def test_the_largest_activity_can_be_changed_to_another_one(crm: httpx.AsyncClient) -> None:
    """An event holds both, within the limit of an event."""
    await made(crm, "/v1/custom-fields", record_type="activity", key="text", label="Text", type="text")
    sizes = {
        "subject": "\U0001f600" * 200,
        "body": "\U0001f600" * 20_000,
        "custom_fields": {"text": "\U0001f600" * 2000},
    }
    activity = await made(
        crm, "/v1/activities", kind="note", **sizes, tags=["\U0001f600" * 49 + chr(65 + n) for n in range(50)]
    )
    changed = {
        "subject": "\U0001f642" * 200,
        "body": "\U0001f642" * 20_000,
        "custom_fields": {"text": "\U0001f642" * 2000},
        "tags": ["\U0001f642" * 49 + chr(65 + n) for n in range(50)],
    }
    answer = await crm.patch(f"/v1/activities/{activity['id']}", json=changed)
    assert answer.status_code == 200, answer.text


async def test_filters(crm: httpx.AsyncClient) -> None:
    contact = await made(crm, "/v1/contacts", first_name="Ada")
    company = await made(crm, "/v1/companies", name="Engines")
    deal = await made(crm, "/v1/deals", name="First engine")
    related = {"contact_id": contact["id"], "company_id": company["id"], "deal_id": deal["id"]}
    call = await made(
        crm, "/v1/activities", kind="call", subject="a", occurred_at="2026-01-01T00:00:00Z", due_at="2026-01-05T00:00:00Z",
        completed_at="2026-01-02T00:00:00Z", **related,
    )  # fmt: skip
    task = await made(crm, "/v1/activities", kind="task", subject="b", occurred_at="2026-02-01T00:00:00Z")
    cases: list[tuple[dict[str, str], list[str]]] = [
        ({"kind": "call"}, [call["id"]]),
        *(({name: value}, [call["id"]]) for name, value in related.items()),
        ({"done": "true"}, [call["id"]]),
        ({"done": "false"}, [task["id"]]),
        ({"occurred_after": "2026-01-01T00:00:00Z"}, [task["id"], call["id"]]),
        ({"occurred_after": "2026-01-01T00:00:01Z"}, [task["id"]]),
        ({"occurred_before": "2026-02-01T00:00:00Z"}, [call["id"]]),
        ({"due_before": "2026-01-06T00:00:00Z"}, [call["id"]]),
        ({"done": "true", "kind": "task"}, []),
    ]
    for params, ids in cases:
        found = (await crm.get("/v1/activities", params=params)).json()["data"]
        assert [each["id"] for each in found] == ids, params


async def test_the_latest_comes_first(crm: httpx.AsyncClient) -> None:
    for day in (2, 3, 1):
        await made(crm, "/v1/activities", kind="note", subject=str(day), occurred_at=f"2026-01-0{day}T00:00:00Z")
    assert [each["subject"] for each in (await crm.get("/v1/activities")).json()["data"]] == ["3", "2", "1"]
