"""The eight operations every kind of record has: one class for each, one test for each status it promises."""

from datetime import datetime
from uuid import UUID

import httpx
import pytest

from shared.auth import Principal
from shared.clock import FixedClock
from shared.ids import new_id
from shared.testing.client import ClientFactory
from shared.testing.plugin import PrincipalFactory
from tests.services.crm.support import NOWHERE, SCOPES, Events, Kind, made, problem


class TestList:
    async def test_answers_a_page(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.get(kind.path)
        assert answer.status_code == 200
        assert answer.json() == {"data": [record], "has_more": False, "next_cursor": None}

    async def test_leaves_deleted_records_out_unless_asked(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        kept, gone = [await made(crm, kind.path, **kind.body) for _ in range(2)]
        await crm.delete(f"{kind.path}/{gone['id']}")
        assert [each["id"] for each in (await crm.get(kind.path)).json()["data"]] == [kept["id"]]
        deleted = (await crm.get(kind.path, params={"deleted": "true"})).json()["data"]
        assert [each["id"] for each in deleted] == [gone["id"]]
        assert deleted[0]["deleted_at"] is not None

    @pytest.mark.parametrize(
        "params",
        [
            {"nonsense": "1"},
            {"limit": "0"},
            {"limit": "201"},
            {"limit": "many"},
            {"sort": "phone"},
            {"owner_id": "me"},
            {"created_after": "yesterday"},
            {"created_after": "2026-01-01T00:00:00"},
            {"created_after": "1700000000"},
            {"created_after": "0001-01-01T00:00:00Z"},
            {"q": "x" * 201},
            {"q": "a\x00b"},
            {"tag": ""},
            {"tag": "a\x01b"},
            {"custom_field": "no colon"},
            {"custom_field": "key:\x00"},
            {"deleted": "perhaps"},
            {"cursor": "x" * 5000},
        ],
        ids=str,
    )
    async def test_refuses_a_bad_parameter(self, crm: httpx.AsyncClient, kind: Kind, params: dict[str, str]) -> None:
        (name,) = params
        problem(await crm.get(kind.path, params=params), 422, "validation_failed", name)

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        answer = await powerless.get(kind.path)
        assert problem(answer, 403, "missing_scope")["required_scope"] == f"{kind.plural}:read"


class TestCreate:
    async def test_answers_the_record(
        self, crm: httpx.AsyncClient, caller: Principal, kind: Kind, frozen_clock: FixedClock
    ) -> None:
        answer = await crm.post(kind.path, json=kind.body)
        assert answer.status_code == 201
        body = answer.json()
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["location"] == f"{kind.path}/{body['id']}"
        assert {name: body[name] for name in kind.body} == kind.body
        assert body["owner_id"] == caller.actor_id
        assert (body["tags"], body["custom_fields"], body["version"], body["deleted_at"]) == ([], {}, 1, None)
        assert datetime.fromisoformat(body["created_at"]) == frozen_clock.moment
        assert (await crm.get(answer.headers["location"])).json() == body

    async def test_publishes_the_whole_record(
        self, crm: httpx.AsyncClient, caller: Principal, kind: Kind, events: Events
    ) -> None:
        record = await made(crm, kind.path, **kind.body)
        (event,) = await events()
        assert (event.type, event.subject, event.sequence) == (f"{kind.name}.created", record["id"], 1)
        snapshot = event.data[kind.name]
        assert snapshot == {name: record[name] for name in snapshot}
        assert set(record) - set(snapshot) == {"deleted_at"}
        assert event.envelope["tenantid"] == str(caller.organization_id)
        assert event.envelope["authid"] == caller.actor_id
        assert event.envelope["correlationid"] == caller.request_id

    async def test_an_api_key_owns_nothing(
        self, client: ClientFactory, principal: PrincipalFactory, kind: Kind
    ) -> None:
        crm = await client("crm", principal(*SCOPES, actor_type="api_key", actor_id="k3y"))
        assert (await made(crm, kind.path, **kind.body))["owner_id"] is None

    async def test_keeps_each_tag_once(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body, tags=["b", "a", " b "])
        assert record["tags"] == ["b", "a"]

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"nonsense": 1}, "/nonsense"),
            ({"a/b~c": 1}, "/a~1b~0c"),
            ({"tags": None}, "/tags"),
            ({"tags": ["ok", "a,b"]}, "/tags/1"),
            ({"tags": ["x"] * 51}, "/tags"),
            ({"tags": ["\x7f"]}, "/tags/0"),
            ({"owner_id": "somebody"}, "/owner_id"),
            ({"custom_fields": None}, "/custom_fields"),
            ({"custom_fields": {"Bad Key": 1}}, "/custom_fields/Bad Key"),
            ({"custom_fields": {"key": [1]}}, "/custom_fields/key"),
            ({"custom_fields": {"key": "\x00"}}, "/custom_fields/key"),
            ({"custom_fields": {"key": "x" * 2001}}, "/custom_fields/key"),
            ({"custom_fields": {"key": 2**53}}, "/custom_fields/key"),
            ({"custom_fields": {f"key_{n}": n for n in range(51)}}, "/custom_fields"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_field(
        self, crm: httpx.AsyncClient, kind: Kind, wrong: dict[str, object], field: str
    ) -> None:
        problem(await crm.post(kind.path, json={**kind.body, **wrong}), 422, "validation_failed", field)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b'{"tags": NaN}',
            b'{"custom_fields": {"score": Infinity}}',
            b'{"custom_fields": {"score": 1e999}}',
            b'{"custom_fields": {"note": "\\ud800"}}',
            b'{"custom_fields": {"note": "\xff"}}',
            b"[" * 100_000,
        ],
        ids=lambda content: repr(content[:40]),
    )
    async def test_refuses_what_is_not_json(self, crm: httpx.AsyncClient, kind: Kind, content: bytes) -> None:
        answer = await crm.post(kind.path, content=content, headers={"content-type": "application/json"})
        if content:
            problem(answer, 400, "malformed_json")
        else:
            problem(answer, 422, "validation_failed", "/")

    @pytest.mark.parametrize("content", [b"[]", b"null", b"1", b'"text"'])
    async def test_refuses_json_that_is_no_object(self, crm: httpx.AsyncClient, kind: Kind, content: bytes) -> None:
        answer = await crm.post(kind.path, content=content, headers={"content-type": "application/json"})
        problem(answer, 422, "validation_failed", "/")

    @pytest.mark.parametrize(
        "media_type", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""]
    )
    async def test_refuses_another_media_type(self, crm: httpx.AsyncClient, kind: Kind, media_type: str) -> None:
        headers = {"content-type": media_type} if media_type else {}
        problem(await crm.post(kind.path, content=b"{}", headers=headers), 415, "unsupported_media_type")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        answer = await powerless.post(kind.path, json=kind.body)
        assert problem(answer, 403, "missing_scope")["required_scope"] == f"{kind.plural}:write"


