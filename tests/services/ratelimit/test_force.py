"""Whoever changes limits does not shut themselves out, unless they say so."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from services.ratelimit.policies.domain import Exemption, quotas
from shared.auth import Principal
from shared.ids import NIL, new_id
from shared.limits.policies import Policy
from shared.testing.client import ClientFactory
from shared.testing.plugin import PrincipalFactory
from tests.services.ratelimit.conftest import Events
from tests.services.ratelimit.support import BODY, POLICIES, SCOPES, count, made, problem

TIGHT: dict[str, Any] = {"name": "tight", "quota": 0, "window": "hour"}
KEY, MAKER, SOMEBODY = (f"0198c5a0-0000-7000-8000-00000000000{n}" for n in range(1, 4))


@pytest_asyncio.fixture
async def keyed(client: ClientFactory, principal: PrincipalFactory) -> httpx.AsyncClient:
    """The service as an API key sees it."""
    return await client(
        "ratelimit", principal(*SCOPES, actor_type="api_key", actor_id=KEY, on_behalf_of=MAKER, auth_method="api_key")
    )


async def saved_with_force_only(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any]) -> str:
    """Assert it; what the refusal says."""
    detail: str = problem(await client.request(method, path, json=body), 409, "would_refuse_you")["detail"]
    assert '"force": true' in detail
    answer = await client.request(method, path, json={**body, "force": True})
    assert answer.status_code in {200, 201}, answer.text
    assert "force" not in answer.json()
    return detail


async def test_a_policy_without_a_unit_for_the_editor(limits: httpx.AsyncClient, events: Events) -> None:
    detail = await saved_with_force_only(limits, "POST", POLICIES, TIGHT)
    assert "'tight' would soon refuse your own call" in detail
    assert "0 requests an hour for 'organization'" in detail
    assert "one call takes 1, and there must be room for 5" in detail
    assert '"shadow": true' in detail
    assert "guardian limits delete" in detail
    assert len(await events()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"per": ["key"]},
        {"per": ["user"]},
        {"per": ["key", "route", "class"]},
        {"match": {"keys": [KEY]}},
        {"match": {"users": [MAKER]}},
        {"match": {"classes": ["admin"]}},
        {"match": {"routes": ["DELETE /v1/limits/policies/{policy_id}"]}},
        {"match": {"routes": ["* /v1/*"]}},
        {"quota": 1, "window": "month"},
        {"quota": 4},
        {"unit": "concurrent-requests", "window": None},
    ],
    ids=str,
)
async def test_whatever_way_it_meets_the_editor(keyed: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    await saved_with_force_only(keyed, "POST", POLICIES, {**TIGHT, **wrong})


@pytest.mark.parametrize(
    "fine",
    [
        {"quota": 5},
        {"quota": 1, "unit": "concurrent-requests", "window": None},
        {"quota": 1, "match": {"routes": ["GET /v1/contacts"]}},
        {"shadow": True},
        {"enabled": False},
        {"match": {"keys": [SOMEBODY]}},
        {"match": {"users": [SOMEBODY]}},
        {"match": {"classes": ["read", "write", "search", "bulk"]}},
        {"match": {"routes": ["GET /v1/limits/policies*", "* /v1/contacts*"]}},
    ],
    ids=str,
)
async def test_one_that_leaves_the_editor_alone_is_saved(keyed: httpx.AsyncClient, fine: dict[str, Any]) -> None:
    await made(keyed, **{**TIGHT, **fine})


async def test_a_person_is_met_by_none_that_is_for_keys(limits: httpx.AsyncClient) -> None:
    await made(limits, **TIGHT, per=["key"])
    await made(limits, **{**TIGHT, "name": "other"}, match={"keys": [KEY]})


@pytest.mark.parametrize(
    "change", [{"quota": 0}, {"shadow": False}, {"enabled": True}, {"match": {"users": []}}], ids=str
)
async def test_a_change_is_judged_as_a_whole(limits: httpx.AsyncClient, change: dict[str, Any]) -> None:
    harmless: dict[str, dict[str, Any]] = {
        "quota": {"quota": 5},
        "shadow": {"shadow": True},
        "enabled": {"enabled": False},
        "match": {"match": {"users": [SOMEBODY]}},
    }
    policy = await made(limits, **{**TIGHT, **harmless[next(iter(change))]})
    path = f"{POLICIES}/{policy['id']}"
    problem(await limits.patch(path, json=change), 409, "would_refuse_you")
    assert (await limits.get(path)).json() == policy
    await saved_with_force_only(limits, "PATCH", path, change)


async def test_words_are_changed_without_being_judged(limits: httpx.AsyncClient) -> None:
    policy = await made(limits, **TIGHT, force=True)
    answer = await limits.patch(f"{POLICIES}/{policy['id']}", json={"name": "still-tight", "description": "x"})
    assert answer.status_code == 200


async def test_what_the_window_has_used_counts(
    limits: httpx.AsyncClient, postgres: str, organization_id: UUID, caller: Principal
) -> None:
    policy = await made(limits, **{**TIGHT, "quota": 50, "window": "month", "per": ["user"]})
    await count(postgres, organization_id, policy, f"user:{caller.actor_id}", 20)
    await count(postgres, organization_id, policy, f"user:{new_id()}", 45)
    path = f"{POLICIES}/{policy['id']}"
    assert (await limits.patch(path, json={"quota": 25})).status_code == 200
    detail = await saved_with_force_only(limits, "PATCH", path, {"quota": 24})
    assert "20 were used in this month already" in detail


async def test_one_that_counts_anew_has_used_nothing(
    limits: httpx.AsyncClient, postgres: str, organization_id: UUID, caller: Principal
) -> None:
    """What was called before it was there is not in its counter."""
    await record(postgres, organization_id, caller.actor_id, 30)
    for name, per in (("a", ["organization"]), ("b", ["user"])):
        await made(limits, **{**TIGHT, "name": name, "quota": 5, "window": "month", "per": per})
    policy = await made(limits, **{**TIGHT, "quota": 35})
    await count(postgres, organization_id, policy, "organization", 30)
    path = f"{POLICIES}/{policy['id']}"
    problem(await limits.patch(path, json={"quota": 34}), 409, "would_refuse_you")
    assert (await limits.patch(path, json={"quota": 34, "window": "day"})).status_code == 200


async def record(dsn: str, organization_id: UUID, user_id: str, calls: int) -> None:
    """Tell the usage of somebody in this minute, as a process would."""
    connection = await asyncpg.connect(dsn)
    try:
        now = await connection.fetchval("SELECT clock_timestamp()")
        await connection.execute(
            "SELECT ratelimit.record_usage($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            new_id(), [organization_id], [now], ["user"], [user_id], [user_id], ["GET /v1/contacts"], ["read"],
            [calls], [0], [calls], [0], [0],
        )  # fmt: skip
    finally:
        await connection.close()


class TestOverrides:
    async def test_of_the_editors_own_subject(self, keyed: httpx.AsyncClient) -> None:
        path = f"{POLICIES}/{(await made(keyed, **BODY))['id']}/overrides"
        await made(keyed, path, pattern="key:other", quota=0)
        detail = await saved_with_force_only(keyed, "POST", path, {"pattern": f"key:{KEY}", "quota": 0})
        assert f"'key:{KEY}'" in detail
        assert "shadow" not in detail

    async def test_that_the_editor_needs_are_kept(self, keyed: httpx.AsyncClient) -> None:
        policy = await made(keyed, **{**BODY, "shadow": True})
        path = f"{POLICIES}/{policy['id']}/overrides"
        override = await made(keyed, path, pattern=f"key:{KEY}", quota=50)
        one = f"{path}/{override['id']}"
        change = {"quota": 0, "shadow": False}
        assert (await keyed.patch(f"{POLICIES}/{policy['id']}", json=change)).status_code == 200
        for body in ({"quota": 0}, {"pattern": "key:other"}):
            problem(await keyed.patch(one, json=body), 409, "would_refuse_you")
        assert (await keyed.patch(one, json={"note": "mine"})).status_code == 200
        detail = problem(await keyed.delete(one), 409, "would_refuse_you")["detail"]
        assert "?force=true" in detail
        assert (await keyed.get(one)).json()["quota"] == 50
        assert (await keyed.delete(one, params={"force": "true"})).status_code == 204

    async def test_that_expire_help_only_until_then(self, keyed: httpx.AsyncClient) -> None:
        policy = await made(keyed, **{**TIGHT, "per": ["key"], "shadow": True})
        one, path = f"{POLICIES}/{policy['id']}", f"{POLICIES}/{policy['id']}/overrides"
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        override = await made(keyed, path, pattern=f"key:{KEY}", quota=500, expires_at=soon)
        detail = problem(await keyed.patch(one, json={"shadow": False}), 409, "would_refuse_you")["detail"]
        assert f"0 requests an hour for 'key:{KEY}' once an override expires;" in detail
        lasting = await keyed.patch(f"{path}/{override['id']}", json={"expires_at": None})
        assert lasting.status_code == 200
        assert (await keyed.patch(one, json={"shadow": False})).status_code == 200
        await saved_with_force_only(keyed, "PATCH", f"{path}/{override['id']}", {"expires_at": soon})

    async def test_of_a_plan_are_judged_as_well(self, limits: httpx.AsyncClient) -> None:
        (burst, *_) = (await limits.get(POLICIES)).json()["data"]
        path = f"{POLICIES}/{burst['id']}/overrides"
        await saved_with_force_only(limits, "POST", path, {"pattern": "organization", "quota": 0})

    @pytest.mark.parametrize(
        "ends, expected",
        [
            ((None, None, None), [1]),
            ((1, None, None), [1, 2]),
            ((1, 2, None), [1, 2, 3]),
            ((2, 1, None), [1, 3]),
            ((1, 3, 2), [1, 2, 9]),
            ((1, 2, 3), [1, 2, 3, 9]),
        ],
    )
    def test_leave_these_quotas_while_they_expire(self, ends: tuple[int | None, ...], expected: list[int]) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        patterns = (f"key:{KEY}", "key:0198*", "key:*")
        found = [
            Exemption(pattern, number, None if end is None else start + timedelta(days=end))
            for number, (pattern, end) in enumerate(zip(patterns, ends, strict=True), 1)
        ]
        policy = Policy(NIL, NIL, "p", 9)
        assert quotas(policy, [Exemption("user:*", 0), *reversed(found)], f"key:{KEY}") == expected
