import asyncio
import random
from uuid import UUID

from shared.db import Database
from shared.events import Circuit, CloudEvent, Consumer, Received, Tuning, deadletters
from shared.events.deadletters import dead, discard, redrive
from shared.ids import new_id
from tests.shared.events.support import (
    GROUP,
    TOPIC,
    Poison,
    ProcessFactory,
    consumer_of,
    count,
    effects,
    failing,
    make_event,
    received,
    record,
    until,
)


async def parked(process: ProcessFactory, poison: Poison) -> tuple[Database, Consumer, UUID, UUID]:
    database, organization, entity = await process("beta"), new_id(), new_id()
    consumer = consumer_of(database, poison)
    await consumer.process(received([make_event(n, organization=organization, entity=entity) for n in range(6)]))
    return database, consumer, organization, entity


async def test_a_redrive_stops_where_it_fails_again(process: ProcessFactory) -> None:
    poison = Poison(1, 3)
    database, consumer, organization, entity = await parked(process, poison)
    key = f"{organization}/{entity}"
    assert [e.reason for e in await dead(database, GROUP)] == ["failed", "parked", "parked", "parked", "parked"]
    poison.sequences.remove(1)
    assert await redrive(database, GROUP, key=key) == 5
    assert await consumer.redrive_requested() == 2
    assert await effects(database) == {key: [0, 1, 2]}
    letters = await dead(database, GROUP)
    assert [e.reason for e in letters] == ["failed", "parked", "parked"]
    assert letters[0].attempts == 1
    assert await consumer.redrive_requested() == 0  # the request is used up
    poison.sequences.clear()
    assert await redrive(database, GROUP, id=letters[1].id) == 3
    assert await consumer.redrive_requested() == 3
    assert await effects(database) == {key: [0, 1, 2, 3, 4, 5]}


async def test_a_discarded_event_frees_those_behind_it(process: ProcessFactory) -> None:
    database, consumer, organization, entity = await parked(process, Poison(2))
    (first, *_rest) = await dead(database, GROUP)
    assert await discard(database, GROUP, first.id)
    assert not await discard(database, GROUP, first.id)
    assert await redrive(database, GROUP) == 3
    assert await consumer.redrive_requested() == 3
    assert await effects(database) == {f"{organization}/{entity}": [0, 1, 3, 4, 5]}


