"""``/v1/limits/policies``."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from services.ratelimit.policies import domain
from shared.ids import new_id
from tests.services.ratelimit.conftest import Events
from tests.services.ratelimit.support import BODY, NOWHERE, POLICIES, made, problem, rows_of

DEFAULTS: dict[str, Any] = {
    "description": "", "plan": None, "unit": "requests", "timezone": "UTC",
    "match": {"routes": [], "classes": [], "keys": [], "users": []}, "weighted": True, "mode": "exact",
    "on_failure": "share", "shadow": False, "enabled": True, "epoch": 1, "version": 1,
}  # fmt: skip
FULL: dict[str, Any] = {
    "name": "nightly", "description": "Leaves room for people", "quota": 5000, "unit": "requests", "window": "month",
    "timezone": "America/New_York", "per": ["key", "route"],
    "match": {"routes": ["POST /v1/contacts*", "* /v1/deals/{deal_id}"], "classes": ["write", "bulk"],
              "keys": [str(new_id())], "users": [str(new_id()), str(new_id())]},
    "weighted": False, "mode": "fast", "on_failure": "open", "shadow": True, "enabled": False,
}  # fmt: skip


async def stored(dsn: str, organization_id: UUID) -> list[dict[str, Any]]:
    """All that is kept of an organisation's policies."""
    found = []
    for table in ("policies", "overrides", "policy_changes", "outbox"):
        columns = "id, type" if table == "outbox" else "*"
        found += await rows_of(
            dsn,
            f"SELECT {columns} FROM ratelimit.{table} WHERE organization_id = $1 ORDER BY id",
            organization_id,
        )
    return found


class TestCreate:
    async def test_answers_the_policy(self, limits: httpx.AsyncClient) -> None:
        answer = await limits.post(POLICIES, json=BODY)
        policy = answer.json()
        assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
        assert answer.headers["location"] == f"{POLICIES}/{policy['id']}"
        assert policy == {**DEFAULTS, **BODY, **{name: policy[name] for name in ("id", "created_at", "updated_at")}}
        assert (await limits.get(answer.headers["location"])).json() == policy

    async def test_keeps_every_field(self, limits: httpx.AsyncClient, events: Events) -> None:
        policy = await made(limits, **FULL)
        assert {name: policy[name] for name in FULL} == FULL
        (event,) = await events()
        assert (event.type, event.subject, event.sequence) == ("limit_policy.created", policy["id"], 1)
        assert event.data == {**FULL, "epoch": 1}

    async def test_of_calls_at_the_same_time_has_no_window(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, name="slots", quota=5, unit="concurrent-requests", per=["key"])
        assert (policy["unit"], policy["window"]) == ("concurrent-requests", None)

    async def test_with_a_key_happens_once(self, limits: httpx.AsyncClient, events: Events) -> None:
        answers = [await limits.post(POLICIES, json=BODY, headers={"idempotency-key": "one"}) for _ in range(2)]
        assert answers[0].json() == answers[1].json()
        assert len(await events()) == 1

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"name": ""}, "/name"),
            ({"name": "Imports"}, "/name"),
            ({"name": "1st"}, "/name"),
            ({"name": "a" * 64}, "/name"),
            ({"name": None}, "/name"),
            ({"description": "\x00"}, "/description"),
            ({"description": "x" * 501}, "/description"),
            ({"quota": -1}, "/quota"),
            ({"quota": 10**12 + 1}, "/quota"),
            ({"quota": 1.5}, "/quota"),
            ({"quota": "5"}, "/quota"),
            ({"quota": None}, "/quota"),
            ({"unit": "bytes"}, "/unit"),
            ({"window": None}, "/window"),
            ({"window": "week"}, "/window"),
            ({"unit": "concurrent-requests"}, "/window"),
            ({"unit": "concurrent-requests", "window": None, "mode": "fast"}, "/mode"),
            ({"unit": "concurrent-requests", "window": None, "mode": "strict"}, "/mode"),
            ({"timezone": "Mars/Olympus"}, "/timezone"),
            ({"timezone": "CET-1"}, "/timezone"),
            ({"timezone": ""}, "/timezone"),
            ({"timezone": "'; DROP"}, "/timezone"),
            ({"per": []}, "/per"),
            ({"per": ["key", "key"]}, "/per"),
            ({"per": ["planet"]}, "/per/0"),
            ({"match": {"routes": ["/v1/contacts"]}}, "/match/routes/0"),
            ({"match": {"routes": ["* /v1/contacts", "FETCH /v1/contacts"]}}, "/match/routes/1"),
            ({"match": {"routes": ["get /v1/contacts"]}}, "/match/routes/0"),
            ({"match": {"routes": ["GET v1/contacts"]}}, "/match/routes/0"),
            ({"match": {"routes": ["GET /v1/a?b=c"]}}, "/match/routes/0"),
            ({"match": {"routes": ["GET /*/*/*/*/*"]}}, "/match/routes/0"),
            ({"match": {"routes": ["GET /" + "x" * 200]}}, "/match/routes/0"),
            ({"match": {"routes": [f"GET /{n}" for n in range(51)]}}, "/match/routes"),
            ({"match": {"routes": ["GET /a", "GET /a"]}}, "/match/routes"),
            ({"match": {"classes": ["huge"]}}, "/match/classes/0"),
            ({"match": {"keys": ["x"]}}, "/match/keys/0"),
            ({"match": {"users": [NOWHERE, NOWHERE]}}, "/match/users"),
            ({"match": {"planets": []}}, "/match/planets"),
            ({"match": None}, "/match"),
            ({"mode": "lazy"}, "/mode"),
            ({"on_failure": "panic"}, "/on_failure"),
            ({"epoch": 7}, "/epoch"),
            ({"plan": "pro"}, "/plan"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_field_and_changes_nothing(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID, wrong: dict[str, Any], field: str
    ) -> None:
        body = problem(await limits.post(POLICIES, json={**BODY, **wrong}), 422, "validation_failed", field)
        assert all(each["message"] for each in body["errors"])
        assert await stored(postgres, organization_id) == []

    async def test_says_all_that_is_wrong(self, limits: httpx.AsyncClient) -> None:
        wrong = {**BODY, "unit": "concurrent-requests", "mode": "fast", "timezone": "Mars/Olympus"}
        problem(await limits.post(POLICIES, json=wrong), 422, "validation_failed", "/window", "/mode", "/timezone")

    @pytest.mark.parametrize("name", ["imports", "burst"], ids=["of its own", "of the plan"])
    async def test_refuses_a_name_that_is_taken(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID, name: str
    ) -> None:
        await made(limits, **BODY)
        before = await stored(postgres, organization_id)
        problem(await limits.post(POLICIES, json={**BODY, "name": name}), 409, "name_taken", "/name")
        assert await stored(postgres, organization_id) == before

    async def test_of_those_who_want_a_name_at_once_one_gets_it(self, limits: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*[limits.post(POLICIES, json=BODY) for _ in range(4)])
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]

    async def test_refuses_one_policy_too_many(
        self, limits: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(domain, "MOST_POLICIES", 2)
        for name in ("one", "two"):
            await made(limits, **{**BODY, "name": name})
        problem(await limits.post(POLICIES, json=BODY), 409, "too_many_policies")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.post(POLICIES, json=BODY), 403, "missing_scope")


