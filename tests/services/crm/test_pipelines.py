"""``/v1/pipelines``."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.ids import new_id
from tests.services.crm.support import NOWHERE, Published, blocked, made, outbox, problem, until

PATH = "/v1/pipelines"
BODY = {"name": "Renewals", "stages": [{"name": "Due", "probability": 40}, {"name": "Renewed", "kind": "won"}]}


async def pipeline_events(dsn: str, organization_id: UUID) -> list[Published]:
    return [each for each in await outbox(dsn, organization_id) if each.type.startswith("pipeline.")]


async def default(crm: httpx.AsyncClient) -> dict[str, Any]:
    (pipeline,) = [each for each in (await crm.get(PATH)).json()["data"] if each["is_default"]]
    return dict(pipeline)


class TestDefault:
    async def test_is_made_for_whoever_looks_first(
        self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        pipeline = await default(crm)
        assert (pipeline["name"], pipeline["version"]) == ("Sales", 1)
        assert [(each["name"], each["kind"], each["probability"]) for each in pipeline["stages"]] == [
            ("Qualified", "open", 20),
            ("Proposal", "open", 50),
            ("Negotiation", "open", 75),
            ("Won", "won", 100),
            ("Lost", "lost", 0),
        ]
        assert await default(crm) == pipeline
        (event,) = await pipeline_events(postgres, organization_id)
        assert (event.type, event.subject, event.sequence) == ("pipeline.created", pipeline["id"], 1)
        assert event.data == {name: pipeline[name] for name in ("name", "is_default", "stages")}

    async def test_is_made_once_for_all_who_need_it_at_once(
        self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        requests = [crm.post("/v1/deals", json={"name": str(n)}) for n in range(8)] + [crm.get(PATH) for _ in range(4)]
        answers = await asyncio.gather(*requests)
        assert {answer.status_code for answer in answers} == {200, 201}
        (pipeline,) = (await crm.get(PATH)).json()["data"]
        assert {answer.json()["pipeline_id"] for answer in answers[:8]} == {pipeline["id"]}
        assert len(await pipeline_events(postgres, organization_id)) == 1

    @pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
    async def test_waits_for_who_makes_it_just_now(
        self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID, end: str
    ) -> None:
        admin = await asyncpg.connect(postgres)
        try:
            pipeline, stage = new_id(), new_id()
            await admin.execute("BEGIN")
            await admin.execute(
                "INSERT INTO crm.pipelines VALUES ($1, $2, 'Theirs', true, 1, now(), now())", organization_id, pipeline
            )
            await admin.execute(
                "INSERT INTO crm.stages VALUES ($1, $2, $3, 'First', 0, 1, 'open')", organization_id, stage, pipeline
            )
            making = asyncio.create_task(crm.post("/v1/deals", json={"name": "x"}))
            await until(lambda: blocked(admin))
            await admin.execute(end)
            deal = (await making).json()
        finally:
            await admin.close()
        (found,) = (await crm.get(PATH)).json()["data"]
        assert deal["pipeline_id"] == found["id"]
        assert (found["id"] == str(pipeline), found["name"] == "Sales") == (end == "COMMIT", end == "ROLLBACK")

    async def test_is_the_first_one_somebody_makes(self, crm: httpx.AsyncClient) -> None:
        pipeline = await made(crm, PATH, **BODY)
        assert pipeline["is_default"] is True
        assert (await crm.get(PATH)).json()["data"] == [pipeline]
        assert (await made(crm, "/v1/deals", name="x"))["pipeline_id"] == pipeline["id"]


class TestList:
    async def test_answers_pages_oldest_first(self, crm: httpx.AsyncClient) -> None:
        pipelines = [await made(crm, PATH, **{**BODY, "name": str(n)}) for n in range(3)]
        first = (await crm.get(PATH, params={"limit": "2"})).json()
        assert (first["data"], first["has_more"]) == (pipelines[:2], True)
        rest = (await crm.get(PATH, params={"limit": "2", "cursor": first["next_cursor"]})).json()
        assert rest == {"data": pipelines[2:], "has_more": False, "next_cursor": None}

    async def test_refuses_a_bad_parameter(self, crm: httpx.AsyncClient) -> None:
        problem(await crm.get(PATH, params={"limit": "0"}), 422, "validation_failed", "limit")
        problem(await crm.get(PATH, params={"cursor": "x"}), 400, "invalid_cursor", "cursor")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(PATH), 403, "missing_scope")


class TestCreate:
    async def test_answers_the_pipeline(self, crm: httpx.AsyncClient) -> None:
        await default(crm)
        answer = await crm.post(PATH, json=BODY)
        pipeline = answer.json()
        assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
        assert answer.headers["location"] == f"{PATH}/{pipeline['id']}"
        assert (pipeline["name"], pipeline["is_default"]) == ("Renewals", False)
        assert [(each["name"], each["kind"], each["probability"]) for each in pipeline["stages"]] == [
            ("Due", "open", 40),
            ("Renewed", "won", 100),
        ]
        assert (await crm.get(answer.headers["location"])).json() == pipeline

    async def test_may_be_the_default_from_the_start(self, crm: httpx.AsyncClient) -> None:
        pipeline = await made(crm, PATH, **BODY, is_default=True)
        assert (pipeline["is_default"], (await crm.get(PATH)).json()["data"]) == (True, [pipeline])

    async def test_takes_the_default_over(self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
        sales = await default(crm)
        pipeline = await made(crm, PATH, **BODY, is_default=True)
        assert await default(crm) == pipeline
        assert (await crm.get(f"{PATH}/{sales['id']}")).json()["version"] == 2
        events = await pipeline_events(postgres, organization_id)
        assert [(each.type, each.sequence, each.data["is_default"]) for each in events] == [
            ("pipeline.created", 1, True),
            ("pipeline.updated", 2, False),
            ("pipeline.created", 1, True),
        ]

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"name": ""}, "/name"),
            ({"stages": []}, "/stages"),
            ({"stages": None}, "/stages"),
            ({"stages": [{"name": "Won", "kind": "won"}]}, "/stages"),
            ({"stages": [{"name": "A"}, {"name": " a "}]}, "/stages/1/name"),
            ({"stages": [{"name": "A"}, {"name": "B", "kind": "won", "probability": 50}]}, "/stages/1/probability"),
            ({"stages": [{"name": "A", "probability": 101}]}, "/stages/0/probability"),
            ({"stages": [{"name": "A", "probability": 1.5}]}, "/stages/0/probability"),
            ({"stages": [{"name": "A", "kind": "closed"}]}, "/stages/0/kind"),
            ({"stages": [{"name": "A", "id": NOWHERE}]}, "/stages/0/id"),
            ({"stages": [{"name": str(n)} for n in range(51)]}, "/stages"),
        ],
        ids=str,
    )
    async def test_refuses_bad_stages(self, crm: httpx.AsyncClient, wrong: dict[str, object], field: str) -> None:
        problem(await crm.post(PATH, json={**BODY, **wrong}), 422, "validation_failed", field)

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.post(PATH, json=BODY), 403, "missing_scope")


class TestGet:
    async def test_answers_the_pipeline(self, crm: httpx.AsyncClient) -> None:
        pipeline = await made(crm, PATH, **BODY)
        answer = await crm.get(f"{PATH}/{pipeline['id']}")
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, pipeline, '"1"')
        answer = await crm.get(f"{PATH}/{pipeline['id']}", headers={"if-none-match": '"1"'})
        assert answer.status_code == 304

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        pipeline = await made(crm, PATH, **BODY)
        problem(await crm.get(f"{PATH}/{NOWHERE}"), 404, "not_found")
        problem(await stranger.get(f"{PATH}/{pipeline['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(f"{PATH}/{NOWHERE}"), 403, "missing_scope")


class TestUpdate:
    async def test_replaces_the_stages_and_keeps_those_it_names(
        self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        sales = await default(crm)
        qualified, _, _, won, _ = sales["stages"]
        deal = await made(crm, "/v1/deals", name="x")
        stages = [
            {"name": "First talk", "probability": 5},
            {"name": "Sold", "id": won["id"], "kind": "won"},
            {"name": "Qualified", "id": qualified["id"]},
        ]
        answer = await crm.patch(f"{PATH}/{sales['id']}", json={"name": "Direct", "stages": stages})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        changed = answer.json()
        assert [(each["name"], each["probability"]) for each in changed["stages"]] == [
            ("First talk", 5),
            ("Sold", 100),
            ("Qualified", 20),
        ]
        assert [each["id"] for each in changed["stages"]][1:] == [won["id"], qualified["id"]]
        assert (await crm.get(f"{PATH}/{sales['id']}")).json() == changed
        assert (await crm.get(f"/v1/deals/{deal['id']}")).json() == deal
        event = (await pipeline_events(postgres, organization_id))[-1]
        assert (event.type, event.sequence) == ("pipeline.updated", 2)
        assert event.data == {name: changed[name] for name in ("name", "is_default", "stages")}

    async def test_reorders_the_stages(self, crm: httpx.AsyncClient) -> None:
        sales = await default(crm)
        answer = await crm.patch(f"{PATH}/{sales['id']}", json={"stages": sales["stages"][::-1]})
        assert answer.json()["stages"] == sales["stages"][::-1]
        assert (await made(crm, "/v1/deals", name="x"))["stage_id"] == sales["stages"][2]["id"]

    async def test_publishes_nothing_when_nothing_changes(
        self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        sales = await default(crm)
        for body in ({}, {"name": "Sales"}, {"stages": sales["stages"]}, {"is_default": True}):
            assert (await crm.patch(f"{PATH}/{sales['id']}", json=body)).json() == sales
        assert len(await pipeline_events(postgres, organization_id)) == 1

    async def test_makes_it_the_default(self, crm: httpx.AsyncClient) -> None:
        sales, pipeline = await default(crm), await made(crm, PATH, **BODY)
        answer = await crm.patch(f"{PATH}/{pipeline['id']}", json={"is_default": True})
        assert (answer.json()["is_default"], answer.json()["version"]) == (True, 2)
        assert await default(crm) == answer.json()
        assert (await crm.get(f"{PATH}/{sales['id']}")).json()["is_default"] is False

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_keeps_a_stage_that_has_deals(self, crm: httpx.AsyncClient, deleted: bool) -> None:
        sales = await default(crm)
        deal = await made(crm, "/v1/deals", name="x")
        if deleted:
            await crm.delete(f"/v1/deals/{deal['id']}")
        path = f"{PATH}/{sales['id']}"
        detail = problem(await crm.patch(path, json={"stages": sales["stages"][1:]}), 409, "stage_in_use")["detail"]
        assert "Qualified" in detail
        other_kind = [{**sales["stages"][0], "kind": "lost", "probability": 0}, *sales["stages"][1:]]
        problem(await crm.patch(path, json={"stages": other_kind}), 409, "stage_in_use")
        assert (await crm.get(path)).json() == sales

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"stages": []}, "/stages"),
            ({"stages": None}, "/stages"),
            ({"name": None}, "/name"),
            ({"is_default": False}, "/is_default"),
            ({"stages": [{"name": "A", "id": NOWHERE}]}, "/stages/0/id"),
            ({"version": 3}, "/version"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_field(self, crm: httpx.AsyncClient, wrong: dict[str, object], field: str) -> None:
        sales = await default(crm)
        problem(await crm.patch(f"{PATH}/{sales['id']}", json=wrong), 422, "validation_failed", field)

    async def test_refuses_the_same_stage_twice_and_anothers(self, crm: httpx.AsyncClient) -> None:
        sales, other = await default(crm), await made(crm, PATH, **BODY)
        mine, theirs = sales["stages"][0]["id"], other["stages"][0]["id"]
        for ids, field in (((mine, mine), "/stages/1/id"), ((mine, theirs), "/stages/1/id")):
            stages = [{"name": str(n), "id": each} for n, each in enumerate(ids)]
            answer = await crm.patch(f"{PATH}/{sales['id']}", json={"stages": stages})
            problem(answer, 422, "validation_failed", field)

    async def test_honours_if_match(self, crm: httpx.AsyncClient) -> None:
        sales = await default(crm)
        answer = await crm.patch(f"{PATH}/{sales['id']}", json={"name": "x"}, headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        sales = await default(crm)
        problem(await stranger.patch(f"{PATH}/{sales['id']}", json={"name": "x"}), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.patch(f"{PATH}/{NOWHERE}", json={}), 403, "missing_scope")

    async def test_and_deals_that_enter_a_stage_at_the_same_time(self, crm: httpx.AsyncClient) -> None:
        """Whichever comes first: no deal is in a stage that is gone, or has another status than its stage's kind."""
        sales = await default(crm)
        proposal = sales["stages"][1]
        lost = [sales["stages"][0], {**proposal, "kind": "lost", "probability": 0}, *sales["stages"][2:]]
        body = {"name": "x", "stage_id": proposal["id"]}
        entering = [crm.post("/v1/deals", json=body) for _ in range(3)]
        *entered, changed = await asyncio.gather(*entering, crm.patch(f"{PATH}/{sales['id']}", json={"stages": lost}))
        assert {answer.status_code for answer in entered} == {201}
        assert changed.status_code in {200, 409}
        kind = {each["id"]: each["kind"] for each in (await default(crm))["stages"]}[proposal["id"]]
        assert {each["status"] for each in (await crm.get("/v1/deals")).json()["data"]} == {kind}


