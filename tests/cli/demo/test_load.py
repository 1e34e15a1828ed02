"""Loading the demonstration into a real database: events with past times, interruptions, other people's changes."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from cli.demo import content, load
from cli.demo.content import Size
from cli.demo.schedule import YEAR, Schedule
from cli.demo.story import Operation
from cli.demo.teller import BATCH, Teller, batches
from services.audit.app import worker as audit_worker
from services.crm.app import worker as crm_worker
from services.crm.companies.service import COMPANY
from services.crm.records import service as records
from shared.auth import Principal, api_key
from shared.clock import FixedClock, use_clock
from shared.db import Database
from shared.ids import new_id
from shared.settings import Settings
from shared.testing.plugin import DatabaseFactory

END = datetime(2026, 5, 14, 15, 30, 12, 345678, tzinfo=UTC)
SMALL = Size(companies=6, people=3)
MEMBERS = [new_id() for _ in range(7)]
Fact = tuple[str, datetime, int]


@pytest.fixture(scope="module")
def story() -> list[Operation]:
    return content.history(SMALL)


@pytest.fixture
async def crm(database: DatabaseFactory) -> Database:
    return await database("crm")


def _teller(crm: Database, organization_id: UUID) -> Teller:
    return Teller(crm, organization_id, MEMBERS, Schedule(END))


async def _facts(crm: Database, organization_id: UUID) -> list[Fact]:
    """Type, time and sequence of every event in the outbox, in its order."""
    rows = await crm.pool.fetch("SELECT envelope FROM outbox WHERE organization_id = $1 ORDER BY seq", organization_id)
    events = [row["envelope"] for row in rows]
    return [(each["type"], datetime.fromisoformat(each["time"]), int(each["sequence"])) for each in events]


async def _count(crm: Database, organization_id: UUID, table: str) -> int:
    async with crm.transaction(organization_id) as session:
        count: int = await session.connection.fetchval(f"SELECT count(*) FROM {table}")
        return count


async def test_a_history_becomes_rows_and_events_of_the_past(
    crm: Database, organization_id: UUID, story: list[Operation]
) -> None:
    teller = _teller(crm, organization_id)
    seen: list[tuple[int, int]] = []
    await teller.tell(story, lambda done, total, _moment: seen.append((done, total)))
    assert teller.skipped == 0
    assert seen[-1] == (len(story), len(story))
    for record, table in [
        ("contact", "contacts"),
        ("company", "companies"),
        ("deal", "deals"),
        ("activity", "activities"),
    ]:
        made = [each for each in story if each.record == record and each.action == "create"]
        assert await _count(crm, organization_id, table) == len(made)
    facts = await _facts(crm, organization_id)
    moments = [moment for _, moment, _ in facts]
    assert moments == sorted(moments)
    assert moments[0] > END - YEAR
    assert moments[-1] < END
    created = [Schedule(END).at(each.when) for each in story if each.action == "create"]
    assert [moment for kind, moment, _ in facts if kind.endswith(".created")] == created
    assert {"deal.stage_changed", "activity.updated", "contact.updated"} <= {kind for kind, _, _ in facts}


async def test_records_belong_to_those_who_sell(crm: Database, organization_id: UUID, story: list[Operation]) -> None:
    await _teller(crm, organization_id).tell(story)
    async with crm.transaction(organization_id) as session:
        owners = await session.connection.fetch("SELECT DISTINCT owner_id FROM contacts")
        won = await session.connection.fetchval(
            "SELECT count(*) FROM deals WHERE status = 'won' AND closed_at < $1", END
        )
    assert len(owners) > 3
    assert {row["owner_id"] for row in owners} <= set(MEMBERS)
    assert won > 0


async def test_a_load_goes_on_where_it_was_stopped(
    crm: Database, organization_id: UUID, story: list[Operation]
) -> None:
    expected_of = new_id()
    await _teller(crm, expected_of).tell(story)
    interruptions = len(list(batches(story)))
    for _ in range(interruptions):
        with pytest.raises(_Stopped):
            await _teller(crm, organization_id).tell(story, _stop)
    resumed = _teller(crm, organization_id)
    assert await resumed.is_told()
    await resumed.tell(story)
    assert await _facts(crm, organization_id) == await _facts(crm, expected_of)


class _Stopped(Exception):
    pass


def _stop(_done: int, _total: int, _moment: datetime) -> None:
    raise _Stopped


async def test_a_cancelled_batch_leaves_nothing_of_itself(
    crm: Database, organization_id: UUID, story: list[Operation]
) -> None:
    expected_of = new_id()
    await _teller(crm, expected_of).tell(story)
    second = asyncio.Event()
    loading = asyncio.create_task(_teller(crm, organization_id).tell(story, lambda *_: second.set()))
    await second.wait()
    await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert 0 < len(await _facts(crm, organization_id)) < len(story)
    await _teller(crm, organization_id).tell(story)
    assert await _facts(crm, organization_id) == await _facts(crm, expected_of)


_PROCESS = """
import asyncio, sys
from datetime import datetime
from uuid import UUID
from cli.demo import content
from cli.demo.schedule import Schedule
from cli.demo.teller import Teller
from shared.db import Database
from shared.settings import Settings