class TestList:
    async def test_begins_with_the_plan_and_goes_on_by_name(self, limits: httpx.AsyncClient) -> None:
        own = [await made(limits, **{**BODY, "name": name}) for name in ("b", "a")]
        page = (await limits.get(POLICIES)).json()
        assert [(each["plan"], each["name"]) for each in page["data"]] == [
            ("enterprise", "burst"), ("enterprise", "minute"), (None, "a"), (None, "b"),
        ]  # fmt: skip
        assert page["data"][2:] == own[::-1]
        assert page["data"][0] == {
            **DEFAULTS, "id": page["data"][0]["id"], "name": "burst", "description": "Calls in a second",
            "plan": "enterprise", "quota": 5000, "window": "second", "per": ["organization"], "weighted": False,
            "mode": "fast", "created_at": None, "updated_at": None,
        }  # fmt: skip

    async def test_answers_pages(self, limits: httpx.AsyncClient) -> None:
        for name in ("b", "a"):
            await made(limits, **{**BODY, "name": name})
        names: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = (await limits.get(POLICIES, params={"limit": "1", **cursor})).json()
            names += [each["name"] for each in page["data"]]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert names == ["burst", "minute", "a", "b"]

    async def test_refuses_a_bad_parameter(self, limits: httpx.AsyncClient) -> None:
        problem(await limits.get(POLICIES, params={"limit": "0"}), 422, "validation_failed", "limit")
        problem(await limits.get(POLICIES, params={"cursor": "x"}), 400, "invalid_cursor", "cursor")
        problem(await limits.get(POLICIES, params={"plan": "x"}), 422, "validation_failed", "plan")

    async def test_shows_nothing_to_others(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        await made(limits, **BODY)
        assert {each["plan"] for each in (await stranger.get(POLICIES)).json()["data"]} == {"enterprise"}

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(POLICIES), 403, "missing_scope")