class TestCreateMany:
    async def test_answers_the_records_in_order(self, crm: httpx.AsyncClient, kind: Kind, events: Events) -> None:
        items = [{**kind.body, "tags": [str(number)]} for number in range(200)]
        answer = await crm.post(f"{kind.path}/bulk", json={"items": items})
        assert answer.status_code == 201
        rows = answer.json()["data"]
        assert [row["tags"] for row in rows] == [[str(number)] for number in range(200)]
        published = await events()
        assert [each.subject for each in published] == [row["id"] for row in rows]
        assert {each.sequence for each in published} == {1}

    async def test_makes_all_or_none(self, crm: httpx.AsyncClient, kind: Kind, events: Events) -> None:
        items = [kind.body, {**kind.body, "custom_fields": {"unknown": 1}}]
        answer = await crm.post(f"{kind.path}/bulk", json={"items": items})
        problem(answer, 422, "custom_field_invalid", "/items/1/custom_fields/unknown")
        assert (await crm.get(kind.path)).json()["data"] == []
        assert await events() == []

    async def test_names_the_bad_item(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        answer = await crm.post(f"{kind.path}/bulk", json={"items": [kind.body, {**kind.body, "tags": 1}]})
        problem(answer, 422, "validation_failed", "/items/1/tags")

    @pytest.mark.parametrize("count", [0, 201])
    async def test_refuses_none_and_too_many(self, crm: httpx.AsyncClient, kind: Kind, count: int) -> None:
        answer = await crm.post(f"{kind.path}/bulk", json={"items": [kind.body] * count})
        problem(answer, 422, "validation_failed", "/items")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        problem(await powerless.post(f"{kind.path}/bulk", json={"items": [kind.body]}), 403, "missing_scope")


class TestUpdateMany:
    async def test_answers_the_records_in_order(self, crm: httpx.AsyncClient, kind: Kind, events: Events) -> None:
        first, second = [await made(crm, kind.path, **kind.body) for _ in range(2)]
        items = [{"id": second["id"], **kind.change}, {"id": first["id"], "tags": ["x"]}]
        answer = await crm.patch(f"{kind.path}/bulk", json={"items": items})
        assert answer.status_code == 200
        rows = answer.json()["data"]
        assert [row["id"] for row in rows] == [second["id"], first["id"]]
        assert {name: rows[0][name] for name in kind.change} == kind.change
        changes = [each for each in await events() if each.type == f"{kind.name}.updated"]
        assert [(each.subject, each.sequence) for each in changes] == [(second["id"], 2), (first["id"], 2)]

    async def test_changes_all_or_none(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        items = [{"id": record["id"], "tags": ["x"]}, {"id": NOWHERE, "tags": ["x"]}]
        problem(await crm.patch(f"{kind.path}/bulk", json={"items": items}), 404, "not_found", "/items/1")
        assert (await crm.get(f"{kind.path}/{record['id']}")).json() == record

    async def test_names_the_bad_item(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        first, second = [await made(crm, kind.path, **kind.body) for _ in range(2)]
        items = [{"id": first["id"]}, {"id": second["id"], "custom_fields": {"unknown": 1}}]
        answer = await crm.patch(f"{kind.path}/bulk", json={"items": items})
        problem(answer, 422, "custom_field_invalid", "/items/1/custom_fields/unknown")

    async def test_refuses_the_same_record_twice(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        items = [{"id": record["id"], "tags": ["x"]}, {"id": record["id"].upper(), "tags": ["y"]}]
        problem(await crm.patch(f"{kind.path}/bulk", json={"items": items}), 422, "validation_failed", "/items")

    async def test_does_not_see_another_organisations_record(
        self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient, kind: Kind
    ) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await stranger.patch(f"{kind.path}/bulk", json={"items": [{"id": record["id"], "tags": ["x"]}]})
        problem(answer, 404, "not_found", "/items/0")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        problem(await powerless.patch(f"{kind.path}/bulk", json={"items": [{"id": NOWHERE}]}), 403, "missing_scope")


class TestGet:
    async def test_answers_the_record(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.get(f"{kind.path}/{record['id']}")
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, record, '"1"')

    @pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"7", "1"', "*"])
    async def test_saves_the_transfer_of_what_is_known(self, crm: httpx.AsyncClient, kind: Kind, tag: str) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.get(f"{kind.path}/{record['id']}", headers={"if-none-match": tag})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"1"')

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        problem(await crm.get(f"{kind.path}/{NOWHERE}"), 404, "not_found")
        problem(await stranger.get(f"{kind.path}/{record['id']}"), 404, "not_found")

    async def test_does_not_show_a_deleted_record(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        await crm.delete(f"{kind.path}/{record['id']}")
        problem(await crm.get(f"{kind.path}/{record['id']}"), 404, "not_found")

    async def test_refuses_what_is_no_id(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        problem(await crm.get(f"{kind.path}/1"), 422, "validation_failed", f"{kind.name}_id")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        problem(await powerless.get(f"{kind.path}/{NOWHERE}"), 403, "missing_scope")


class TestUpdate:
    async def test_changes_what_is_sent(self, crm: httpx.AsyncClient, kind: Kind, frozen_clock: FixedClock) -> None:
        record = await made(crm, kind.path, **kind.body)
        frozen_clock.advance(hours=1)
        answer = await crm.patch(f"{kind.path}/{record['id']}", json={**kind.change, "tags": ["x", "x"]})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        moment = frozen_clock.moment.isoformat().replace("+00:00", "Z")
        assert answer.json() == {**record, **kind.change, "tags": ["x"], "version": 2, "updated_at": moment}

    async def test_publishes_what_changed(self, crm: httpx.AsyncClient, kind: Kind, events: Events) -> None:
        record = await made(crm, kind.path, **kind.body)
        same = {name: record[name] for name in kind.body}
        await crm.patch(f"{kind.path}/{record['id']}", json={**same, **kind.change})
        _, event = await events()
        assert (event.type, event.subject, event.sequence) == (f"{kind.name}.updated", record["id"], 2)
        assert event.data == {
            "changes": {name: {"before": record[name], "after": after} for name, after in kind.change.items()}
        }

    async def test_publishes_nothing_when_nothing_changes(
        self, crm: httpx.AsyncClient, kind: Kind, events: Events
    ) -> None:
        record = await made(crm, kind.path, **kind.body)
        for body in ({}, {name: record[name] for name in kind.body}, {"tags": [], "custom_fields": {"gone": None}}):
            answer = await crm.patch(f"{kind.path}/{record['id']}", json=body)
            assert (answer.status_code, answer.json()) == (200, record)
        assert [each.type for each in await events()] == [f"{kind.name}.created"]

    async def test_honours_if_match(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        path = f"{kind.path}/{record['id']}"
        for tag in ('"2"', 'W/"1"', "1", '""'):
            answer = await crm.patch(path, json=kind.change, headers={"if-match": tag})
            problem(answer, 412, "precondition_failed")
            assert answer.headers["etag"] == '"1"'
        assert (await crm.patch(path, json=kind.change, headers={"if-match": '"7", "1"'})).status_code == 200
        assert (await crm.patch(path, json=kind.body, headers={"if-match": "*"})).status_code == 200

    @pytest.mark.parametrize("field", ["tags", "custom_fields"])
    async def test_refuses_null_where_there_is_always_a_value(
        self, crm: httpx.AsyncClient, kind: Kind, field: str
    ) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.patch(f"{kind.path}/{record['id']}", json={field: None})
        problem(answer, 422, "validation_failed", f"/{field}")

    @pytest.mark.parametrize("field", ["id", "version", "created_at", "organization_id", "deleted_at"])
    async def test_refuses_what_callers_do_not_set(self, crm: httpx.AsyncClient, kind: Kind, field: str) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.patch(f"{kind.path}/{record['id']}", json={field: record.get(field)})
        problem(answer, 422, "validation_failed", f"/{field}")

    async def test_takes_the_owner_away(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.patch(f"{kind.path}/{record['id']}", json={"owner_id": None})
        assert answer.json()["owner_id"] is None

    async def test_knows_no_other_id(self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        problem(await crm.patch(f"{kind.path}/{NOWHERE}", json={}), 404, "not_found")
        problem(await stranger.patch(f"{kind.path}/{record['id']}", json=kind.change), 404, "not_found")
        assert (await crm.get(f"{kind.path}/{record['id']}")).json() == record

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        problem(await powerless.patch(f"{kind.path}/{NOWHERE}", json={}), 403, "missing_scope")


class TestDelete:
    async def test_deletes(self, crm: httpx.AsyncClient, kind: Kind, events: Events) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.delete(f"{kind.path}/{record['id']}", headers={"if-match": '"1"'})
        assert (answer.status_code, answer.content) == (204, b"")
        event = (await events())[-1]
        assert (event.type, event.subject, event.sequence) == (f"{kind.name}.deleted", record["id"], 2)

    async def test_deletes_once(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        await crm.delete(f"{kind.path}/{record['id']}")
        problem(await crm.delete(f"{kind.path}/{record['id']}"), 404, "not_found")

    async def test_honours_if_match(self, crm: httpx.AsyncClient, kind: Kind) -> None:
        record = await made(crm, kind.path, **kind.body)
        answer = await crm.delete(f"{kind.path}/{record['id']}", headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_does_not_see_another_organisations_record(
        self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient, kind: Kind
    ) -> None:
        record = await made(crm, kind.path, **kind.body)
        problem(await stranger.delete(f"{kind.path}/{record['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        problem(await powerless.delete(f"{kind.path}/{NOWHERE}"), 403, "missing_scope")


class TestRestore:
    async def test_brings_the_record_back(self, crm: httpx.AsyncClient, kind: Kind, events: Events) -> None:
        record = await made(crm, kind.path, **kind.body)
        path = f"{kind.path}/{record['id']}"
        await crm.delete(path)
        problem(await crm.post(f"{path}/restore", headers={"if-match": '"1"'}), 412, "precondition_failed")
        answer = await crm.post(f"{path}/restore", headers={"if-match": '"2"'})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"3"')
        assert answer.json() == {**record, "version": 3, "updated_at": answer.json()["updated_at"]}
        assert (await crm.get(path)).json() == answer.json()
        event = (await events())[-1]
        assert (event.type, event.sequence, event.data[kind.name]["id"]) == (f"{kind.name}.restored", 3, record["id"])

    async def test_finds_nothing_to_restore(
        self, crm: httpx.AsyncClient, stranger: httpx.AsyncClient, kind: Kind
    ) -> None:
        record = await made(crm, kind.path, **kind.body)
        path = f"{kind.path}/{record['id']}/restore"
        problem(await crm.post(path), 404, "not_found")
        await crm.delete(f"{kind.path}/{record['id']}")
        problem(await stranger.post(path), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient, kind: Kind) -> None:
        problem(await powerless.post(f"{kind.path}/{NOWHERE}/restore"), 403, "missing_scope")


async def test_records_of_two_organisations_may_have_the_same_content(
    crm: httpx.AsyncClient, stranger: httpx.AsyncClient, kind: Kind
) -> None:
    mine, theirs = await made(crm, kind.path, **kind.body), await made(stranger, kind.path, **kind.body)
    assert [each["id"] for each in (await crm.get(kind.path)).json()["data"]] == [mine["id"]]
    assert [each["id"] for each in (await stranger.get(kind.path)).json()["data"]] == [theirs["id"]]
    assert UUID(mine["id"]) != UUID(theirs["id"]) != new_id()
