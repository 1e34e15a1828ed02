"""What deals have beyond the operations of every record: the way through the stages."""

from datetime import datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shared.clock import FixedClock
from tests.services.crm.support import NOWHERE, Events, made, problem


@pytest_asyncio.fixture
async def sales(crm: httpx.AsyncClient) -> dict[str, Any]:
    """The default pipeline, its stages by name under ``stages``."""
    (pipeline,) = (await crm.get("/v1/pipelines")).json()["data"]
    return {**pipeline, "stages": {stage["name"]: stage["id"] for stage in pipeline["stages"]}}


@pytest_asyncio.fixture
async def renewals(crm: httpx.AsyncClient, sales: dict[str, Any]) -> dict[str, Any]:
    """Another pipeline, whose first stage is not an open one."""
    stages = [{"name": "Renewed", "kind": "won"}, {"name": "Due"}, {"name": "Overdue"}]
    pipeline = await made(crm, "/v1/pipelines", name="Renewals", stages=stages)
    return {**pipeline, "stages": {stage["name"]: stage["id"] for stage in pipeline["stages"]}}


def place(deal: dict[str, Any]) -> tuple[str, str, str]:
    return deal["pipeline_id"], deal["stage_id"], deal["status"]


async def test_it_begins_at_the_first_open_stage(
    crm: httpx.AsyncClient, sales: dict[str, Any], renewals: dict[str, Any]
) -> None:
    assert place(await made(crm, "/v1/deals", name="x")) == (sales["id"], sales["stages"]["Qualified"], "open")
    there = await made(crm, "/v1/deals", name="x", pipeline_id=renewals["id"])
    assert place(there) == (renewals["id"], renewals["stages"]["Due"], "open")


async def test_it_begins_at_the_stage_it_names(
    crm: httpx.AsyncClient, renewals: dict[str, Any], frozen_clock: FixedClock
) -> None:
    overdue = await made(crm, "/v1/deals", name="x", stage_id=renewals["stages"]["Overdue"])
    assert place(overdue) == (renewals["id"], renewals["stages"]["Overdue"], "open")
    assert overdue["closed_at"] is None
    renewed = await made(crm, "/v1/deals", name="x", pipeline_id=renewals["id"], stage_id=renewals["stages"]["Renewed"])
    assert place(renewed) == (renewals["id"], renewals["stages"]["Renewed"], "won")
    assert datetime.fromisoformat(renewed["closed_at"]) == frozen_clock.moment


async def test_stage_and_pipeline_must_fit(
    crm: httpx.AsyncClient, stranger: httpx.AsyncClient, sales: dict[str, Any], renewals: dict[str, Any]
) -> None:
    due = renewals["stages"]["Due"]
    body = {"name": "x", "pipeline_id": sales["id"], "stage_id": due}
    problem(await crm.post("/v1/deals", json=body), 422, "stage_not_in_pipeline", "/stage_id")
    answer = await crm.post("/v1/deals/bulk", json={"items": [{"name": "ok"}, body]})
    problem(answer, 422, "stage_not_in_pipeline", "/items/1/stage_id")
    deal = await made(crm, "/v1/deals", name="x")
    problem(
        await crm.patch(f"/v1/deals/{deal['id']}", json={"stage_id": due}), 422, "stage_not_in_pipeline", "/stage_id"
    )
    for wrong in ({"stage_id": NOWHERE}, {"pipeline_id": NOWHERE}):
        (field,) = wrong
        problem(await crm.post("/v1/deals", json={"name": "x", **wrong}), 422, "unknown_reference", f"/{field}")
        problem(await crm.patch(f"/v1/deals/{deal['id']}", json=wrong), 422, "unknown_reference", f"/{field}")
    for theirs in ({"stage_id": due}, {"pipeline_id": renewals["id"]}):
        (field,) = theirs
        answer = await stranger.post("/v1/deals", json={"name": "x", **theirs})
        problem(answer, 422, "unknown_reference", f"/{field}")


async def test_a_move_is_an_event_of_its_own(
    crm: httpx.AsyncClient, sales: dict[str, Any], events: Events, frozen_clock: FixedClock
) -> None:
    deal = await made(crm, "/v1/deals", name="x", amount_minor=5)
    frozen_clock.advance(days=1)
    answer = await crm.patch(f"/v1/deals/{deal['id']}", json={"stage_id": sales["stages"]["Won"]})
    moved = answer.json()
    assert (answer.status_code, answer.headers["etag"], moved["status"]) == (200, '"2"', "won")
    assert datetime.fromisoformat(moved["closed_at"]) == frozen_clock.moment
    assert datetime.fromisoformat(moved["stage_changed_at"]) == frozen_clock.moment
    _, event = await events()
    assert (event.type, event.subject, event.sequence) == ("deal.stage_changed", deal["id"], 2)
    assert event.data == {
        "pipeline_id": sales["id"],
        "from_pipeline_id": sales["id"],
        "from_stage_id": sales["stages"]["Qualified"],
        "to_stage_id": sales["stages"]["Won"],
        "from_status": "open",
        "status": "won",
        "closed_at": "2026-01-16T12:00:00Z",
        "amount_minor": 5,
        "currency": "EUR",
    }


