"""``/v1/limits/policies/{policy_id}/history``."""

from uuid import UUID

import httpx

from shared.auth import Principal
from tests.services.ratelimit.support import BODY, NOWHERE, POLICIES, made, problem, rows_of


async def test_says_who_changed_what_and_outlives_the_policy(
    limits: httpx.AsyncClient, caller: Principal, stranger: httpx.AsyncClient
) -> None:
    policy = await made(limits, **BODY)
    path = f"{POLICIES}/{policy['id']}"
    await limits.patch(path, json={"quota": 5, "match": {"classes": ["bulk"]}, "name": "loads"})
    override = await made(limits, f"{path}/overrides", pattern="key:*", quota=7)
    await limits.patch(f"{path}/overrides/{override['id']}", json={"quota": 8})
    await limits.delete(f"{path}/overrides/{override['id']}")
    await limits.post(f"{path}/reset")
    await limits.delete(path)
    page = (await limits.get(f"{path}/history")).json()
    entries = page["data"][::-1]
    assert [each["action"] for each in entries] == [
        "created", "updated", "override_created", "override_updated", "override_deleted", "reset", "deleted",
    ]  # fmt: skip
    assert [each["policy_name"] for each in entries] == ["imports", *["loads"] * 6]
    for each in entries:
        assert each["actor"] == {"type": "user", "id": caller.actor_id}
        assert each["request_id"] == caller.request_id
        about = each["action"].startswith("override_")
        assert each["override"] == ({"id": override["id"], "pattern": "key:*"} if about else None)
    created, updated, _, quota, gone, reset, deleted = [each["changes"] for each in entries]
    assert created["quota"] == {"before": None, "after": 600}
    assert "match.routes" in created
    assert updated == {
        "quota": {"before": 600, "after": 5},
        "match.classes": {"before": [], "after": ["bulk"]},
        "name": {"before": "imports", "after": "loads"},
    }
    assert quota == {"quota": {"before": 7, "after": 8}}
    assert gone["pattern"] == {"before": "key:*", "after": None}
    assert reset == {"epoch": {"before": 1, "after": 2}}
    assert deleted["quota"] == {"before": 5, "after": None}
    problem(await stranger.get(f"{path}/history"), 404, "not_found")


async def test_comes_in_pages_newest_first(limits: httpx.AsyncClient) -> None:
    path = f"{POLICIES}/{(await made(limits, **BODY))['id']}"
    for quota in (1, 2, 3):
        await limits.patch(path, json={"quota": quota})
    first = (await limits.get(f"{path}/history", params={"limit": "3"})).json()
    assert [each["changes"]["quota"]["after"] for each in first["data"]] == [3, 2, 1]
    rest = (await limits.get(f"{path}/history", params={"limit": "3", "cursor": first["next_cursor"]})).json()
    assert [each["action"] for each in rest["data"]] == ["created"]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    problem(await limits.get(f"{path}/history", params={"cursor": "x"}), 400, "invalid_cursor", "cursor")


async def test_of_a_plans_policy_is_of_its_overrides(limits: httpx.AsyncClient) -> None:
    (burst, *_) = (await limits.get(POLICIES)).json()["data"]
    path = f"{POLICIES}/{burst['id']}"
    assert (await limits.get(f"{path}/history")).json()["data"] == []
    await made(limits, f"{path}/overrides", pattern="organization", quota=7)
    (entry,) = (await limits.get(f"{path}/history")).json()["data"]
    assert (entry["action"], entry["policy_name"]) == ("override_created", "burst")


async def test_of_what_never_was_is_not_found(limits: httpx.AsyncClient, powerless: httpx.AsyncClient) -> None:
    problem(await limits.get(f"{POLICIES}/{NOWHERE}/history"), 404, "not_found")
    problem(await powerless.get(f"{POLICIES}/{NOWHERE}/history"), 403, "missing_scope")


async def test_nobody_rewrites_it(limits: httpx.AsyncClient, postgres: str, organization_id: UUID) -> None:
    await made(limits, **BODY)
    grants = await rows_of(
        postgres,
        "SELECT privilege_type FROM information_schema.role_table_grants WHERE table_schema = 'ratelimit'"
        " AND table_name = 'policy_changes' AND grantee = 'svc_ratelimit' ORDER BY 1",
    )
    assert [each["privilege_type"] for each in grants] == ["INSERT", "SELECT"]
    (row,) = await rows_of(
        postgres, "SELECT * FROM ratelimit.policy_changes WHERE organization_id = $1", organization_id
    )
    assert row["action"] == "created"
