"""The audit of limits: what was admitted in windows that ended, beside what they allowed."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.ratelimit.selfaudit import jobs
from shared.db import Database
from shared.ids import new_id
from shared.settings import Settings
from tests.services.ratelimit.recording import minutes_ago
from tests.services.ratelimit.support import made, problem

PATH = "/v1/limits/audit"
BURST = "SELECT id FROM ratelimit.plan_policies WHERE plan = 'pro' AND name = 'burst'"


@pytest_asyncio.fixture
async def admin(postgres: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres)
    yield connection
    await connection.close()


async def counted(admin: Any, organization_id: UUID, policy_id: UUID, end: datetime, **columns: Any) -> None:
    values = {
        "epoch": 1,
        "subject": "organization",
        "used": 10,
        "admitted": 10,
        "quota": 10,
        "highest_quota": 10,
    } | columns
    names = ", ".join(values)
    places = ", ".join(f"${number}" for number in range(5, 5 + len(values)))
    await admin.execute(
        f"INSERT INTO ratelimit.api_rate_limits (organization_id, policy_id, window_start, window_end, {names})"
        f" VALUES ($1, $2, $3, $4, {places})",
        organization_id, policy_id, end - timedelta(minutes=1), end, *values.values(),
    )  # fmt: skip


class TestList:
    async def test_shows_windows_that_ended_the_latest_first(
        self, limits: httpx.AsyncClient, admin: Any, organization_id: UUID
    ) -> None:
        policy = await made(limits, name="imports", quota=100, window="minute")
        own, burst, gone = UUID(policy["id"]), await admin.fetchval(BURST), new_id()
        end = minutes_ago(5)
        await counted(admin, organization_id, own, end, used=90, admitted=70, quota=80, highest_quota=100)
        await counted(admin, organization_id, burst, end - timedelta(minutes=1), admitted=11)
        await counted(admin, organization_id, gone, end - timedelta(minutes=2))
        await counted(admin, organization_id, own, minutes_ago(-5))
        rows = (await limits.get(PATH)).json()["data"]
        shown = [
            (
                row["policy"],
                row["mode"],
                row["admitted"],
                row["used"],
                row["highest_quota"],
                row["stranded"],
                row["overshoot"],
            )
            for row in rows
        ]
        assert shown == [
            ("imports", "exact", 70, 90, 100, 20, 0),
            ("burst", "fast", 11, 10, 10, 0, 1),
            (None, None, 10, 10, 10, 0, 0),
        ]
        assert rows[0]["window_end"] == end.isoformat().replace("+00:00", "Z")
        only = (await limits.get(PATH, params={"policy_id": str(own)})).json()["data"]
        assert only == rows[:1]

    @pytest.mark.parametrize(
        "was, then, shown",
        [
            ({"shadow": True}, None, ("exact", True, 0)),
            ({"mode": "fast"}, None, ("fast", False, 3)),
            ({"mode": "strict"}, None, ("strict", False, 3)),
            ({"shadow": True}, {"shadow": False, "mode": "strict"}, ("exact", True, 0)),
            ({"mode": "fast"}, {"mode": "exact", "shadow": True}, ("fast", False, 3)),
        ],
    )
    async def test_tells_what_a_policy_was_then(
        self, limits: httpx.AsyncClient, admin: Any, organization_id: UUID, was: Any, then: Any, shown: Any
    ) -> None:
        policy = await made(limits, **{"name": "imports", "quota": 100, "window": "minute", **was})
        path = f"/v1/limits/policies/{policy['id']}"
        await counted(admin, organization_id, UUID(policy["id"]), minutes_ago(1), admitted=13)
        answer = await (limits.delete(path) if then is None else limits.patch(path, json=then))
        assert answer.status_code in {200, 204}, answer.text
        (row,) = (await limits.get(PATH)).json()["data"]
        assert (row["policy"], row["mode"], row["shadow"], row["overshoot"]) == ("imports", *shown)

    async def test_a_window_that_was_in_shadow_for_a_while_is_taken_for_one(
        self, limits: httpx.AsyncClient, admin: Any, organization_id: UUID
    ) -> None:
        """The others, before and after, are not."""
        policy = await made(limits, name="imports", quota=100, window="minute")
        path = f"/v1/limits/policies/{policy['id']}"
        for shadow in (True, False):
            await limits.patch(path, json={"shadow": shadow})
        changed = "UPDATE ratelimit.policy_changes SET occurred_at = $2 WHERE policy_id = $1 AND changes ? 'shadow'"
        own, end = UUID(policy["id"]), minutes_ago(5)
        await admin.execute(changed, own, end - timedelta(seconds=30))
        for minutes in (-1, 0, 1):
            await counted(admin, organization_id, own, end + timedelta(minutes=minutes), admitted=13)
        rows = (await limits.get(PATH)).json()["data"]
        assert [(row["shadow"], row["overshoot"]) for row in rows] == [(False, 3), (True, 0), (False, 3)]

    async def test_answers_pages(self, limits: httpx.AsyncClient, admin: Any, organization_id: UUID) -> None:
        policy = new_id()
        for number in range(7):
            subject, end = f"key:{number % 3}", minutes_ago(10 + number // 3)
            await counted(admin, organization_id, policy, end, subject=subject)
        whole = (await limits.get(PATH)).json()["data"]
        rows: list[Any] = []
        cursor = None
        while cursor is not None or not rows:
            params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            page = (await limits.get(PATH, params=params)).json()
            rows, cursor = rows + page["data"], page["next_cursor"]
        assert len(rows) == 7
        assert rows == whole

    async def test_shows_a_stranger_nothing(
        self, stranger: httpx.AsyncClient, admin: Any, organization_id: UUID
    ) -> None:
        await counted(admin, organization_id, new_id(), minutes_ago(5))
        assert (await stranger.get(PATH)).json()["data"] == []

    async def test_needs_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.get(PATH), 403, "missing_scope")

    async def test_refuses_a_bad_parameter(self, limits: httpx.AsyncClient) -> None:
        problem(await limits.get(PATH, params={"policy_id": "x"}), 422, "validation_failed", "policy_id")
        problem(await limits.get(PATH, params={"cursor": "x"}), 400, "invalid_cursor")


class TestJob:
    """On a database of its own: it adds up what all organisations did."""

    @pytest_asyncio.fixture
    async def alone(self, settings: Settings, fresh_database: str) -> AsyncIterator[Database]:
        own = settings.model_copy(update={"database_url": SecretStr(fresh_database)})
        database = Database.for_service(own, "ratelimit")
        await database.open()
        yield database
        await database.close()

    @pytest_asyncio.fixture
    async def owner(self, fresh_database: str) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(fresh_database)
        yield connection
        await connection.close()

    async def audited(self, database: Database) -> dict[str, tuple[float, float, float]]:
        """What a run added to the windows, the overshoot and the stranded units of each mode."""
        modes = ("exact", "fast", "strict", "other")
        counters = (jobs.WINDOWS, jobs.OVERSHOOT, jobs.STRANDED)
        before = {mode: [each.labels(mode)._value.get() for each in counters] for mode in modes}
        await jobs.audit(database).run()
        after = {mode: [each.labels(mode)._value.get() for each in counters] for mode in modes}
        found = {mode: tuple(new - old for new, old in zip(after[mode], before[mode], strict=True)) for mode in modes}
        return {mode: (each[0], each[1], each[2]) for mode, each in found.items() if any(each)}

    async def test_adds_each_window_up_once(self, alone: Database, owner: Any) -> None:
        now = datetime.now(UTC)
        await owner.execute("UPDATE ratelimit.audit_watermark SET audited_until = $1", now - timedelta(minutes=30))
        burst, policy = await owner.fetchval(BURST), new_id()
        await owner.execute(
            'INSERT INTO ratelimit.policies (organization_id, id, name, quota, "window", version, created_at, updated_at)'
            " VALUES ($1, $2, 'p', 10, 'minute', 1, now(), now())",
            new_id(), policy,
        )  # fmt: skip
        organization = await owner.fetchval("SELECT organization_id FROM ratelimit.policies")
        await counted(owner, organization, policy, now - timedelta(minutes=20), used=10, admitted=7)
        await counted(owner, organization, burst, now - timedelta(minutes=10), admitted=11)
        await counted(owner, new_id(), new_id(), now - timedelta(minutes=5), admitted=9)
        await counted(owner, new_id(), new_id(), now - timedelta(minutes=40), admitted=0)
        await counted(owner, organization, policy, now - timedelta(seconds=20), admitted=0)
        with capture_logs() as logs:
            assert await self.audited(alone) == {"exact": (1, 0, 3), "fast": (1, 1, 0), "other": (1, 0, 1)}
        assert logs == []
        assert await self.audited(alone) == {}

    async def test_says_an_overshoot_aloud(self, alone: Database, owner: Any) -> None:
        now = datetime.now(UTC)
        await owner.execute("UPDATE ratelimit.audit_watermark SET audited_until = $1", now - timedelta(minutes=30))
        await counted(owner, new_id(), new_id(), now - timedelta(minutes=5), admitted=13)
        with capture_logs() as logs:
            assert await self.audited(alone) == {"other": (1, 3, 0)}
        assert [(each["event"], each["units"]) for each in logs] == [("limits_overshoot", 3)]

    async def test_is_silent_about_shadow_and_fast_that_were_deleted(self, alone: Database, owner: Any) -> None:
        now, organization = datetime.now(UTC), new_id()
        await owner.execute("UPDATE ratelimit.audit_watermark SET audited_until = $1", now - timedelta(minutes=30))
        for mode, shadow in (("exact", True), ("fast", False)):
            policy = new_id()
            await owner.execute(
                "INSERT INTO ratelimit.policy_changes (organization_id, id, policy_id, policy_name, action, actor_type,"
                " actor_id, changes, occurred_at) VALUES ($1, $2, $3, 'p', 'deleted', 'user', 'x', jsonb_build_object("
                "'mode', jsonb_build_object('before', $4::text, 'after', NULL),"
                " 'shadow', jsonb_build_object('before', $5::boolean, 'after', NULL)), $6)",
                organization, new_id(), policy, mode, shadow, now,
            )  # fmt: skip
            await counted(owner, organization, policy, now - timedelta(minutes=5), admitted=13)
        with capture_logs() as logs:
            assert await self.audited(alone) == {"exact": (1, 0, 0), "fast": (1, 3, 0)}
        assert logs == []

    @pytest.mark.parametrize("hours, runs", [(0, 0), (1, 1), (3, 3)])
    async def test_goes_an_hour_at_a_time(self, alone: Database, owner: Any, hours: int, runs: int) -> None:
        now = datetime.now(UTC)
        await owner.execute(
            "UPDATE ratelimit.audit_watermark SET audited_until = $1",
            now - timedelta(hours=hours) + timedelta(minutes=2),
        )
        for number in range(hours):
            await counted(owner, new_id(), new_id(), now - timedelta(minutes=30 + 60 * number))
        found = [await self.audited(alone) for _ in range(runs + 1)]
        assert found == [{"other": (1, 0, 0)}] * runs + [{}]
