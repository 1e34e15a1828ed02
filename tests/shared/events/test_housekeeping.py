"""What is forgotten, when, and how much is taken at a time: on the log and the inbox of a real PostgreSQL."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from shared import clock
from shared.db import Database
from shared.db.versions import owner_dsn
from shared.events import Consumer, Received, Relay, Worker, deadletters
from shared.events.memory import MemoryBus
from shared.events.postgres import PostgresBus
from shared.ids import new_id
from shared.settings import Settings
from tests.shared.events.harness import numbers, take
from tests.shared.events.support import (
    GROUP,
    TOPIC,
    Poison,
    consumer_of,
    count,
    effects,
    make_event,
    publish_all,
    received,
    record,
)

ProcessFactory = Callable[..., Awaitable[Database]]
BYTES = 8_000_000


@pytest_asyncio.fixture(loop_scope="session")
async def owner(events_settings: Settings) -> AsyncIterator[Any]:
    """The schemas' owner, who can make things old."""
    connection = await asyncpg.connect(owner_dsn(events_settings))
    yield connection
    await connection.close()


async def age(owner: Any, days: int) -> None:
    """Make the whole log and inbox older."""
    await owner.execute("UPDATE bus.log SET recorded_at = recorded_at - make_interval(days => $1)", days)
    await owner.execute("UPDATE beta.inbox SET processed_at = processed_at - make_interval(days => $1)", days)


async def consume(bus: PostgresBus, consumer: Consumer) -> None:
    """Everything there is."""
    member = await bus.subscribe(consumer.group, consumer.topics)
    while batch := await member.fetch(4000, 0.0):
        await consumer.process(batch)
        await member.commit(batch)
    await member.close()


def worker_of(database: Database, bus: PostgresBus, consumer: Consumer) -> Worker:
    return Worker(database, bus=bus, relay=Relay(database, bus), consumers=[consumer])


# -- what the inbox remembers ----------------------------------------------------------------------------
async def test_a_replay_repeats_no_effect_while_a_stopped_group_holds_the_log(
    process: ProcessFactory, owner: Any
) -> None:
    database = await process("beta")
    bus, key = PostgresBus(database), new_id()
    consumer = Consumer(database, bus, GROUP, [TOPIC], record)
    stopped = await bus.subscribe("beta.stopped", [TOPIC])
    await stopped.close()
    await bus.append(TOPIC, [make_event(n, organization=key, entity=key) for n in range(3)])
    await consume(bus, consumer)
    await age(owner, 10)
    await worker_of(database, bus, consumer)._prune()
    assert await count(database, "bus.log") == 3
    await bus.seek(GROUP, [TOPIC], "earliest")
    await consume(bus, consumer)
    assert await effects(database) == {f"{key}/{key}": [0, 1, 2]}
    await bus.seek("beta.stopped", [TOPIC], "latest")
    await worker_of(database, bus, consumer)._prune()
    assert await count(database, "bus.log") == 0
    await worker_of(database, bus, consumer)._prune()
    assert await count(database, "inbox") == 0


@pytest.mark.parametrize(("days", "log", "inbox"), [(29, 1, 1), (30, 0, 1), (31, 0, 0)])
async def test_log_and_inbox_keep_what_the_settings_say(
    process: ProcessFactory, owner: Any, days: int, log: int, inbox: int
) -> None:
    database = await process("beta")
    database.settings = database.settings.model_copy(update={"event_retention_days": 30})
    bus = PostgresBus(database)
    consumer = Consumer(database, bus, GROUP, [TOPIC], record)
    await bus.append(TOPIC, [make_event()])
    await consume(bus, consumer)
    await age(owner, days)
    await worker_of(database, bus, consumer)._prune()
    assert (await count(database, "bus.log"), await count(database, "inbox")) == (log, inbox)


