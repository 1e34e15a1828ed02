"""``/v1/custom-fields``, and the values records hold."""

from typing import Any

import httpx
import pytest

from tests.services.crm.support import NOWHERE, Events, Kind, made, problem

PATH = "/v1/custom-fields"


async def define(crm: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    defaults = {"record_type": "contact", "key": "segment", "label": "Segment", "type": "text"}
    return await made(crm, PATH, **{**defaults, **body})


class TestList:
    async def test_answers_pages_oldest_first(self, crm: httpx.AsyncClient) -> None:
        fields = [await define(crm, key=f"key_{n}", record_type="deal" if n % 2 else "contact") for n in range(5)]
        seen, params = [], {"limit": "2"}
        while True:
            page = (await crm.get(PATH, params=params)).json()
            seen += page["data"]
            if not page["has_more"]:
                break
            params["cursor"] = page["next_cursor"]
        assert seen == fields
        of_deals = (await crm.get(PATH, params={"record_type": "deal"})).json()["data"]
        assert [each["key"] for each in of_deals] == ["key_1", "key_3"]

    async def test_refuses_a_bad_parameter(self, crm: httpx.AsyncClient) -> None:
        problem(await crm.get(PATH, params={"record_type": "thing"}), 422, "validation_failed", "record_type")
        problem(await crm.get(PATH, params={"cursor": "x"}), 400, "invalid_cursor", "cursor")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(PATH), 403, "missing_scope")