async def main():
    crm = Database.for_service(Settings(), "crm")
    await crm.open()
    members = [UUID(each) for each in sys.argv[3].split(",")]
    teller = Teller(crm, UUID(sys.argv[1]), members, Schedule(datetime.fromisoformat(sys.argv[2])))
    await teller.tell(content.history(content.Size(companies=6, people=3)))

asyncio.run(main())
"""


async def test_a_killed_process_leaves_a_load_that_can_go_on(
    crm: Database, settings: Settings, organization_id: UUID, story: list[Operation]
) -> None:
    expected_of = new_id()
    await _teller(crm, expected_of).tell(story)
    assert settings.database_url is not None
    environment = os.environ | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "GUARDIAN_ENVIRONMENT": "test",
    }
    arguments = [str(organization_id), END.isoformat(), ",".join(map(str, MEMBERS))]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROCESS, *arguments, env=environment)
    try:
        await _until(lambda: _count(crm, organization_id, "contacts"))
    finally:
        process.kill()
        await process.wait()
    assert 0 < len(await _facts(crm, organization_id)) < len(story) - BATCH
    await _teller(crm, organization_id).tell(story)
    assert await _facts(crm, organization_id) == await _facts(crm, expected_of)


async def _until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.005)


async def test_what_people_change_meanwhile_stops_nothing(
    crm: Database, organization_id: UUID, story: list[Operation]
) -> None:
    with pytest.raises(_Stopped):
        await _teller(crm, organization_id).tell(story, _stop)
    visitor = Principal(organization_id, "user", str(new_id()))
    with use_clock(FixedClock(END + timedelta(minutes=1))):
        async with crm.transaction(organization_id) as session:
            company_id = await session.connection.fetchval("SELECT id FROM companies ORDER BY created_at LIMIT 1")
            await records.delete(session, visitor, COMPANY, await records.lock(session, visitor, COMPANY, company_id))
            own: dict[str, Any] = {"name": "Made by a visitor", "owner_id": None, "tags": [], "custom_fields": {}}
            await records.create(session, visitor, COMPANY, own)
    teller = _teller(crm, organization_id)
    await teller.tell(story)
    assert teller.skipped > 0
    assert await teller.is_told()
    made = [each for each in story if each.record == "company" and each.action == "create"]
    assert await _count(crm, organization_id, "companies") == len(made) + 1
    async with crm.transaction(organization_id) as session:
        assert await session.connection.fetchval("SELECT deleted_at FROM companies WHERE id = $1", company_id)


async def test_events_become_audit_entries_of_the_past(
    crm: Database, settings: Settings, database: DatabaseFactory, organization_id: UUID, story: list[Operation]
) -> None:
    audit, expected_of = await database("audit"), new_id()
    await _teller(crm, expected_of).tell(story)
    expected = [(action, moment) for action, moment, _ in await _facts(crm, expected_of)]

    async def entries() -> list[tuple[str, datetime]]:
        async with audit.transaction(organization_id) as session:
            rows = await session.connection.fetch(
                "SELECT action, occurred_at FROM audit_logs_enhanced ORDER BY occurred_at, sequence"
            )
        return [(row["action"], row["occurred_at"]) for row in rows]

    async def all_recorded() -> bool:
        return len(await entries()) >= len(expected)

    workers = [crm_worker(settings), audit_worker(settings)]
    for worker in workers:
        await worker.start()
    try:
        await _teller(crm, organization_id).tell(story)
        await _until(all_recorded)
        await _teller(crm, organization_id).tell(story)
    finally:
        for worker in workers:
            await worker.stop()
    assert await entries() == expected
    assert await _facts(crm, organization_id) == []  # relayed, all of them


@pytest.fixture
async def platform(fresh_database: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a platform of its own, with its connections open."""
    settings = Settings(environment="test", home=tmp_path, database_url=SecretStr(fresh_database))
    opened = [Database.for_service(settings, service) for service in ("identity", "crm")]
    for each in opened:
        await each.open()
    yield settings
    for each in opened:
        await each.close()


