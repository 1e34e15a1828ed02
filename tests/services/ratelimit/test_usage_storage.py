"""``record_usage``: added up by minute, once for each batch, kept for 35 days."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from shared.db.database import service_dsn
from shared.ids import new_id
from shared.settings import Settings
from tests.services.ratelimit.recording import RECORD, Process, Row, arguments, blocked, make_day, minutes_ago, until

ROWS = "SELECT * FROM ratelimit.usage_minutes WHERE organization_id = $1 ORDER BY minute, actor_id, route"
EVENTS = "SELECT * FROM ratelimit.usage_events WHERE organization_id = $1 ORDER BY minute, actor_id"
LEAVES = "SELECT count(*) FROM pg_class WHERE relname = ANY ($1::text[])"


@pytest_asyncio.fixture
async def admin(postgres: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres)
    yield connection
    await connection.close()


async def test_rows_are_added_up_by_minute_actor_and_route(process: Process, admin: Any, organization_id: UUID) -> None:
    row = Row(minutes_ago(3), calls=5, refused=2, user_id="user-a", shadow_refused=1)
    told = await process.record(row, replace(row, route="POST /v1/contacts", route_class="write"))
    assert abs((told - datetime.now(UTC)).total_seconds()) < 60
    await process.record(row, replace(row, actor_id="key-b"))
    found = [
        (each["actor_id"], each["route"], each["class"], each["user_id"], each["calls"], each["refused"], each["cost"],
         each["refused_cost"], each["shadow_refused"])
        for each in await admin.fetch(ROWS, organization_id)
    ]  # fmt: skip
    assert found == [
        ("key-a", "GET /v1/contacts", "read", "user-a", 10, 4, 6, 4, 2),
        ("key-a", "POST /v1/contacts", "write", "user-a", 5, 2, 3, 2, 1),
        ("key-b", "GET /v1/contacts", "read", "user-a", 5, 2, 3, 2, 1),
    ]
    marked = await admin.fetch(EVENTS, organization_id)
    assert [(each["actor_id"], each["dirty"], each["sequence"]) for each in marked] == [
        ("key-a", True, 0),
        ("key-b", True, 0),
    ]


async def test_the_same_key_twice_in_one_batch_is_added_up(process: Process, admin: Any, organization_id: UUID) -> None:
    row = Row(minutes_ago(2), calls=3)
    await process.record(row, replace(row, minute=row.minute + timedelta(seconds=30)))
    assert [each["calls"] for each in await admin.fetch(ROWS, organization_id)] == [6]


async def test_a_repeated_batch_has_no_second_effect(process: Process, admin: Any, organization_id: UUID) -> None:
    row = Row(minutes_ago(2))
    await process.record(row, batch=7)
    await process.record(row, batch=7)
    await process.record(row, batch=6)
    assert [each["calls"] for each in await admin.fetch(ROWS, organization_id)] == [1]
    await process.record(row, batch=8)
    assert [each["calls"] for each in await admin.fetch(ROWS, organization_id)] == [2]


async def test_also_while_the_first_one_still_runs(
    process: Process, settings: Settings, admin: Any, organization_id: UUID
) -> None:
    values = [process.replica, 1, *arguments(organization_id, [Row(minutes_ago(2))])]
    other = await asyncpg.connect(service_dsn(settings, "gateway"))
    try:
        for end, calls in (("ROLLBACK", [1]), ("COMMIT", [1, 1])):
            values[0] = new_id()
            await process.connection.execute("BEGIN")
            await process.connection.fetchval(RECORD, *values)
            repeated = asyncio.create_task(other.fetchval(RECORD, *values))
            await until(lambda: blocked(admin))
            await process.connection.execute(end)
            await repeated
            assert [sum(calls)] == [each["calls"] for each in await admin.fetch(ROWS, organization_id)]
    finally:
        await other.close()


async def test_without_rows_it_only_tells_the_time(process: Process, admin: Any) -> None:
    assert await process.record() is not None
    assert await admin.fetchval("SELECT count(*) FROM ratelimit.usage_batches WHERE replica = $1", process.replica) == 0


async def test_a_minute_to_come_is_this_one_and_one_long_over_is_none(
    process: Process, admin: Any, organization_id: UUID
) -> None:
    await process.record(Row(minutes_ago(-600)), Row(minutes_ago(36 * 24 * 60)))
    (row,) = await admin.fetch(ROWS, organization_id)
    assert row["minute"] <= await admin.fetchval("SELECT clock_timestamp()")


async def test_a_day_without_a_partition_gets_one(process: Process, admin: Any, organization_id: UUID) -> None:
    day = minutes_ago(20 * 24 * 60)
    leaves = [f"{name}_{day:%Y%m%d}" for name in ("usage_minutes", "usage_events")]
    for leaf in leaves:
        await admin.execute(f"DROP TABLE IF EXISTS ratelimit.{leaf}")
    await process.record(Row(day), Row(day + timedelta(minutes=1)))
    assert await admin.fetchval(LEAVES, leaves) == 2
    assert len(await admin.fetch(ROWS, organization_id)) == 2
    for leaf in leaves:
        assert await admin.fetchval("SELECT relforcerowsecurity FROM pg_class WHERE relname = $1", leaf)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await process.connection.fetch(f"SELECT * FROM ratelimit.{leaf}")


class TestDays:
    async def test_those_to_come_are_made_and_those_over_are_dropped(self, settings: Settings, admin: Any) -> None:
        today = (await admin.fetchval("SELECT clock_timestamp()")).astimezone(UTC).date()
        old, kept = today - timedelta(days=36), today - timedelta(days=35)
        for day in (old, kept):
            await make_day(admin, day)
        service = await asyncpg.connect(service_dsn(settings, "ratelimit"))
        try:
            assert await service.fetchval("SELECT ratelimit.roll_usage()") is True
        finally:
            await service.close()
        days = [old, kept, *(today + timedelta(days=ahead) for ahead in range(3))]
        found = [
            await admin.fetchval(LEAVES, [f"{name}_{day:%Y%m%d}" for name in ("usage_minutes", "usage_events")])
            for day in days
        ]
        assert found == [0, 2, 2, 2, 2]

    async def test_wait_for_a_reader_for_a_moment_only(self, settings: Settings, admin: Any) -> None:
        today = (await admin.fetchval("SELECT clock_timestamp()")).astimezone(UTC).date()
        await make_day(admin, today - timedelta(days=40))
        service = await asyncpg.connect(service_dsn(settings, "ratelimit"))
        try:
            async with admin.transaction():
                await admin.execute("LOCK TABLE ratelimit.usage_minutes IN ACCESS SHARE MODE")
                assert await service.fetchval("SELECT ratelimit.roll_usage()") is False
            assert await service.fetchval("SELECT ratelimit.roll_usage()") is True
        finally:
            await service.close()


@pytest.mark.parametrize("call", ["make_usage_day('2026-01-01')", "roll_usage()", "usage_due('5 s', 1)"])
async def test_the_gateway_may_only_record(process: Process, call: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await process.connection.fetch(f"SELECT ratelimit.{call}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await process.connection.fetch("SELECT * FROM ratelimit.usage_minutes")
