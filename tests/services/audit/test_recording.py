"""One event is one entry: through the CRM's outbox, the relay, the bus and the audit worker, all real."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest_asyncio
from pydantic import SecretStr

from services.audit import consumers
from services.audit.app import worker
from services.crm.events import ContactCreated, ContactDeleted, ContactUpdated
from shared.auth import Principal
from shared.clock import FixedClock, use_clock
from shared.db import Database
from shared.events import Event, Relay, publish, topic_of
from shared.events.postgres import PostgresBus
from shared.ids import new_id
from shared.settings import Settings
from tests.services.audit.support import until

CONTACT = {
    "id": "0198c5a0-0000-7000-8000-000000000001", "version": 1, "created_at": "2026-01-15T12:00:00Z",
    "updated_at": "2026-01-15T12:00:00Z", "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com",
    "phone": None, "job_title": None, "company_id": None,
}  # fmt: skip
TOPICS = [topic_of(source) for source in consumers.SOURCES]


class Platform:
    """The CRM's outbox and relay beside the audit service, in a database of their own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.crm = Database.for_service(settings, "crm")
        self.audit = Database.for_service(settings, "audit")
        self.bus = PostgresBus(self.crm)
        self.audit_bus = PostgresBus(self.audit)
        self.relay = Relay(self.crm, self.bus)

    async def publish(self, organization_id: UUID, *payloads: Event, subject: UUID | None = None) -> list[UUID]:
        """Publish events about one record in one transaction and relay them; their ids."""
        subject = subject or new_id()
        principal = Principal(organization_id, "user", str(new_id()), request_id="request-1")
        async with self.crm.transaction(organization_id) as session:
            events = [
                publish(session, payload, subject=subject, sequence=number, principal=principal)
                for number, payload in enumerate(payloads, 1)
            ]
        while await self.relay.drain_once():
            pass
        return [event.id for event in events]

    async def entries(self, organization_id: UUID) -> list[UUID]:
        """The ids of an organisation's entries, in the order of the log."""
        async with self.audit.transaction(organization_id) as session:
            rows = await session.connection.fetch(
                "SELECT id FROM audit_logs_enhanced ORDER BY occurred_at, sequence, id"
            )
        return [row["id"] for row in rows]

    async def caught_up(self) -> bool:
        return not await self.audit_bus.lag(consumers.GROUP)


@pytest_asyncio.fixture(loop_scope="session")
async def platform(fresh_database: str, tmp_path: Path) -> AsyncIterator[Platform]:
    settings = Settings(environment="test", home=tmp_path, database_url=SecretStr(fresh_database), log_level="WARNING")
    made = Platform(settings)
    for part in (made.crm, made.audit):
        await part.open()
    await made.bus.start()
    await made.audit_bus.start()
    yield made
    await made.relay.stop()
    await made.audit_bus.stop()
    await made.bus.stop()
    for part in (made.audit, made.crm):
        await part.close()


async def test_every_event_becomes_one_entry_in_order(platform: Platform) -> None:
    mine, other = new_id(), new_id()
    change = ContactUpdated.model_validate({"changes": {"phone": {"before": None, "after": "+44"}}})
    recording = worker(platform.settings)
    await recording.start()
    try:
        ids = await platform.publish(mine, ContactCreated.model_validate({"contact": CONTACT}), change)
        others = await platform.publish(other, ContactDeleted())
        await until(platform.caught_up)
        ids += await platform.publish(mine, *[change] * 30)
        await until(platform.caught_up)
        assert await platform.entries(mine) == ids
        assert await platform.entries(other) == others
    finally:
        await recording.stop()


async def test_an_event_that_comes_again_changes_nothing(platform: Platform) -> None:
    organization = new_id()
    first = worker(platform.settings)
    await first.start()
    ids = await platform.publish(organization, *[ContactDeleted()] * 20)
    await until(platform.caught_up)
    await first.stop()
    # The offsets go back to the beginning, and the inbox has forgotten half of it, as after a week.
    await platform.audit.pool.execute("DELETE FROM inbox WHERE event_id = ANY ($1)", ids[::2])
    await platform.audit_bus.seek(consumers.GROUP, TOPICS, "earliest")
    assert sum((await platform.audit_bus.lag(consumers.GROUP)).values()) == 20
    second = worker(platform.settings)
    await second.start()
    await until(platform.caught_up)
    await second.stop()
    assert await platform.entries(organization) == ids


async def test_a_history_load_gets_the_partitions_of_its_past_months(platform: Platform) -> None:
    organization = new_id()
    began = datetime(2024, 11, 20, tzinfo=UTC)
    clock = FixedClock(began)
    recording = worker(platform.settings)
    await recording.start()
    with use_clock(clock):
        for _ in range(16):
            await platform.publish(organization, ContactDeleted())
            clock.advance(days=30)
    await until(platform.caught_up)
    await recording.stop()
    async with platform.audit.transaction(organization) as session:
        rows = await session.connection.fetch(
            "SELECT tableoid::regclass::text AS leaf, occurred_at FROM audit_logs_enhanced"
        )
    leaves = {row["leaf"]: row["occurred_at"] for row in rows}
    assert len(rows) == 16
    assert len(leaves) >= 15
    for leaf, occurred_at in leaves.items():
        assert leaf.endswith(f"audit_logs_enhanced_{occurred_at:%Y%m}")


async def test_months_beyond_the_window_go_to_the_default_leaf_and_never_stop_the_consumer(platform: Platform) -> None:
    organization = new_id()
    recording = worker(platform.settings)
    await recording.start()
    ids = []
    for moment in (datetime(1995, 3, 1, tzinfo=UTC), datetime(2150, 3, 1, tzinfo=UTC)):
        with use_clock(FixedClock(moment)):
            ids += await platform.publish(organization, ContactDeleted())
    await until(platform.caught_up)
    await recording.stop()
    assert await platform.entries(organization) == ids
    # Years later the month has come: entries of it are in the DEFAULT leaf, where the new ones join them.
    later = FixedClock(datetime(2150, 3, 1, tzinfo=UTC) + timedelta(days=1))
    recorder = consumers.Recorder()
    with use_clock(later):
        ids += await platform.publish(organization, ContactDeleted())
        read = [each async for each in platform.bus.read(TOPICS, "earliest", follow=False)]
        last = next(each.event for each in read if each.event is not None and each.event.id == ids[-1])
        async with platform.audit.transaction(organization) as session:
            await recorder(session, [last])
    assert await platform.entries(organization) == ids


async def test_an_unreadable_run_is_undone_as_a_whole(platform: Platform) -> None:
    """Partitions made by a transaction that fails are made again by the next one."""
    organization = new_id()
    await platform.publish(organization, ContactDeleted())
    read = [each.event async for each in platform.bus.read(TOPICS, "earliest", follow=False)]
    events = [event for event in read if event is not None]
    recorder = consumers.Recorder()
    try:
        async with platform.audit.transaction(organization) as session:
            await recorder(session, events)
            raise InterruptedError
    except InterruptedError:
        assert await platform.entries(organization) == []
    async with platform.audit.transaction(organization) as session:
        await recorder(session, events)
        leaf = await session.connection.fetchval("SELECT tableoid::regclass::text FROM audit_logs_enhanced")
    assert not leaf.endswith("default")
