import asyncio
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import pytest

from shared import clock
from shared.db import Session
from shared.events import Circuit, CloudEvent, InvalidEvent, Retry, Tuning
from shared.events.consumer import Handler
from shared.events.deadletters import count as dead_count
from shared.events.deadletters import dead
from shared.events.failures import CircuitOpen
from shared.events.memory import MemoryBus
from shared.ids import new_id
from tests.shared.events.support import (
    GROUP,
    TOPIC,
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


async def test_a_run_is_one_transaction_in_one_organisation(process: ProcessFactory) -> None:
    database, runs = await process("beta"), []

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        setting = await session.connection.fetchval("SELECT current_setting('app.organization_id')")
        assert {str(each.organization_id) for each in events} == {setting} == {str(session.organization_id)}
        runs.append([each.sequence for each in events])
        await record(session, events)

    organizations = [new_id(), new_id()]
    batch = received([make_event(n, organization=organizations[n % 2]) for n in range(30)])
    await consumer_of(database, handler, tuning=Tuning(run_size=10)).process(batch)
    assert sorted(len(run) for run in runs) == [5, 5, 10, 10]
    assert await count(database) == 30
    assert await count(database, "inbox") == 30


async def test_a_repeated_event_has_its_effect_once(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer = consumer_of(database, record)
    event = make_event(1)
    await consumer.process(received([event, event, event]))
    await consumer.process(received([event]))
    assert await count(database) == 1


async def test_two_members_with_the_same_events_do_them_once_and_in_order(process: ProcessFactory) -> None:
    one, two = await process("beta"), await process("beta")
    organization, entities = new_id(), [new_id() for _ in range(3)]
    batch = received([make_event(n, organization=organization, entity=e) for n in range(40) for e in entities])
    tuning = Tuning(run_size=7, first_delay=0.001, longest_delay=0.01)
    await asyncio.gather(
        consumer_of(one, record, tuning=tuning).process(batch), consumer_of(two, record, tuning=tuning).process(batch)
    )
    assert await effects(one) == {f"{organization}/{e}": list(range(40)) for e in entities}


async def test_types_without_a_handler_are_passed_over(process: ProcessFactory) -> None:
    others: list[CloudEvent] = []
    database = await process("beta")

    async def other(session: Session, events: Sequence[CloudEvent]) -> None:
        others.extend(events)

    organization = new_id()
    batch = received([make_event(n, organization=organization, type=f"thing.t{n % 3}") for n in range(9)])
    await consumer_of(database, {"thing.t0": record, "thing.t1": other}).process(batch)
    assert (await count(database), len(others), await count(database, "inbox")) == (3, 3, 6)


async def test_handlers_by_type_are_called_in_the_order_of_events(process: ProcessFactory) -> None:
    database, calls = await process("beta"), []

    def named(name: str) -> Handler:
        async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
            calls.append((name, [each.sequence for each in events]))

        return handler

    organization, types = new_id(), ["thing.a", "thing.a", "thing.b", "thing.c", "thing.a"]
    batch = received([make_event(n, organization=organization, type=t) for n, t in enumerate(types)])
    await consumer_of(database, {"thing.a": named("a"), "*": named("rest")}).process(batch)
    assert calls == [("a", [0, 1]), ("rest", [2, 3]), ("a", [4])]


async def test_only_the_guilty_event_of_a_run_is_put_aside(process: ProcessFactory) -> None:
    database, organization = await process("beta"), new_id()
    batch = received([make_event(n, organization=organization) for n in range(20)])
    consumer = consumer_of(database, failing(lambda e: e.sequence == 11, ValueError("bad")))
    await consumer.process(batch)
    assert await count(database) == 19
    (letter,) = await dead(database, GROUP)
    assert (letter.reason, letter.attempts, letter.position) == ("failed", 1, 11)
    assert "bad" in (letter.error or "")
    assert CloudEvent.from_json(letter.body) == batch[11].event
    assert await dead_count(database, GROUP) == 1


async def test_what_may_pass_is_tried_again_in_place(process: ProcessFactory) -> None:
    database, attempts = await process("beta"), 0

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        nonlocal attempts
        attempts += 1
        await record(session, events)
        if attempts < 4:
            raise Retry("not yet")

    await consumer_of(database, handler).process(received([make_event(1)]))
    assert (attempts, await count(database), await count(database, "dead_letters")) == (4, 1, 0)


async def test_patience_ends(process: ProcessFactory) -> None:
    database = await process("beta")
    await consumer_of(database, failing(lambda e: True, Retry("never"))).process(received([make_event(1)]))
    (letter,) = await dead(database, GROUP)
    assert (letter.reason, letter.attempts) == ("failed", 5)


async def test_an_event_its_handler_cannot_read_is_invalid_at_once(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer = consumer_of(database, failing(lambda e: True, InvalidEvent("version 9 is not known")))
    await consumer.process(received([make_event(1)]))
    (letter,) = await dead(database, GROUP)
    assert (letter.reason, letter.attempts) == ("invalid", 1)


async def test_an_outage_is_raised_and_nothing_is_put_aside(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer = consumer_of(database, failing(lambda e: True, asyncpg.ConnectionDoesNotExistError("gone")))
    for size in (1, 3):
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await consumer.process(received([make_event(n, organization=new_id()) for n in range(size)]))
    assert await count(database, "dead_letters") == 0
    assert await count(database, "inbox") == 0


async def test_an_outage_is_waited_out(process: ProcessFactory) -> None:
    database, away = await process("beta"), True

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        if away:
            session.connection.terminate()
            raise ConnectionResetError
        await record(session, events)

    bus = MemoryBus()
    consumer = consumer_of(database, handler, bus=bus)
    task = asyncio.create_task(consumer.run())
    await bus.append(TOPIC, [make_event(1)])
    await until(lambda: consumer.state == "waiting")
    assert consumer.last_error is not None
    assert await count(database, "dead_letters") == 0
    away = False

    async def done() -> bool:
        return await count(database) == 1 and await bus.lag(GROUP) == {}

    await until(done)
    consumer.stop()
    await asyncio.wait_for(task, 5)
    assert consumer.state == "stopped"


async def test_the_circuit_stops_before_everything_is_a_dead_letter(process: ProcessFactory) -> None:
    database, broken = await process("beta"), True

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        if broken:
            raise ValueError("all of them")
        await record(session, events)

    bus = MemoryBus()
    await bus.append(TOPIC, [make_event(n) for n in range(100)])
    consumer = consumer_of(database, handler, bus=bus, circuit=Circuit(failures=5, pause=0.05, longest_pause=0.05))
    task = asyncio.create_task(consumer.run())
    await until(lambda: consumer.state == "circuit_open")
    assert await count(database, "dead_letters") <= 10
    broken = False

    async def done() -> bool:
        return await bus.lag(GROUP) == {}

    await until(done)
    dead_ones = await count(database, "dead_letters")
    assert dead_ones < 50
    assert await count(database) == 100 - dead_ones
    assert consumer.circuit.state == "closed"
    consumer.stop()
    await asyncio.wait_for(task, 5)


async def test_the_circuit_raises_out_of_process(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer = consumer_of(database, failing(lambda e: True, ValueError("x")), circuit=Circuit(failures=2))
    with pytest.raises(CircuitOpen):
        await consumer.process(received([make_event(n) for n in range(10)]))
    assert 1 <= await count(database, "dead_letters") <= 2  # two lanes: the other one may have been at it already


async def test_old_inbox_rows_are_pruned(process: ProcessFactory) -> None:
    database = await process("beta")
    consumer = consumer_of(database, record)
    await consumer.process(received([make_event(n) for n in range(3)]))
    await consumer.prune(clock.now() - timedelta(hours=1))
    assert await count(database, "inbox") == 3
    await consumer.prune(clock.now() + timedelta(days=1, hours=1))  # it keeps them a day longer
    assert await count(database, "inbox") == 0
