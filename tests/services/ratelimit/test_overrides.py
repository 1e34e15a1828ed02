"""``/v1/limits/policies/{policy_id}/overrides``."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.ratelimit.overrides import domain
from shared import clock
from tests.services.ratelimit.conftest import Events
from tests.services.ratelimit.support import BODY, NOWHERE, POLICIES, made, problem, rows_of

OVERRIDE: dict[str, Any] = {"pattern": "key:0198*", "quota": 6000, "note": "While the old system is moved"}


async def plan_policy(limits: httpx.AsyncClient, name: str = "minute") -> dict[str, Any]:
    (policy,) = [each for each in (await limits.get(POLICIES)).json()["data"] if each["name"] == name]
    return dict(policy)


async def path_of(limits: httpx.AsyncClient, **body: Any) -> str:
    """Where the overrides of a new policy are."""
    return f"{POLICIES}/{(await made(limits, **{**BODY, **body}))['id']}/overrides"


def soon(**delta: float) -> str:
    return (clock.now() + timedelta(**delta)).isoformat()


class TestCreate:
    async def test_answers_the_override(self, limits: httpx.AsyncClient, events: Events) -> None:
        path = await path_of(limits)
        answer = await limits.post(path, json={**OVERRIDE, "expires_at": "2150-03-31T02:00:00+02:00"})
        override = answer.json()
        assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
        assert answer.headers["location"] == f"{path}/{override['id']}"
        expires = {"expires_at": "2150-03-31T00:00:00Z"}
        assert {name: override[name] for name in (*OVERRIDE, "expires_at")} == {**OVERRIDE, **expires}
        assert (await limits.get(answer.headers["location"])).json() == override
        event = (await events())[-1]
        assert (event.type, event.subject, event.sequence) == ("limit_override.created", override["id"], 1)
        assert event.data == {
            **OVERRIDE, **expires, "policy_id": override["policy_id"], "policy_name": "imports",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"pattern": ""}, "/pattern"),
            ({"pattern": "organization"}, "/pattern"),
            ({"pattern": "user:*"}, "/pattern"),
            ({"pattern": "Key:*"}, "/pattern"),
            ({"pattern": "*" * 5}, "/pattern"),
            ({"pattern": "key:" + "x" * 200}, "/pattern"),
            ({"pattern": "key:\n"}, "/pattern"),
            ({"pattern": None}, "/pattern"),
            ({"quota": -1}, "/quota"),
            ({"quota": 10**13}, "/quota"),
            ({"quota": "1"}, "/quota"),
            ({"note": "x" * 501}, "/note"),
            ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
            ({"expires_at": "2050-01-01T00:00:00"}, "/expires_at"),
            ({"expires_at": 5}, "/expires_at"),
            ({"policy_id": NOWHERE}, "/policy_id"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_field_and_changes_nothing(
        self, limits: httpx.AsyncClient, events: Events, wrong: dict[str, Any], field: str
    ) -> None:
        path = await path_of(limits)
        problem(await limits.post(path, json={**OVERRIDE, **wrong}), 422, "validation_failed", field)
        assert (await limits.get(path)).json()["data"] == []
        assert len(await events()) == 1

    async def test_refuses_a_pattern_that_is_taken(self, limits: httpx.AsyncClient) -> None:
        path = await path_of(limits)
        await made(limits, path, **OVERRIDE)
        problem(await limits.post(path, json=OVERRIDE), 409, "pattern_taken", "/pattern")

    async def test_refuses_one_too_many(self, limits: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(domain, "MOST_OVERRIDES", 1)
        path = await path_of(limits)
        await made(limits, path, **OVERRIDE)
        problem(await limits.post(path, json={**OVERRIDE, "pattern": "key:*"}), 409, "too_many_overrides")

    async def test_takes_from_a_plan_and_never_adds(self, limits: httpx.AsyncClient, events: Events) -> None:
        policy = await plan_policy(limits)
        path = f"{POLICIES}/{policy['id']}/overrides"
        for quota in (policy["quota"], policy["quota"] + 1):
            answer = await limits.post(path, json={"pattern": "organization", "quota": quota})
            problem(answer, 409, "plan_policy")
        assert await events() == []
        override = await made(limits, path, pattern="organization", quota=policy["quota"] - 1)
        one = f"{path}/{override['id']}"
        problem(await limits.patch(one, json={"quota": policy["quota"]}), 409, "plan_policy")
        assert (await limits.patch(one, json={"quota": 5000, "note": "x"})).json()["quota"] == 5000
        (row,) = (await limits.get("/v1/limits", params={"policy_id": policy["id"]})).json()["data"]
        assert row["quota"] == 5000
        assert (await limits.delete(one)).status_code == 204

    async def test_knows_no_other_policy(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        path = await path_of(limits)
        problem(await stranger.post(path, json=OVERRIDE), 404, "not_found")
        problem(await limits.post(f"{POLICIES}/{NOWHERE}/overrides", json=OVERRIDE), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.post(f"{POLICIES}/{NOWHERE}/overrides", json=OVERRIDE), 403, "missing_scope")


class TestList:
    async def test_answers_pages_oldest_first(self, limits: httpx.AsyncClient) -> None:
        path = await path_of(limits)
        overrides = [await made(limits, path, **{**OVERRIDE, "pattern": f"key:{n}"}) for n in (3, 1, 2)]
        first = (await limits.get(path, params={"limit": "2"})).json()
        assert (first["data"], first["has_more"]) == (overrides[:2], True)
        rest = (await limits.get(path, params={"limit": "2", "cursor": first["next_cursor"]})).json()
        assert rest == {"data": overrides[2:], "has_more": False, "next_cursor": None}

    async def test_is_of_one_policy(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        path, other = await path_of(limits), await path_of(limits, name="other")
        await made(limits, path, **OVERRIDE)
        assert (await limits.get(other)).json()["data"] == []
        problem(await stranger.get(path), 404, "not_found")
        problem(await limits.get(path, params={"cursor": "x"}), 400, "invalid_cursor", "cursor")

    async def test_of_a_plan_is_of_each_organisation(
        self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient
    ) -> None:
        path = f"{POLICIES}/{(await plan_policy(limits))['id']}/overrides"
        override = await made(limits, path, pattern="organization", quota=5)
        assert (await stranger.get(path)).json()["data"] == []
        problem(await stranger.get(f"{path}/{override['id']}"), 404, "not_found")

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(f"{POLICIES}/{NOWHERE}/overrides"), 403, "missing_scope")


class TestOne:
    async def test_is_answered_unless_it_is_known(self, limits: httpx.AsyncClient) -> None:
        path = await path_of(limits)
        one = f"{path}/{(await made(limits, path, **OVERRIDE))['id']}"
        assert (await limits.get(one)).headers["etag"] == '"1"'
        assert (await limits.get(one, headers={"if-none-match": '"1"'})).status_code == 304

    async def test_is_of_its_policy(self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
        path, other = await path_of(limits), await path_of(limits, name="other")
        override = await made(limits, path, **OVERRIDE)
        for client, where in ((limits, other), (stranger, path)):
            for method in ("GET", "PATCH", "DELETE"):
                body: dict[str, Any] | None = {} if method == "PATCH" else None
                answer = await client.request(method, f"{where}/{override['id']}", json=body)
                problem(answer, 404, "not_found")

    async def test_changes(self, limits: httpx.AsyncClient, events: Events) -> None:
        path = await path_of(limits)
        override = await made(limits, path, **OVERRIDE)
        one = f"{path}/{override['id']}"
        answer = await limits.patch(one, json={"pattern": "key:*", "quota": 7, "note": OVERRIDE["note"]})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
        assert (answer.json()["pattern"], answer.json()["quota"], answer.json()["version"]) == ("key:*", 7, 2)
        assert (await limits.get(one)).json() == answer.json()
        event = (await events())[-1]
        assert (event.type, event.subject, event.sequence) == ("limit_override.updated", override["id"], 2)
        changes = {"pattern": {"before": "key:0198*", "after": "key:*"}, "quota": {"before": 6000, "after": 7}}
        assert event.data["changes"] == changes
        bodies: list[dict[str, Any]] = [{}, {"quota": 7}, {"force": True}]
        for body in bodies:
            assert (await limits.patch(one, json=body)).json() == answer.json()
        assert len(await events()) == 3

    @pytest.mark.parametrize(
        ("wrong", "status", "code"),
        [
            ({"pattern": "user:*"}, 422, "validation_failed"),
            ({"pattern": "key:taken"}, 409, "pattern_taken"),
            ({"expires_at": "2020-01-01T00:00:00Z"}, 422, "validation_failed"),
            ({"quota": None}, 422, "validation_failed"),
        ],
        ids=str,
    )
    async def test_refuses_a_bad_change(
        self, limits: httpx.AsyncClient, wrong: dict[str, Any], status: int, code: str
    ) -> None:
        path = await path_of(limits)
        await made(limits, path, pattern="key:taken", quota=1)
        override = await made(limits, path, **OVERRIDE)
        one = f"{path}/{override['id']}"
        problem(await limits.patch(one, json={"note": "x", **wrong}), status, code)
        assert (await limits.get(one)).json() == override

    async def test_honours_if_match(self, limits: httpx.AsyncClient) -> None:
        path = await path_of(limits)
        one = f"{path}/{(await made(limits, path, **OVERRIDE))['id']}"
        problem(await limits.patch(one, json={"quota": 1}, headers={"if-match": '"2"'}), 412, "precondition_failed")
        problem(await limits.delete(one, headers={"if-match": '"2"'}), 412, "precondition_failed")

    async def test_is_deleted(self, limits: httpx.AsyncClient, events: Events) -> None:
        path = await path_of(limits)
        override = await made(limits, path, **OVERRIDE)
        assert (await limits.delete(f"{path}/{override['id']}")).status_code == 204
        problem(await limits.get(f"{path}/{override['id']}"), 404, "not_found")
        event = (await events())[-1]
        assert (event.type, event.subject, event.sequence) == ("limit_override.deleted", override["id"], 2)
        assert event.data["pattern"] == OVERRIDE["pattern"]


async def test_one_that_has_expired_counts_no_more(
    limits: httpx.AsyncClient, postgres: str, organization_id: UUID
) -> None:
    path = await path_of(limits, per=["organization"])
    override = await made(limits, path, pattern="organization", quota=7, expires_at=soon(hours=1))
    asked = {"policy_id": override["policy_id"]}
    (row,) = (await limits.get("/v1/limits", params=asked)).json()["data"]
    assert row["quota"] == 7
    await rows_of(
        postgres,
        "UPDATE ratelimit.overrides SET expires_at = clock_timestamp() WHERE organization_id = $1",
        organization_id,
    )
    (row,) = (await limits.get("/v1/limits", params=asked)).json()["data"]
    assert row["quota"] == BODY["quota"]
    assert len((await limits.get(path)).json()["data"]) == 1


@pytest.mark.parametrize(
    ("one", "other", "can"),
    [
        ("organization", "organization", True),
        ("organization", "key:*", False),
        ("*", "key:*|route:*", True),
        ("key:1", "key:*", True),
        ("key:*", "key:*|route:*", True),
        ("*GET*", "key:*|route:*", True),
        ("key:1|route:GET *", "key:*|route:*", True),
        ("route:*", "key:*|route:*", False),
        ("k*x|", "key:*", True),
        ("", "key:*", False),
        ("*", "", True),
        ("a*b", "a*c", False),
        ("a*b", "*b", True),
        ("a*bc*", "*cb", True),
    ],
)
def test_whether_two_patterns_can_fit_the_same(one: str, other: str, can: bool) -> None:
    assert domain.can_both_fit(one, other) is domain.can_both_fit(other, one) is can
