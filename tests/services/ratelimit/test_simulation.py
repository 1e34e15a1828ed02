"""``POST /v1/limits/simulate``."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ratelimit.simulation import service
from services.ratelimit.simulation.domain import width_of
from services.ratelimit.simulation.schemas import LimitSimulationRequest
from services.ratelimit.usage.domain import Span
from shared.auth import Principal
from shared.errors import ValidationFailed
from shared.ids import new_id
from shared.testing.plugin import DatabaseFactory
from tests.services.ratelimit.recording import Process, Row, minutes_ago, store
from tests.services.ratelimit.replaying import replay
from tests.services.ratelimit.support import POLICIES, problem

PATH = "/v1/limits/simulate"
KEY_A, KEY_B, ADA, BOB = (f"0198c5a0-0000-7000-8000-00000000000{number}" for number in range(1, 5))
NOON = (minutes_ago(0) - timedelta(days=2)).replace(hour=12, minute=0)
SPAN = {"from": NOON.isoformat(), "to": (NOON + timedelta(hours=3)).isoformat()}
POLICY: dict[str, Any] = {"name": "try", "quota": 10, "window": "minute"}


def at(minutes: int) -> str:
    return (NOON + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


async def simulated(client: httpx.AsyncClient, policy: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"policy": {**POLICY, **policy}, **SPAN, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


class TestAnswer:
    async def test_says_whom_when_and_how_often(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(
            Row(NOON, KEY_A, calls=25, refused=5),
            Row(NOON + timedelta(minutes=1), KEY_A, calls=10),
            Row(NOON + timedelta(minutes=61), KEY_A, calls=11),
            Row(NOON, KEY_B, calls=10),
            Row(NOON, ADA, calls=99, actor_type="user", user_id=ADA),
            Row(NOON - timedelta(minutes=1), KEY_A, calls=99),
        )
        found = await simulated(limits, {"per": ["key"]})
        assert found["totals"] == {
            "calls": 56, "cost": 56, "refused": 16, "refused_cost": 16, "subjects": 2, "refused_subjects": 1
        }  # fmt: skip
        first, second = found["subjects"]
        assert first == {
            "subject": f"key:{KEY_A}", "key": KEY_A, "user": None, "quota": 10, "calls": 46, "cost": 46, "refused": 16,
            "refused_cost": 16, "first_refused_at": at(0), "last_refused_at": at(61), "windows_hit": 2, "peak": 25,
            "suggested_quota": 25,
        }  # fmt: skip
        assert (second["key"], second["refused"], second["first_refused_at"], second["peak"]) == (KEY_B, 0, None, 10)
        assert (found["start"], found["end"], found["bucket_seconds"]) == (at(0), at(180), 60)
        assert found["series"] == [
            {"start": at(0), "calls": 35, "refused": 15},
            {"start": at(61), "calls": 11, "refused": 1},
        ]
        assert (found["resolution"], found["estimate"], len(found["notes"])) == ("minute", False, 2)

    async def test_saves_nothing(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(Row(NOON, KEY_A, calls=25))
        before = (await limits.get(POLICIES)).json()
        await simulated(limits, {})
        assert (await limits.get(POLICIES)).json() == before

    async def test_of_no_usage_is_empty(self, limits: httpx.AsyncClient) -> None:
        found = await simulated(limits, {})
        assert (found["totals"]["calls"], found["totals"]["subjects"], found["subjects"]) == (0, 0, [])

    async def test_of_the_last_day_unless_told_otherwise(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(Row(minutes_ago(2), KEY_A, calls=11), Row(minutes_ago(1500), KEY_A, calls=50))
        found = (await limits.post(PATH, json={"policy": POLICY})).json()
        assert (found["totals"]["calls"], found["totals"]["refused"]) == (11, 1)

    async def test_overrides_the_quota_of_some_subjects(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(Row(NOON, KEY_A, calls=50), Row(NOON, KEY_B, calls=50))
        overrides = [{"pattern": "key:*", "quota": 40}, {"pattern": f"key:{KEY_B}", "quota": 45}]
        found = await simulated(limits, {"per": ["key"]}, overrides=overrides)
        assert [(each["key"], each["quota"], each["refused"]) for each in found["subjects"]] == [
            (KEY_A, 40, 10),
            (KEY_B, 45, 5),
        ]

    async def test_counts_what_calls_cost(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(Row(NOON, KEY_A, calls=5, refused=2, cost=30, refused_cost=20))
        weighted = await simulated(limits, {"quota": 25})
        assert (weighted["totals"]["cost"], weighted["totals"]["refused"]) == (50, 3)
        assert weighted["totals"]["refused_cost"] == 30
        by_call = await simulated(limits, {"quota": 4, "weighted": False})
        assert (by_call["totals"]["cost"], by_call["totals"]["refused"]) == (5, 1)

    async def test_estimates_windows_of_a_second(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(Row(NOON, KEY_A, calls=130))
        found = await simulated(limits, {"quota": 2, "window": "second"})
        assert (found["totals"]["refused"], found["estimate"], len(found["notes"])) == (10, True, 3)
        (subject,) = found["subjects"]
        assert (subject["windows_hit"], subject["peak"], subject["suggested_quota"]) == (10, 3, 3)

    async def test_shows_a_hundred_subjects_at_most(self, limits: httpx.AsyncClient, process: Process) -> None:
        await process.record(*[Row(NOON, KEY_A, calls=number + 1, route=f"GET /v1/{number}") for number in range(120)])
        found = await simulated(limits, {"per": ["route"]})
        assert found["totals"]["subjects"] == 120
        assert [each["calls"] for each in found["subjects"]] == list(range(120, 20, -1))

    async def test_leaves_out_what_has_no_route_where_it_counts_by_route(
        self, limits: httpx.AsyncClient, process: Process
    ) -> None:
        merged = Row(NOON, "", route="*", calls=50, actor_type="merged", route_class="merged")
        await process.record(merged, Row(NOON, KEY_A, calls=2))
        assert (await simulated(limits, {}))["totals"]["calls"] == 52
        for per in ("route", "class", "key"):
            assert (await simulated(limits, {"per": [per]}))["totals"]["calls"] == 2

    async def test_a_stranger_sees_nothing_of_it(self, stranger: httpx.AsyncClient, process: Process) -> None:
        await process.record(Row(NOON, KEY_A, calls=50))
        assert (await simulated(stranger, {}))["totals"]["calls"] == 0


class TestRefusal:
    async def test_without_the_scope(self, powerless: httpx.AsyncClient) -> None:
        problem(await powerless.post(PATH, json={"policy": POLICY}), 403, "missing_scope")

    @pytest.mark.parametrize(
        "policy, field",
        [
            ({"unit": "concurrent-requests", "window": None}, "/policy/unit"),
            ({"window": None}, "/policy/window"),
            ({"timezone": "Mars/Olympus"}, "/policy/timezone"),
            ({"quota": -1}, "/policy/quota"),
            ({"match": {"routes": ["nothing"]}}, "/policy/match/routes/0"),
        ],
    )
    async def test_of_a_bad_policy(self, limits: httpx.AsyncClient, policy: dict[str, Any], field: str) -> None:
        answer = await limits.post(PATH, json={"policy": {**POLICY, **policy}})
        problem(answer, 422, "validation_failed", field)

    @pytest.mark.parametrize("to", [SPAN["from"], (NOON + timedelta(days=35, minutes=1)).isoformat()])
    async def test_of_a_bad_span(self, limits: httpx.AsyncClient, to: str) -> None:
        answer = await limits.post(PATH, json={"policy": POLICY, "from": SPAN["from"], "to": to})
        problem(answer, 422, "validation_failed", "/from")


async def test_what_takes_too_long_is_refused_with_what_to_do(
    database: DatabaseFactory, postgres: str, organization_id: UUID
) -> None:
    body = LimitSimulationRequest.model_validate({"policy": POLICY, **SPAN})
    admin = await asyncpg.connect(postgres)
    try:
        async with (
            admin.transaction(),
            (await database("ratelimit")).transaction(organization_id) as session,
        ):
            await admin.execute("LOCK TABLE ratelimit.usage_minutes")
            await session.connection.execute("SET LOCAL statement_timeout = '200ms'")
            with pytest.raises(ValidationFailed) as refused:
                await service.simulate(session, Principal(organization_id, "user", ADA), body)
            await session.connection.execute("ROLLBACK; BEGIN")
    finally:
        await admin.close()
    assert refused.value.code == "span_too_large"


@pytest.mark.parametrize("minutes, bucket", [(1, 1), (199, 1), (200, 5), (1440, 10), (10_000, 60), (35 * 1440, 360)])
def test_a_series_has_few_buckets(minutes: int, bucket: int) -> None:
    asked = Span(NOON, NOON + timedelta(minutes=minutes))
    assert width_of(asked) == timedelta(minutes=bucket)
    assert asked.length / width_of(asked) < 200


async def test_a_series_is_cut_in_its_buckets(limits: httpx.AsyncClient, process: Process) -> None:
    await process.record(*[Row(NOON + timedelta(minutes=each), KEY_A, calls=12) for each in (0, 9, 10, 25)])
    whole = {"to": (NOON + timedelta(days=1)).isoformat()}
    found = await simulated(limits, {}, **whole)
    assert found["bucket_seconds"] == 600
    assert found["series"] == [
        {"start": at(0), "calls": 24, "refused": 4},
        {"start": at(10), "calls": 12, "refused": 2},
        {"start": at(20), "calls": 12, "refused": 2},
    ]


ROUTES = ("GET /v1/contacts", "POST /v1/contacts", "GET /v1/deals/{deal_id}", "GET /v1/deals/{dealxid}")
ACTORS = ((KEY_A, "api_key", ADA), (KEY_B, "api_key", None), (ADA, "user", ADA), (BOB, "user", BOB))
PARTS = ("organization", "key", "user", "route", "class")
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "routes": st.lists(st.sampled_from([*ROUTES[:3], "GET /*", "* /v1/contacts"]), max_size=2, unique=True),
        "classes": st.lists(st.sampled_from(["read", "write"]), max_size=2, unique=True),
        "keys": st.lists(st.sampled_from([KEY_A, KEY_B]), max_size=2, unique=True),
        "users": st.lists(st.sampled_from([ADA, BOB]), max_size=2, unique=True),
    },
)
OVERRIDES = st.lists(
    st.fixed_dictionaries(
        {
            "pattern": st.sampled_from(["*", "key:*", f"key:{KEY_A}*", "*|class:read", "user:*", "organization"]),
            "quota": st.integers(0, 40),
        }
    ),
    max_size=3,
)


@st.composite
def usage(draw: st.DrawFn, base: datetime, hours: int) -> list[Row]:
    """Usage in which every call costs the same."""
    cost, found = draw(st.integers(1, 4)), {}
    for _ in range(draw(st.integers(0, 25))):
        actor_id, actor_type, user_id = draw(st.sampled_from(ACTORS))
        route, calls = draw(st.sampled_from(ROUTES)), draw(st.integers(1, 130))
        refused = draw(st.integers(0, calls))
        minute = base + timedelta(
            minutes=draw(st.integers(0, hours * 60 - 1)) if hours > 1 else draw(st.integers(0, 9))
        )
        row = Row(minute, actor_id, route, calls, refused, (calls - refused) * cost, refused * cost,
                  "read" if route.startswith("GET") else "write", actor_type, user_id)  # fmt: skip
        found[minute, actor_id, route] = row
    return list(found.values())


async def compared(
    database: DatabaseFactory, postgres: str, policy: dict[str, Any], overrides: list[dict[str, Any]], rows: list[Row],
    base: datetime, hours: int,
) -> None:  # fmt: skip
    organization_id = new_id()
    await store(postgres, organization_id, rows)
    body = {"policy": policy, "overrides": overrides, "from": base, "to": base + timedelta(hours=hours)}
    principal = Principal(organization_id, "user", ADA)
    async with (await database("ratelimit")).transaction(organization_id) as session:
        found = await service.simulate(session, principal, LimitSimulationRequest.model_validate(body))
    expected = replay(policy, overrides, rows)
    assert {each["subject"] for each in found["subjects"]} == set(expected)
    for each in found["subjects"]:
        outcome = expected[each["subject"]]
        moments: list[datetime | None] = [*outcome.refused_at] or [None]
        assert {name: each[name] for name in each if name not in {"subject", "key", "user", "quota"}} == {
            "calls": outcome.calls,
            "cost": outcome.cost,
            "refused": outcome.refused,
            "refused_cost": outcome.refused_cost,
            "first_refused_at": moments[0],
            "last_refused_at": moments[-1],
            "windows_hit": len(outcome.hit),
            "peak": max(outcome.wanted.values()),
            "suggested_quota": max(outcome.wanted.values()),
        }, each["subject"]
    for name in ("calls", "cost", "refused", "refused_cost"):
        assert found["totals"][name] == sum(getattr(each, name) for each in expected.values())
    assert found["totals"]["refused_subjects"] == sum(each.refused > 0 for each in expected.values())
    assert sum(each["refused"] for each in found["series"]) == found["totals"]["refused"]
    assert all(each["refused"] for each in found["series"])


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_agrees_with_a_replay_of_every_call(
    database: DatabaseFactory, postgres: str, data: st.DataObject
) -> None:
    window = data.draw(st.sampled_from(["second", "minute", "hour", "day"]))
    hours = {"second": 1, "minute": 1, "hour": 5, "day": 60}[window]
    base = NOON - timedelta(days=1)
    policy = {
        "name": "try", "quota": data.draw(st.integers(0, 300)), "window": window, "match": data.draw(MATCHES),
        "per": data.draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3, unique=True)),
        "weighted": data.draw(st.booleans()),
    }  # fmt: skip
    await compared(database, postgres, policy, data.draw(OVERRIDES), data.draw(usage(base, hours)), base, hours)


CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC), "day"),
    ("Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), "day"),
    ("America/Havana", datetime(2026, 3, 7, 12, tzinfo=UTC), "day"),
    ("America/Havana", datetime(2026, 10, 31, 12, tzinfo=UTC), "day"),
    ("Asia/Kathmandu", datetime(2026, 3, 7, 12, tzinfo=UTC), "day"),
    ("Europe/Berlin", datetime(2024, 2, 28, 12, tzinfo=UTC), "month"),
    ("Pacific/Auckland", datetime(2026, 2, 27, 12, tzinfo=UTC), "month"),
]


@pytest.mark.parametrize("zone, base, window", CHANGES)
async def test_days_and_months_are_those_of_the_time_zone(
    database: DatabaseFactory, postgres: str, zone: str, base: datetime, window: str
) -> None:
    policy = {"name": "try", "quota": 200, "window": window, "timezone": zone}
    rows = [Row(base + timedelta(minutes=15 * number), KEY_A, calls=7) for number in range(4 * 60)]
    await compared(database, postgres, policy, [], rows, base, 60)


async def test_of_different_costs_it_is_off_by_less_than_one_call_a_window(
    database: DatabaseFactory, postgres: str, organization_id: UUID
) -> None:
    cheap = Row(NOON, KEY_A, calls=60, refused=0, cost=60)
    rows = [
        cheap,
        replace(cheap, route=ROUTES[1], calls=10, cost=500),
        replace(cheap, minute=NOON + timedelta(minutes=1)),
    ]
    await store(postgres, organization_id, rows)
    body = {"policy": {**POLICY, "quota": 300, "window": "hour"}, "from": NOON, "to": NOON + timedelta(hours=1)}
    async with (await database("ratelimit")).transaction(organization_id) as session:
        found = await service.simulate(
            session, Principal(organization_id, "user", ADA), LimitSimulationRequest.model_validate(body)
        )
    totals = found["totals"]
    assert (totals["cost"], totals["calls"]) == (620, 130)
    assert 0 <= totals["cost"] - totals["refused_cost"] <= 300
    assert 300 - (totals["cost"] - totals["refused_cost"]) < 50
