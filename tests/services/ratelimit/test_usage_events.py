"""``usage.recorded``: one for each actor and minute, and another with a higher sequence for what came late."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from services.ratelimit.usage import jobs, service
from shared.db import Database
from shared.testing.plugin import DatabaseFactory
from tests.services.ratelimit.conftest import Events
from tests.services.ratelimit.recording import Process, Row, blocked, minutes_ago, until
from tests.services.ratelimit.support import rows_of

KEY, ADA = (f"0198c5a0-0000-7000-8000-00000000000{number}" for number in range(1, 3))


@pytest_asyncio.fixture
async def service_database(database: DatabaseFactory) -> Database:
    return await database("ratelimit")


async def test_closed_minutes_are_published_and_open_ones_are_not(
    service_database: Database, process: Process, events: Events
) -> None:
    row = Row(minutes_ago(3), KEY, calls=5, refused=1, cost=40, user_id=ADA)
    await process.record(
        row, replace(row, route="POST /v1/contacts", route_class="write", calls=7), Row(minutes_ago(0))
    )
    await jobs.events(service_database).run()
    (event,) = await events()
    assert (event.type, event.sequence) == ("usage.recorded", 1)
    assert event.data == {
        "actor_type": "api_key",
        "actor_id": KEY,
        "user_id": ADA,
        "minute": row.minute.isoformat().replace("+00:00", "Z"),
        "calls": 12,
        "refused": 2,
        "cost": 80,
        "shadow_refused": 0,
        "classes": [
            {"name": "read", "calls": 5, "refused": 1, "cost": 40, "shadow_refused": 0},
            {"name": "write", "calls": 7, "refused": 1, "cost": 40, "shadow_refused": 0},
        ],
        "routes": [
            {"name": "POST /v1/contacts", "calls": 7, "refused": 1, "cost": 40, "shadow_refused": 0},
            {"name": "GET /v1/contacts", "calls": 5, "refused": 1, "cost": 40, "shadow_refused": 0},
        ],
    }


async def test_nothing_is_published_twice(service_database: Database, process: Process, events: Events) -> None:
    rows = [Row(minutes_ago(ago), f"key-{number}") for ago in (2, 3, 4) for number in range(5)]
    await process.record(*rows, *[replace(row, actor_id=ADA, actor_type="user") for row in rows[::5]])
    for _ in range(2):
        await asyncio.gather(*(jobs.events(service_database).run() for _ in range(3)))
    found = await events()
    assert len(found) == len({event.subject for event in found}) == 18
    assert {event.sequence for event in found} == {1}


async def test_what_comes_late_is_published_with_the_new_totals(
    service_database: Database, process: Process, events: Events
) -> None:
    row = Row(minutes_ago(10), KEY, calls=5)
    for calls in (5, 2, 1):
        await process.record(replace(row, calls=calls))
        await jobs.events(service_database).run()
    found = await events()
    assert [(event.sequence, event.data["calls"]) for event in found] == [(1, 5), (2, 7), (3, 8)]
    assert len({event.subject for event in found}) == 1


async def test_what_comes_while_it_is_published_is_not_forgotten(
    service_database: Database, process: Process, organization_id: UUID, postgres: str, events: Events
) -> None:
    row = Row(minutes_ago(10), KEY, calls=5)
    await process.record(row)
    admin = await asyncpg.connect(postgres)
    try:
        async with service_database.transaction(organization_id) as session:
            assert await service.publish_due(session, organization_id) == 1
            late = asyncio.create_task(process.record(replace(row, calls=2)))
            await until(lambda: blocked(admin))
        await late
    finally:
        await admin.close()
    await jobs.events(service_database).run()
    assert [(event.sequence, event.data["calls"]) for event in await events()] == [(1, 5), (2, 7)]


async def test_what_is_not_committed_yet_is_published_later(
    service_database: Database, process: Process, events: Events
) -> None:
    row = Row(minutes_ago(10), KEY, calls=5)
    await process.record(row)
    async with process.connection.transaction():
        await process.record(replace(row, calls=2))
        await jobs.events(service_database).run()
        assert await events() == []  # its row is in use: the next run has it
    await jobs.events(service_database).run()
    assert [(event.sequence, event.data["calls"]) for event in await events()] == [(1, 7)]


@pytest.mark.parametrize("at_once", [3, 7])
async def test_many_go_in_batches(
    service_database: Database,
    process: Process,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
    postgres: str,
    organization_id: UUID,
    at_once: int,
) -> None:
    monkeypatch.setattr("services.ratelimit.usage.repository.AT_ONCE", at_once)
    await process.record(
        *[Row(minutes_ago(2) - timedelta(minutes=number % 4), f"key-{number}") for number in range(20)]
    )
    await jobs.events(service_database).run()
    found = await events()
    assert (len(found), sum(event.data["calls"] for event in found)) == (20, 20)
    dirty = "SELECT count(*) AS count FROM ratelimit.usage_events WHERE organization_id = $1 AND dirty"
    assert await rows_of(postgres, dirty, organization_id) == [{"count": 0}]


async def test_days_are_kept_by_a_job(service_database: Database) -> None:
    await jobs.days(service_database).run()