class TestCreate:
    async def test_answers_the_field(self, crm: httpx.AsyncClient, events: Events) -> None:
        body = {"record_type": "contact", "key": "tier", "label": "Tier", "type": "select", "options": ["A", "B", "A"]}
        answer = await crm.post(PATH, json=body)
        field = answer.json()
        assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
        assert answer.headers["location"] == f"{PATH}/{field['id']}"
        assert {name: field[name] for name in body} == {**body, "options": ["A", "B"]}
        (event,) = await events()
        assert (event.type, event.subject, event.sequence) == ("custom_field.created", field["id"], 1)
        assert event.data == {name: field[name] for name in ("record_type", "key", "label", "type")}

    async def test_refuses_a_key_that_is_taken(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        field = await define(crm)
        body = {name: field[name] for name in ("record_type", "key", "label", "type")}
        problem(await crm.post(PATH, json=body), 409, "already_exists")
        await define(crm, record_type="company")
        await define(stranger)

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"key": "Key"}, "/key"),
            ({"key": "1st"}, "/key"),
            ({"type": "colour"}, "/type"),
            ({"record_type": "pipeline"}, "/record_type"),
            ({"label": ""}, "/label"),
            ({"type": "select"}, "/"),
            ({"options": ["A"]}, "/"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_field(self, crm: httpx.AsyncClient, wrong: dict[str, object], field: str) -> None:
        body = {"record_type": "contact", "key": "segment", "label": "Segment", "type": "text", **wrong}
        problem(await crm.post(PATH, json=body), 422, "validation_failed", field)

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        body = {"record_type": "contact", "key": "segment", "label": "Segment", "type": "text"}
        problem(await powerless.post(PATH, json=body), 403, "missing_scope")


class TestGet:
    async def test_answers_the_field(self, crm: httpx.AsyncClient) -> None:
        field = await define(crm)
        answer = await crm.get(f"{PATH}/{field['id']}")
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, field, '"1"')
        answer = await crm.get(f"{PATH}/{field['id']}", headers={"if-none-match": '"1"'})
        assert answer.status_code == 304

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        field = await define(crm)
        problem(await crm.get(f"{PATH}/{NOWHERE}"), 404, "not_found")
        problem(await stranger.get(f"{PATH}/{field['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(f"{PATH}/{NOWHERE}"), 403, "missing_scope")


class TestUpdate:
    async def test_changes_label_and_options(self, crm: httpx.AsyncClient, events: Events) -> None:
        field = await define(crm, type="select", options=["A"])
        answer = await crm.patch(f"{PATH}/{field['id']}", json={"label": "Class", "options": ["A", "B"]})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        assert (answer.json()["label"], answer.json()["options"]) == ("Class", ["A", "B"])
        event = (await events())[-1]
        assert (event.type, event.sequence, event.data["options"]) == ("custom_field.updated", 2, ["A", "B"])

    async def test_publishes_nothing_when_nothing_changes(self, crm: httpx.AsyncClient, events: Events) -> None:
        field = await define(crm)
        for body in ({}, {"label": "Segment"}):
            assert (await crm.patch(f"{PATH}/{field['id']}", json=body)).json() == field
        assert len(await events()) == 1

    async def test_refuses_options_that_do_not_fit(self, crm: httpx.AsyncClient) -> None:
        text, select = await define(crm), await define(crm, key="tier", type="select", options=["A"])
        answer = await crm.patch(f"{PATH}/{text['id']}", json={"options": ["A"]})
        problem(answer, 422, "validation_failed", "/options")
        problem(await crm.patch(f"{PATH}/{select['id']}", json={"options": []}), 422, "validation_failed", "/options")

    @pytest.mark.parametrize(
        "wrong", [{"label": None}, {"options": None}, {"key": "other"}, {"type": "number"}], ids=str
    )
    async def test_refuses_what_does_not_change(self, crm: httpx.AsyncClient, wrong: dict[str, object]) -> None:
        field = await define(crm)
        (name,) = wrong
        problem(await crm.patch(f"{PATH}/{field['id']}", json=wrong), 422, "validation_failed", f"/{name}")

    async def test_honours_if_match(self, crm: httpx.AsyncClient) -> None:
        field = await define(crm)
        answer = await crm.patch(f"{PATH}/{field['id']}", json={"label": "x"}, headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        field = await define(crm)
        problem(await stranger.patch(f"{PATH}/{field['id']}", json={"label": "x"}), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.patch(f"{PATH}/{NOWHERE}", json={}), 403, "missing_scope")


class TestDelete:
    async def test_leaves_the_values_records_hold(self, crm: httpx.AsyncClient, events: Events) -> None:
        field = await define(crm)
        contact = await made(crm, "/v1/contacts", first_name="Ada", custom_fields={"segment": "x"})
        path = f"/v1/contacts/{contact['id']}"
        answer = await crm.delete(f"{PATH}/{field['id']}", headers={"if-match": '"1"'})
        assert answer.status_code == 204
        event = (await events())[-1]
        assert (event.type, event.sequence) == ("custom_field.deleted", 2)
        assert event.data == {"record_type": "contact", "key": "segment"}
        assert (await crm.patch(path, json={"phone": "1"})).json()["custom_fields"] == {"segment": "x"}
        answer = await crm.patch(path, json={"custom_fields": {"segment": "y"}})
        problem(answer, 422, "custom_field_invalid", "/custom_fields/segment")
        assert (await crm.patch(path, json={"custom_fields": {"segment": None}})).json()["custom_fields"] == {}

    async def test_honours_if_match(self, crm: httpx.AsyncClient) -> None:
        field = await define(crm)
        answer = await crm.delete(f"{PATH}/{field['id']}", headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        field = await define(crm)
        problem(await stranger.delete(f"{PATH}/{field['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.delete(f"{PATH}/{NOWHERE}"), 403, "missing_scope")


class TestValues:
    @pytest.mark.parametrize(
        ("type_", "good", "bad"),
        [
            ("text", ["", "two\nlines"], [1, True]),
            ("number", [0, -1, 1.5, 1e300, 2**53 - 1], ["1", True]),
            ("boolean", [True, False], [0, "true"]),
            ("date", ["2026-02-28"], ["2026-02-30", "20260228", "2026-02-28T00:00:00Z", 1]),
            ("select", ["A"], ["C", "a", 1]),
        ],
    )
    async def test_have_the_fields_type(
        self, crm: httpx.AsyncClient, kind: Kind, type_: str, good: list[object], bad: list[object]
    ) -> None:
        options = ["A", "B"] if type_ == "select" else []
        await define(crm, record_type=kind.name, key="value", type=type_, options=options)
        record = await made(crm, kind.path, **kind.body)
        path = f"{kind.path}/{record['id']}"
        for value in good:
            answer = await crm.patch(path, json={"custom_fields": {"value": value}})
            assert answer.json()["custom_fields"] == {"value": value}, answer.text
            assert type((await crm.get(path)).json()["custom_fields"]["value"]) is type(value)
        for value in bad:
            answer = await crm.patch(path, json={"custom_fields": {"value": value}})
            problem(answer, 422, "custom_field_invalid", "/custom_fields/value")

    async def test_are_merged_and_removed_by_null(self, crm: httpx.AsyncClient, events: Events) -> None:
        await define(crm, key="one")
        await define(crm, key="two")
        contact = await made(crm, "/v1/contacts", first_name="Ada", custom_fields={"one": "1", "two": None})
        assert contact["custom_fields"] == {"one": "1"}
        answer = await crm.patch(f"/v1/contacts/{contact['id']}", json={"custom_fields": {"one": None, "two": "2"}})
        assert answer.json()["custom_fields"] == {"two": "2"}
        assert (await events())[-1].data["changes"] == {
            "custom_fields": {"before": {"one": "1"}, "after": {"two": "2"}}
        }

    async def test_have_a_limit_together(self, crm: httpx.AsyncClient) -> None:
        for number in range(9):
            await define(crm, key=f"key_{number}")
        large = {f"key_{number}": "x" * 2000 for number in range(9)}
        answer = await crm.post("/v1/contacts", json={"first_name": "Ada", "custom_fields": large})
        problem(answer, 422, "validation_failed", "/custom_fields")
        half = {key: large[key] for key in list(large)[:5]}
        contact = await made(crm, "/v1/contacts", first_name="Ada", custom_fields=half)
        answer = await crm.patch(f"/v1/contacts/{contact['id']}", json={"custom_fields": large})
        problem(answer, 422, "validation_failed", "/custom_fields")
        answer = await crm.post("/v1/contacts/bulk", json={"items": [{"first_name": "Ada", "custom_fields": large}]})
        problem(answer, 422, "validation_failed", "/items/0/custom_fields")

    async def test_change_of_type_within_number_is_a_change(self, crm: httpx.AsyncClient, events: Events) -> None:
        await define(crm, key="score", type="number")
        contact = await made(crm, "/v1/contacts", first_name="Ada", custom_fields={"score": 1})
        await crm.patch(f"/v1/contacts/{contact['id']}", json={"custom_fields": {"score": 1.5}})
        await crm.patch(f"/v1/contacts/{contact['id']}", json={"custom_fields": {"score": 1.5}})
        assert [each.type for each in await events()].count("contact.updated") == 1