@pytest.mark.parametrize("discarded", [False, True])
async def test_a_dead_letter_is_known_while_it_waits_and_after_it_was_dealt_with(
    process: ProcessFactory, owner: Any, discarded: bool
) -> None:
    database, bus = await process("beta"), MemoryBus()
    poison = Poison(1)
    consumer = consumer_of(database, poison, bus=bus)
    entries = [*received([make_event(1)]), Received(TOPIC, 0, 7, "key", None, b"junk", "it is junk")]
    await consumer.process(entries)
    for _ in range(2):
        await age(owner, 20)
        await consumer.prune(clock.now() - timedelta(days=7))
        await consumer.process(entries)
        assert (await count(database, "dead_letters"), await count(database, "inbox")) == (2, 2)
    poison.sequences.clear()
    if discarded:
        for letter in await deadletters.dead(database, GROUP):
            assert await deadletters.discard(database, GROUP, letter.id)
    else:
        await deadletters.redrive(database, GROUP)
        assert await consumer.redrive_requested() == 1
    await consumer.prune(clock.now() - timedelta(days=7))
    await consumer.process(entries)
    assert await count(database) == (0 if discarded else 1)


# -- how much at a time ----------------------------------------------------------------------------------
async def test_whatever_has_gathered_goes_in_slices(process: ProcessFactory, owner: Any) -> None:
    database = await process("beta")
    bus = PostgresBus(database)
    consumer = Consumer(database, bus, GROUP, [TOPIC], record)
    await owner.execute(
        """INSERT INTO bus.log SELECT $1, n % 12, n / 12, gen_random_uuid(), gen_random_uuid(), 'thing.changed', 'k', '{}',
           now() - interval '8 days' FROM generate_series(0, 29999) AS n""",
        TOPIC,
    )
    await owner.execute("INSERT INTO bus.head SELECT $1, p, 2500 FROM generate_series(0, 11) AS p", TOPIC)
    await owner.execute(
        """INSERT INTO beta.inbox SELECT $1, gen_random_uuid(), gen_random_uuid(), now() - interval '10 days'
           FROM generate_series(1, 25000)""",
        GROUP,
    )
    before = clock.now() - timedelta(days=7)
    assert [await bus.prune(TOPIC, before) for _ in range(2)] == [12_000, 12_000]
    await worker_of(database, bus, consumer)._prune()
    assert (await count(database, "bus.log"), await count(database, "inbox")) == (0, 0)


async def publish_large(database: Database, total: int) -> None:
    organization, entities = new_id(), [new_id() for _ in range(40)]
    for n in range(total // 40):
        for entity in entities:
            await publish_all(database, organization, entity, [n], name="é" * 29_000)


async def test_batches_are_bounded_by_bytes(process: ProcessFactory) -> None:
    database = await process("beta")
    bus = PostgresBus(database)
    relay = Relay(database, bus)
    await publish_large(database, 400)
    moved = []
    while batch := await relay.drain_once():
        moved.append(batch)
    assert sum(moved) == 400
    assert max(moved) * 58_000 < BYTES + 70_000
    member = await bus.subscribe(GROUP, [TOPIC])
    first = await member.fetch(4000, 1.0)
    assert 0 < sum(len(each.event.to_json()) for each in first if each.event) < BYTES + 12 * 70_000
    got = await take(member, 400, limit=4000)
    assert len(got) == 400
    assert all(order == list(range(10)) for order in numbers(got).values())
    await member.close()


async def test_what_is_sent_to_another_bus_is_bounded_by_bytes(process: ProcessFactory) -> None:
    database, bus = await process("beta"), MemoryBus()
    relay = Relay(database, bus)
    await publish_large(database, 200)
    moved = []
    while batch := await relay.drain_once():
        moved.append(batch)
    assert sum(moved) == 200
    assert max(moved) * 58_000 < BYTES + 70_000
    entries = [entry async for entry in bus.read([TOPIC], "earliest", follow=False)]
    assert all(order == list(range(5)) for order in numbers(entries).values())