async def test_an_event_that_cannot_be_read_stays_dead(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer = consumer_of(database, record)
    key = f"{new_id()}/{new_id()}"
    await consumer.process([Received(TOPIC, 1, 0, key, None, b"{bad", "not JSON")])
    await redrive(database, GROUP)
    assert await consumer.redrive_requested() == 0
    (letter,) = await dead(database, GROUP)
    assert (letter.reason, letter.body, letter.attempts) == ("invalid", b"{bad", 2)


async def test_an_event_that_was_unreadable_and_came_again_is_handled_once(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer, event = consumer_of(database, record), make_event(7)
    old = Received(TOPIC, 1, 0, "unreadable:1", None, event.to_json(), "of a form that the release before did not read")
    await consumer.process([old, *received([event])])
    await redrive(database, GROUP)
    assert await consumer.redrive_requested() == 1
    assert await effects(database) == {event.partitionkey: [7]}
    assert await count(database, "dead_letters") == 0


async def test_a_redrive_and_new_events_of_the_key_keep_their_order(process: ProcessFactory) -> None:
    poison = Poison(0)
    database, consumer, organization, entity = await parked(process, poison)
    poison.sequences.clear()
    later = [make_event(n, organization=organization, entity=entity) for n in range(6, 60)]

    async def new_events() -> None:
        for each in later:
            await consumer.process(received([each]))

    await redrive(database, GROUP)
    await asyncio.gather(new_events(), consumer.redrive_requested())
    await redrive(database, GROUP)
    await consumer.redrive_requested()
    assert await effects(database) == {f"{organization}/{entity}": list(range(60))}
    assert await count(database, "dead_letters") == 0


async def test_a_member_that_was_replaced_parks_in_order(process: ProcessFactory) -> None:
    """The paused member and its heir handle the same poisoned run at the same time."""
    one, two = await process("beta"), await process("beta")
    organization, entity = new_id(), new_id()
    batch = received([make_event(n, organization=organization, entity=entity) for n in range(12)])
    poison = Poison(4)
    await asyncio.gather(consumer_of(one, poison).process(batch), consumer_of(two, poison).process(batch))
    key = f"{organization}/{entity}"
    assert await effects(one) == {key: [0, 1, 2, 3]}
    letters = await dead(one, GROUP)
    assert [CloudEvent.from_json(e.body).sequence for e in letters] == list(range(4, 12))


async def test_whatever_fails_every_key_ends_complete_and_in_order(process: ProcessFactory) -> None:
    """Seeded plans: some events poisoned, batches repeated from earlier points, then cured and redriven."""
    database = await process("beta")
    for seed in range(8):
        chance = random.Random(seed)
        organizations, entities = [new_id() for _ in range(3)], [new_id() for _ in range(3)]
        sequences: dict[tuple[UUID, UUID], int] = {}
        plan = []
        for _ in range(60):
            place = chance.choice(organizations), chance.choice(entities)
            sequences[place] = sequences.get(place, -1) + 1
            plan.append(make_event(sequences[place], organization=place[0], entity=place[1]))
        guilty = {each.id for each in chance.sample(plan, 5)}
        consumer = consumer_of(
            database, failing(lambda e, guilty=guilty: e.id in guilty, ValueError("poison")),  # type: ignore[misc]
            tuning=Tuning(run_size=chance.randint(1, 20)), circuit=Circuit(failures=1000),
        )  # fmt: skip
        position = 0
        while position < len(plan):
            first, position = max(0, position - chance.randint(0, 10)), position + chance.randint(1, 25)
            await consumer.process(received(plan[first:position]))
        guilty.clear()
        await redrive(database, GROUP)
        await consumer.redrive_requested()
        happened = await effects(database)
        for (organization, entity), last in sequences.items():
            assert happened[f"{organization}/{entity}"] == list(range(last + 1))
    assert await count(database, "dead_letters") == 0


async def somebody_waits(database: Database) -> bool:
    return bool(await database.pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def test_an_event_behind_one_that_is_just_being_put_aside_elsewhere_is_parked(process: ProcessFactory) -> None:
    one, two = await process("beta"), await process("beta")
    organization, entity = new_id(), new_id()
    bad, next_one = received([make_event(n, organization=organization, entity=entity) for n in range(2)])
    paused = consumer_of(one, record)
    async with one.transaction(organization) as session:
        await paused._effects.admit(session, organization, [bad])
        await deadletters.insert(session, GROUP, [deadletters.Letter(bad, "failed", "poison", 1)])
        heir = asyncio.create_task(consumer_of(two, record).process([bad, next_one]))
        await until(lambda: somebody_waits(one))
    await heir
    assert await effects(one) == {}
    assert [(e.reason, e.position) for e in await dead(one, GROUP)] == [("failed", 0), ("parked", 1)]


async def test_an_event_that_comes_while_the_last_dead_letter_of_its_key_is_redriven_is_handled(
    process: ProcessFactory,
) -> None:
    database, consumer, organization, entity = await parked(process, Poison(5))
    key = f"{organization}/{entity}"
    later = received([make_event(6, organization=organization, entity=entity)])
    async with database.transaction(organization) as session:
        first = await deadletters.first_of(session, GROUP, key)
        assert first is not None
        await deadletters.handled_again(session, GROUP, first[0], first[2])
        handling = asyncio.create_task(consumer.process(later))
        await until(lambda: somebody_waits(database))
    await handling
    assert await count(database, "dead_letters") == 0
    assert (await effects(database))[key] == [0, 1, 2, 3, 4, 6]