async def test_the_organisations_are_made_once(platform: Settings, fresh_database: str) -> None:
    made = await load.organizations(platform)
    assert [each.name for each in made] == ["Quillmoor Instruments", "Tinderbrook Studio"]
    assert await load.organizations(platform) == made
    assert (platform.home / load.CREDENTIALS_FILE).stat().st_mode & 0o777 == 0o600
    connection = await asyncpg.connect(fresh_database)
    try:
        for each in made:
            key = api_key.parse(each.api_key)
            assert key is not None
            row = await connection.fetchrow("SELECT * FROM identity.api_keys WHERE public_id = $1", key.public_id)
            assert row is not None
            assert (row["organization_id"], row["secret_sha256"]) == (each.id, key.sha256)
        assert await connection.fetchval("SELECT count(*) FROM identity.api_keys") == 2
        assert await connection.fetchval("SELECT count(*) FROM crm.contacts WHERE organization_id = $1", made[1].id) > 4
    finally:
        await connection.close()


async def test_lost_credentials_are_made_anew(platform: Settings) -> None:
    made = await load.organizations(platform)
    (platform.home / load.CREDENTIALS_FILE).unlink()
    again = await load.organizations(platform)
    assert [(each.id, each.password) for each in again] == [(each.id, each.password) for each in made]
    assert again[0].api_key != made[0].api_key
    assert await load.organizations(platform) == again


async def test_the_history_is_loaded_with_progress_and_only_once(
    platform: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, _) = await load.organizations(platform)
    await load.history(platform, first, SMALL)
    assert "✓ Loading a year of demo history" in capsys.readouterr().err
    crm, identity = (Database.for_service(platform, service) for service in ("crm", "identity"))
    facts = await _facts(crm, first.id)
    await load.history(platform, first, SMALL)
    assert capsys.readouterr().err == ""
    assert await _facts(crm, first.id) == facts
    people = await identity.pool.fetch(
        "SELECT role, created_at FROM memberships WHERE organization_id = $1 ORDER BY created_at", first.id
    )
    assert [row["role"] for row in people] == ["owner"] + ["member"] * 6
    assert people[-1]["created_at"] < first.founded + timedelta(hours=1)
    told = [moment for _, moment, _ in await _facts(identity, first.id)]
    assert first.founded <= min(told)
    assert max(told) < first.founded + timedelta(hours=1)


async def test_what_programs_read_is_complete(platform: Settings) -> None:
    organizations = await load.organizations(platform)
    described = json.loads(load.describe("http://127.0.0.1:8080", 42, organizations))
    assert (described["base_url"], described["pid"]) == ("http://127.0.0.1:8080", 42)
    assert len(described["organizations"]) == 2
    for shown, made in zip(described["organizations"], organizations, strict=True):
        assert set(shown) == {"id", "name", "email", "password", "api_key", "signing_key_id", "signing_secret"}
        assert UUID(shown["id"]) == made.id
        assert UUID(shown["signing_key_id"]) != made.id
        assert shown["signing_secret"] == made.signing_secret
        assert shown["api_key"].startswith("gdn_live_")
        assert len(shown["password"]) >= 12