class TestDelete:
    async def test_deletes(self, crm: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
        await default(crm)
        pipeline = await made(crm, PATH, **BODY)
        answer = await crm.delete(f"{PATH}/{pipeline['id']}", headers={"if-match": '"1"'})
        assert answer.status_code == 204
        problem(await crm.get(f"{PATH}/{pipeline['id']}"), 404, "not_found")
        event = (await pipeline_events(postgres, organization_id))[-1]
        assert (event.type, event.subject, event.sequence) == ("pipeline.deleted", pipeline["id"], 2)

    async def test_keeps_one_with_deals(self, crm: httpx.AsyncClient) -> None:
        await default(crm)
        pipeline = await made(crm, PATH, **BODY)
        await made(crm, "/v1/deals", name="x", pipeline_id=pipeline["id"])
        problem(await crm.delete(f"{PATH}/{pipeline['id']}"), 409, "stage_in_use")

    async def test_keeps_the_default_one(self, crm: httpx.AsyncClient) -> None:
        problem(await crm.delete(f"{PATH}/{(await default(crm))['id']}"), 409, "default_pipeline")

    async def test_honours_if_match(self, crm: httpx.AsyncClient) -> None:
        pipeline = await made(crm, PATH, **BODY)
        answer = await crm.delete(f"{PATH}/{pipeline['id']}", headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        pipeline = await made(crm, PATH, **BODY)
        problem(await stranger.delete(f"{PATH}/{pipeline['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.delete(f"{PATH}/{NOWHERE}"), 403, "missing_scope")