class TestGet:
    async def test_answers_the_policy_unless_it_is_known(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        path = f"{POLICIES}/{policy['id']}"
        answer = await limits.get(path)
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, policy, '"1"')
        assert (await limits.get(path, headers={"if-none-match": '"1"'})).status_code == 304

    async def test_answers_one_of_the_plan(self, limits: httpx.AsyncClient) -> None:
        (burst, *_) = (await limits.get(POLICIES)).json()["data"]
        assert (await limits.get(f"{POLICIES}/{burst['id']}")).json() == burst

    async def test_knows_no_other_id(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        problem(await limits.get(f"{POLICIES}/{NOWHERE}"), 404, "not_found")
        problem(await stranger.get(f"{POLICIES}/{policy['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(f"{POLICIES}/{NOWHERE}"), 403, "missing_scope")


class TestUpdate:
    async def test_changes_fields_one_by_one(self, limits: httpx.AsyncClient, events: Events) -> None:
        policy = await made(limits, **BODY)
        change = {"quota": 900, "description": "More", "match": {"routes": ["* /v1/deals*"]}}
        answer = await limits.patch(f"{POLICIES}/{policy['id']}", json=change)
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        expected = {**policy, **change, "match": {**policy["match"], **change["match"]}, "version": 2}  # type: ignore[dict-item]
        assert answer.json() == {**expected, "updated_at": answer.json()["updated_at"]}
        assert (await limits.get(f"{POLICIES}/{policy['id']}")).json() == answer.json()
        event = (await events())[-1]
        assert (event.type, event.subject, event.sequence) == ("limit_policy.updated", policy["id"], 2)
        assert event.data == {
            "name": "imports",
            "epoch": 1,
            "changes": {
                "quota": {"before": 600, "after": 900},
                "description": {"before": "", "after": "More"},
                "match.routes": {"before": [], "after": ["* /v1/deals*"]},
            },
        }

    @pytest.mark.parametrize(
        "change",
        [{"window": "hour"}, {"timezone": "Europe/Berlin"}, {"per": ["user"]}, {"weighted": False},
         {"unit": "concurrent-requests", "window": None}],
        ids=str,
    )  # fmt: skip
    async def test_of_what_is_counted_begins_from_zero(self, limits: httpx.AsyncClient, change: dict[str, Any]) -> None:
        policy = await made(limits, **BODY)
        changed = (await limits.patch(f"{POLICIES}/{policy['id']}", json=change)).json()
        assert (changed["epoch"], changed["version"]) == (2, 2)

    @pytest.mark.parametrize("change", [{"quota": 1}, {"name": "x"}, {"mode": "strict"}, {"shadow": True}], ids=str)
    async def test_of_anything_else_counts_on(self, limits: httpx.AsyncClient, change: dict[str, Any]) -> None:
        policy = await made(limits, **BODY)
        changed = (await limits.patch(f"{POLICIES}/{policy['id']}", json=change)).json()
        assert (changed["epoch"], changed["version"]) == (1, 2)

    async def test_publishes_nothing_when_nothing_changes(self, limits: httpx.AsyncClient, events: Events) -> None:
        policy = await made(limits, **FULL)
        for body in ({}, {"quota": 5000}, FULL, {"force": True}):
            assert (await limits.patch(f"{POLICIES}/{policy['id']}", json=body)).json() == policy
        assert len(await events()) == 1

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"quota": None}, "/quota"),
            ({"window": None}, "/window"),
            ({"unit": "concurrent-requests"}, "/window"),
            ({"unit": "concurrent-requests", "window": None, "mode": "strict"}, "/mode"),
            ({"timezone": "Nowhere/Land"}, "/timezone"),
            ({"match": {"routes": None}}, "/match/routes"),
            ({"match": {"routes": ["x"]}}, "/match/routes/0"),
            ({"per": None}, "/per"),
            ({"version": 3}, "/version"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_field_and_changes_nothing(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID, wrong: dict[str, Any], field: str
    ) -> None:
        policy = await made(limits, **BODY)
        before = await stored(postgres, organization_id)
        answer = await limits.patch(f"{POLICIES}/{policy['id']}", json={"quota": 7, **wrong})
        problem(answer, 422, "validation_failed", field)
        assert await stored(postgres, organization_id) == before

    async def test_refuses_a_name_that_is_taken(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        await made(limits, **{**BODY, "name": "other"})
        for name in ("other", "minute"):
            problem(await limits.patch(f"{POLICIES}/{policy['id']}", json={"name": name}), 409, "name_taken", "/name")

    async def test_honours_if_match(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        answer = await limits.patch(f"{POLICIES}/{policy['id']}", json={"quota": 1}, headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_of_two_at_once_loses_nothing(self, limits: httpx.AsyncClient) -> None:
        path = f"{POLICIES}/{(await made(limits, **BODY))['id']}"
        await asyncio.gather(limits.patch(path, json={"quota": 1}), limits.patch(path, json={"description": "x"}))
        policy = (await limits.get(path)).json()
        assert (policy["quota"], policy["description"], policy["version"]) == (1, "x", 3)

    async def test_knows_no_other_id(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        problem(await stranger.patch(f"{POLICIES}/{policy['id']}", json={"quota": 1}), 404, "not_found")
        problem(await limits.patch(f"{POLICIES}/{NOWHERE}", json={"quota": 1}), 404, "not_found")


class TestReset:
    async def test_counts_from_zero(self, limits: httpx.AsyncClient, events: Events) -> None:
        policy = await made(limits, **BODY)
        answer = await limits.post(f"{POLICIES}/{policy['id']}/reset")
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        assert (answer.json()["epoch"], answer.json()["version"]) == (2, 2)
        event = (await events())[-1]
        assert (event.type, event.sequence, event.data) == ("limit_policy.reset", 2, {"name": "imports", "epoch": 2})

    async def test_honours_if_match(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        answer = await limits.post(f"{POLICIES}/{policy['id']}/reset", headers={"if-match": '"9"'})
        problem(answer, 412, "precondition_failed")


class TestDelete:
    async def test_deletes_it_and_its_overrides(
        self, limits: httpx.AsyncClient, events: Events, postgres: str, organization_id: UUID
    ) -> None:
        policy = await made(limits, **BODY)
        await made(limits, f"{POLICIES}/{policy['id']}/overrides", pattern="key:*", quota=5)
        answer = await limits.delete(f"{POLICIES}/{policy['id']}", headers={"if-match": '"1"'})
        assert answer.status_code == 204
        problem(await limits.get(f"{POLICIES}/{policy['id']}"), 404, "not_found")
        event = (await events())[-1]
        assert (event.type, event.sequence, event.data) == ("limit_policy.deleted", 2, {"name": "imports"})
        assert (
            await rows_of(postgres, "SELECT FROM ratelimit.overrides WHERE organization_id = $1", organization_id) == []
        )

    async def test_honours_if_match(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        answer = await limits.delete(f"{POLICIES}/{policy['id']}", headers={"if-match": '"2"'})
        problem(answer, 412, "precondition_failed")

    async def test_knows_no_other_id(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        problem(await stranger.delete(f"{POLICIES}/{policy['id']}"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("PATCH", "", {"quota": 1}), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/reset", None)],
)
async def test_what_comes_with_the_plan_stays_as_it_is(
    limits: httpx.AsyncClient, events: Events, method: str, path: str, body: dict[str, Any] | None
) -> None:
    (burst, *_) = (await limits.get(POLICIES)).json()["data"]
    answer = await limits.request(method, f"{POLICIES}/{burst['id']}{path}", json=body)
    assert "enterprise" in problem(answer, 409, "plan_policy")["detail"]
    assert (await limits.get(f"{POLICIES}/{burst['id']}")).json() == burst
    assert await events() == []


async def test_every_change_is_told_to_whoever_enforces_limits(
    limits: httpx.AsyncClient, postgres: str, organization_id: UUID
) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(postgres)
    await listener.add_listener("guardian_limits", lambda *args: heard.append(str(args[3])))

    async def told() -> list[str]:
        await listener.execute("SELECT 1")
        mine = [each for each in heard if str(organization_id) in each]
        heard.clear()
        return mine

    name = f"organization:{organization_id}"
    try:
        policy = await made(limits, **BODY)
        assert await told() == [name]
        await limits.patch(f"{POLICIES}/{policy['id']}", json={"quota": 5})
        assert await told() == [name]
        override = await made(limits, f"{POLICIES}/{policy['id']}/overrides", pattern="key:*", quota=5)
        assert await told() == [name]
        await limits.delete(f"{POLICIES}/{policy['id']}/overrides/{override['id']}")
        assert await told() == [name]
        await limits.delete(f"{POLICIES}/{policy['id']}")
        assert await told() == [name]
        await limits.get(POLICIES)
        assert await told() == []
    finally:
        await listener.close()