async def test_a_change_and_a_move_are_two_versions(
    crm: httpx.AsyncClient, sales: dict[str, Any], events: Events
) -> None:
    deal = await made(crm, "/v1/deals", name="x")
    body = {"amount_minor": 7, "stage_id": sales["stages"]["Lost"]}
    answer = await crm.patch(f"/v1/deals/{deal['id']}", json=body)
    assert (answer.json()["version"], answer.json()["status"], answer.json()["amount_minor"]) == (3, "lost", 7)
    _, updated, moved = await events()
    assert (updated.type, updated.sequence) == ("deal.updated", 2)
    assert updated.data["changes"] == {"amount_minor": {"before": 0, "after": 7}}
    assert (moved.type, moved.sequence, moved.data["amount_minor"]) == ("deal.stage_changed", 3, 7)


async def test_reopening_forgets_when_it_was_closed(crm: httpx.AsyncClient, sales: dict[str, Any]) -> None:
    deal = await made(crm, "/v1/deals", name="x", stage_id=sales["stages"]["Lost"])
    answer = await crm.patch(f"/v1/deals/{deal['id']}", json={"stage_id": sales["stages"]["Proposal"]})
    assert (answer.json()["status"], answer.json()["closed_at"]) == ("open", None)


async def test_a_move_to_another_pipeline(
    crm: httpx.AsyncClient, sales: dict[str, Any], renewals: dict[str, Any], events: Events
) -> None:
    deal = await made(crm, "/v1/deals", name="x")
    path = f"/v1/deals/{deal['id']}"
    assert place((await crm.patch(path, json={"pipeline_id": renewals["id"]})).json())[1] == renewals["stages"]["Due"]
    body = {"pipeline_id": sales["id"], "stage_id": sales["stages"]["Won"]}
    assert place((await crm.patch(path, json=body)).json()) == (sales["id"], sales["stages"]["Won"], "won")
    event = (await events())[-1]
    assert (event.data["from_pipeline_id"], event.data["pipeline_id"]) == (renewals["id"], sales["id"])


async def test_staying_where_it_is_changes_nothing(
    crm: httpx.AsyncClient, sales: dict[str, Any], events: Events
) -> None:
    deal = await made(crm, "/v1/deals", name="x", stage_id=sales["stages"]["Proposal"])
    for body in ({"stage_id": deal["stage_id"]}, {"pipeline_id": sales["id"]}):
        assert (await crm.patch(f"/v1/deals/{deal['id']}", json=body)).json() == deal
    assert [each.type for each in await events()] == ["deal.created"]


async def test_bulk_moves(crm: httpx.AsyncClient, sales: dict[str, Any], events: Events) -> None:
    first, second = [await made(crm, "/v1/deals", name="x") for _ in range(2)]
    items = [{"id": each["id"], "stage_id": sales["stages"]["Won"]} for each in (second, first)]
    answer = await crm.patch("/v1/deals/bulk", json={"items": items})
    assert [(each["id"], each["status"]) for each in answer.json()["data"]] == [
        (second["id"], "won"),
        (first["id"], "won"),
    ]
    assert [each.type for each in await events()][2:] == ["deal.stage_changed"] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_minor": -1},
        {"amount_minor": 10**13 + 1},
        {"amount_minor": 2**63},
        {"amount_minor": 1e300},
        {"amount_minor": 1.0},
        {"amount_minor": "5"},
        {"amount_minor": True},
        {"amount_minor": None},
        {"currency": "eur"},
        {"currency": "EURO"},
        {"currency": None},
        {"name": ""},
        {"status": "won"},
        {"expected_close_at": "soon"},
    ],
    ids=str,
)
async def test_a_bad_value_names_its_field(crm: httpx.AsyncClient, wrong: dict[str, object]) -> None:
    (field,) = wrong
    problem(await crm.post("/v1/deals", json={"name": "x", **wrong}), 422, "validation_failed", f"/{field}")
    deal = await made(crm, "/v1/deals", name="x")
    problem(await crm.patch(f"/v1/deals/{deal['id']}", json=wrong), 422, "validation_failed", f"/{field}")


@pytest.mark.parametrize("field", ["stage_id", "pipeline_id"])
async def test_a_deal_is_always_somewhere(crm: httpx.AsyncClient, field: str) -> None:
    deal = await made(crm, "/v1/deals", name="x")
    problem(await crm.patch(f"/v1/deals/{deal['id']}", json={field: None}), 422, "validation_failed", f"/{field}")


async def test_the_largest_amount_is_kept_exactly(crm: httpx.AsyncClient) -> None:
    assert (await made(crm, "/v1/deals", name="x", amount_minor=10**13))["amount_minor"] == 10**13


async def test_filters(crm: httpx.AsyncClient, sales: dict[str, Any], renewals: dict[str, Any]) -> None:
    contact = await made(crm, "/v1/contacts", first_name="Ada")
    company = await made(crm, "/v1/companies", name="Engines")
    wanted = {"stage_id": renewals["stages"]["Renewed"], "contact_id": contact["id"], "company_id": company["id"]}
    deal = await made(crm, "/v1/deals", name="x", expected_close_at="2026-03-01T00:00:00Z", **wanted)
    await made(crm, "/v1/deals", name="y")
    filters = {
        **wanted,
        "pipeline_id": renewals["id"],
        "status": "won",
        "expected_close_before": "2026-03-02T00:00:00Z",
    }
    for name, value in filters.items():
        found = (await crm.get("/v1/deals", params={name: value})).json()["data"]
        assert [each["id"] for each in found] == [deal["id"]], name
