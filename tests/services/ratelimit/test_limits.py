"""``/v1/limits`` and ``/v1/plans``."""

from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from services.ratelimit import jobs
from services.ratelimit.policies import repository
from shared.db.versions import owner_dsn
from shared.ids import new_id
from shared.settings import Settings
from shared.testing.plugin import DatabaseFactory
from tests.services.ratelimit.support import BODY, NOWHERE, POLICIES, count, made, problem, rows_of

LIMITS = "/v1/limits"


async def set_plan(settings: Settings, organization_id: UUID, plan: str) -> None:
    owner = await asyncpg.connect(owner_dsn(settings))
    try:
        await owner.execute("SELECT ratelimit.set_plan($1, $2)", organization_id, plan)
    finally:
        await owner.close()


async def listed(client: httpx.AsyncClient, **params: str) -> list[dict[str, Any]]:
    answer = await client.get(LIMITS, params=params)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


class TestLimits:
    async def test_of_who_has_done_nothing_are_those_of_the_plan(self, limits: httpx.AsyncClient) -> None:
        burst, minute = await listed(limits)
        assert [(each["plan"], each["policy"]) for each in (burst, minute)] == [
            ("enterprise", "burst"),
            ("enterprise", "minute"),
        ]
        assert {name: minute[name] for name in minute if name not in {"policy_id", "window_start", "resets_at"}} == {
            "policy": "minute", "plan": "enterprise", "unit": "requests", "window": "minute", "mode": "exact",
            "shadow": False, "subject": "organization", "quota": 200_000, "used": 0, "admitted": 0,
            "remaining": 200_000, "utilisation": 0.0,
        }  # fmt: skip
        assert minute["window_start"] < minute["resets_at"]

    async def test_show_what_each_subject_has_used(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        policy = await made(limits, **{**BODY, "window": "month"})
        await made(limits, f"{POLICIES}/{policy['id']}/overrides", pattern="key:b*", quota=10)
        await made(limits, f"{POLICIES}/{policy['id']}/overrides", pattern="key:c", quota=0)
        await count(postgres, organization_id, policy, "key:a", 150, admitted=120)
        await count(postgres, organization_id, policy, "key:b", 11, admitted=11)
        await count(postgres, organization_id, policy, "key:c", 0)
        await count(postgres, organization_id, policy, "key:long-ago", 5, moment="'2020-01-01'::timestamptz")
        await count(postgres, organization_id, policy, "key:before", 5, epoch=0)
        await count(postgres, new_id(), policy, "key:others", 5)
        rows = await listed(limits, policy_id=policy["id"])
        assert [(each["subject"], each["quota"], each["used"], each["admitted"]) for each in rows] == [
            ("key:a", 600, 150, 120),
            ("key:b", 10, 11, 11),
            ("key:c", 0, 0, 0),
        ]
        assert [(each["remaining"], each["utilisation"]) for each in rows] == [(450, 0.25), (0, 1.1), (0, 1.0)]

    async def test_of_calls_at_the_same_time_show_the_places_that_are_held(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        policy = await made(limits, name="slots", quota=5, unit="concurrent-requests", per=["key"])
        statement = "INSERT INTO ratelimit.concurrency_slots VALUES ($1, $2, 1, $3, $4, $5, clock_timestamp() + $6::interval, 1)"
        connection = await asyncpg.connect(postgres)
        for subject, slots, ends in (("key:a", 2, "1 hour"), ("key:a", 1, "1 hour"), ("key:b", 3, "-1 second")):
            await connection.execute(
                statement.replace("$6", f"'{ends}'"), organization_id, UUID(policy["id"]), subject, new_id(), slots
            )
        await connection.close()
        (row,) = await listed(limits, policy_id=policy["id"])
        assert {name: row[name] for name in ("subject", "used", "admitted", "remaining", "utilisation")} == {
            "subject": "key:a", "used": 3, "admitted": None, "remaining": 2, "utilisation": 0.6,
        }  # fmt: skip
        assert (row["window"], row["window_start"], row["resets_at"]) == (None, None, None)

    async def test_leave_out_what_is_not_enabled(self, limits: httpx.AsyncClient) -> None:
        policy = await made(limits, **BODY)
        assert [each["subject"] for each in await listed(limits, policy_id=policy["id"])] == [None]
        await limits.patch(f"{POLICIES}/{policy['id']}", json={"enabled": False})
        assert await listed(limits, policy_id=policy["id"]) == []

    async def test_can_be_asked_for_by_subject(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        policy = await made(limits, **BODY)
        await made(limits, **{**BODY, "name": "quiet", "quota": 7})
        await made(limits, **{**BODY, "name": "others", "per": ["user"]})
        for subject in ("key:a", "key:b"):
            await count(postgres, organization_id, policy, subject, 5)
        rows = await listed(limits, subject="key:b")
        assert [(each["policy"], each["subject"], each["used"], each["remaining"]) for each in rows] == [
            ("imports", "key:b", 5, 595),
            ("quiet", "key:b", 0, 7),
        ]
        assert [each["policy"] for each in await listed(limits, subject="organization")] == ["burst", "minute"]
        assert await listed(limits, subject="planet:x") == []

    @pytest.mark.parametrize("size", [1, 2, 3])
    async def test_come_in_pages(
        self, limits: httpx.AsyncClient, postgres: str, organization_id: UUID, size: int
    ) -> None:
        for name in ("z", "imports"):
            policy = await made(limits, **{**BODY, "name": name, "window": "month"})
            for subject in ("key:b", "key:a", "key:Z"):
                await count(postgres, organization_id, policy, subject, 5)
        await made(limits, **{**BODY, "name": "quiet"})
        found: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = (await limits.get(LIMITS, params={"limit": str(size), **cursor})).json()
            assert len(page["data"]) <= size
            found += [(each["policy"], each["subject"]) for each in page["data"]]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert found == [
            ("burst", "organization"), ("minute", "organization"), ("imports", "key:Z"), ("imports", "key:a"),
            ("imports", "key:b"), ("quiet", None), ("z", "key:Z"), ("z", "key:a"), ("z", "key:b"),
        ]  # fmt: skip

    async def test_refuse_a_bad_parameter(self, limits: httpx.AsyncClient) -> None:
        problem(await limits.get(LIMITS, params={"limit": "0"}), 422, "validation_failed", "limit")
        problem(await limits.get(LIMITS, params={"policy_id": "x"}), 422, "validation_failed", "policy_id")
        problem(await limits.get(LIMITS, params={"cursor": "x"}), 400, "invalid_cursor", "cursor")
        assert await listed(limits, policy_id=NOWHERE) == []

    async def test_of_others_are_not_shown(
        self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient, postgres: str, organization_id: UUID
    ) -> None:
        policy = await made(limits, **BODY)
        await count(postgres, organization_id, policy, "key:a", 5)
        assert {each["plan"] for each in await listed(stranger)} == {"enterprise"}
        assert await listed(stranger, policy_id=policy["id"]) == []

    async def test_need_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(LIMITS), 403, "missing_scope")


class TestPlans:
    async def test_are_listed_with_their_policies(self, limits: httpx.AsyncClient) -> None:
        plans = (await limits.get("/v1/plans")).json()["data"]
        assert [(each["name"], each["current"]) for each in plans] == [
            ("free", False),
            ("pro", False),
            ("enterprise", True),
        ]
        assert [(each["name"], each["quota"]) for each in plans[0]["policies"]] == [
            ("burst", 20), ("concurrent", 10), ("minute", 300), ("month", 100_000),
        ]  # fmt: skip
        own = (await limits.get(POLICIES)).json()["data"]
        assert plans[2]["policies"] == own

    async def test_refuse_no_call_for_good_because_it_is_large(self, limits: httpx.AsyncClient) -> None:
        """A bulk of 200 records costs 200: what is weighted has to have room for that."""
        plans = (await limits.get("/v1/plans")).json()["data"]
        requests = [each for plan in plans for each in plan["policies"] if each["unit"] == "requests"]
        assert len(requests) == 8
        assert [each for each in requests if each["weighted"] and each["quota"] < 200] == []
        assert [each["weighted"] for each in requests if each["name"] == "burst"] == [False] * 3

    async def test_are_given_by_whoever_runs_the_platform(
        self, limits: httpx.AsyncClient, stranger: httpx.AsyncClient, settings: Settings, organization_id: UUID
    ) -> None:
        await set_plan(settings, organization_id, "pro")
        await set_plan(settings, organization_id, "free")
        plans = (await limits.get("/v1/plans")).json()["data"]
        assert [each["name"] for each in plans if each["current"]] == ["free"]
        assert (await limits.get(POLICIES)).json()["data"] == plans[0]["policies"]
        assert [each["policy"] for each in await listed(limits)] == ["burst", "concurrent", "minute", "month"]
        assert len((await stranger.get(POLICIES)).json()["data"]) == 2

    async def test_must_exist(self, settings: Settings, organization_id: UUID, postgres: str) -> None:
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="there is no plan 'gold'"):
            await set_plan(settings, organization_id, "gold")
        statement = "SELECT FROM ratelimit.organization_plans WHERE organization_id = $1"
        assert await rows_of(postgres, statement, organization_id) == []

    async def test_are_not_changed_by_the_service(self, database: DatabaseFactory, organization_id: UUID) -> None:
        service = await database("ratelimit")
        for statement in (
            "INSERT INTO ratelimit.organization_plans (organization_id, plan) VALUES ($1, 'pro')",
            "SELECT ratelimit.set_plan($1, 'pro')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.pool.execute(statement, organization_id)

    async def test_need_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get("/v1/plans"), 403, "missing_scope")


async def test_what_is_enforced_is_what_is_shown(
    limits: httpx.AsyncClient, settings: Settings, organization_id: UUID, postgres: str
) -> None:
    await set_plan(settings, organization_id, "pro")
    own = await made(limits, **BODY)
    await made(limits, **{**BODY, "name": "off", "enabled": False})
    override = await made(limits, f"{POLICIES}/{own['id']}/overrides", pattern="key:a*", quota=5)
    shown = [each for each in (await limits.get(POLICIES)).json()["data"] if each["enabled"]]
    rows = await rows_of(postgres, "SELECT * FROM ratelimit.resolve_limits($1, 'free')", organization_id)
    found = {str(row["id"]): row for row in rows}
    assert set(found) == {each["id"] for each in shown}
    for each in shown:
        row, flat = found[each["id"]], {**each, **each["match"]}
        for name in set(row) - {"id", "keys", "users", "overrides"}:
            assert row[name] == flat[name], name
    assert f'"quota": {override["quota"]}' in found[own["id"]]["overrides"]


async def test_old_counters_go_and_present_ones_stay(
    limits: httpx.AsyncClient,
    database: DatabaseFactory,
    postgres: str,
    organization_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = await made(limits, **BODY)
    await count(postgres, organization_id, policy, "key:now", 1)
    for subject in ("key:a", "key:b", "key:c"):
        await count(postgres, organization_id, policy, subject, 1, moment="clock_timestamp() - interval '2 days'")
    await count(postgres, organization_id, policy, "key:hours", 1, moment="clock_timestamp() - interval '23 hours'")
    monkeypatch.setattr(repository, "PURGED_AT_ONCE", 3)
    await jobs.purge_counters(await database("ratelimit")).run()
    statement = "SELECT subject FROM ratelimit.api_rate_limits WHERE organization_id = $1 ORDER BY subject"
    assert [row["subject"] for row in await rows_of(postgres, statement, organization_id)] == ["key:hours", "key:now"]
