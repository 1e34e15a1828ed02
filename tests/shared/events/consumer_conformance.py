"""What a consumer and a relay do on every bus; ``BusConformance`` includes it."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from shared.db import Session
from shared.events import Bus, CloudEvent, Consumer, Relay, Tuning
from shared.events.consumer import Handler
from shared.events.deadletters import dead, redrive
from shared.events.envelope import schema_uri
from shared.ids import new_id
from shared.logs import current_traceparent
from tests.shared.events.harness import Harness, numbers
from tests.shared.events.support import (
    TOPIC,
    TRACEPARENT,
    Poison,
    count,
    effects,
    make_event,
    publish_all,
    record,
    until,
)


class Killed(BaseException):
    """Nothing catches it: what follows it in a process that is killed does not happen."""


class ConsumerConformance:
    async def consume(
        self, harness: Harness, bus: Bus, handler: Handler, run_size: int = 100, group: str = "beta.test"
    ) -> tuple[Consumer, asyncio.Task[None]]:
        consumer = Consumer(
            await harness.database(), bus, group, [TOPIC], handler,
            tuning=Tuning(run_size=run_size, first_delay=0.001, longest_delay=0.002),
        )  # fmt: skip
        return consumer, asyncio.create_task(consumer.run())

    async def end(self, consumer: Consumer, task: asyncio.Task[None]) -> None:
        consumer.stop()
        await asyncio.wait_for(task, 5)

    async def test_offsets_reset_to_zero_repeat_no_effect(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organizations = [new_id() for _ in range(5)]
        await bus.append(TOPIC, [make_event(n, organization=o) for n in range(40) for o in organizations])
        consumer, task = await self.consume(harness, bus, record)

        async def caught_up() -> bool:
            return await bus.lag("beta.test") == {} and await count(database) >= 200

        await until(caught_up)
        await bus.seek("beta.test", [TOPIC], "earliest")
        await until(caught_up)
        assert await count(database) == 200
        await self.end(consumer, task)

    async def test_a_poison_event_parks_its_key_and_nothing_else(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, poisoned, healthy = new_id(), new_id(), new_id()
        poison = Poison(2, entity=poisoned)
        await bus.append(
            TOPIC, [make_event(n, organization=organization, entity=e) for n in range(5) for e in (poisoned, healthy)]
        )
        consumer, task = await self.consume(harness, bus, poison)

        async def dealt_with() -> bool:
            return (
                await bus.lag("beta.test") == {} and await count(database) + await count(database, "dead_letters") >= 10
            )

        await until(dealt_with)
        bad, good = f"{organization}/{poisoned}", f"{organization}/{healthy}"
        assert await effects(database) == {bad: [0, 1], good: [0, 1, 2, 3, 4]}
        letters = await dead(database, "beta.test")
        assert [(each.reason, each.key) for each in letters] == [("failed", bad), ("parked", bad), ("parked", bad)]
        assert "poison" in (letters[0].error or "")
        await bus.append(TOPIC, [make_event(5, organization=organization, entity=poisoned)])

        async def one_more() -> bool:
            return await count(database, "dead_letters") == 4

        await until(one_more)
        poison.sequences.clear()
        assert await redrive(database, "beta.test") == 4
        assert await consumer.redrive_requested() == 4
        await bus.append(TOPIC, [make_event(6, organization=organization, entity=poisoned)])

        async def complete() -> bool:
            return (await effects(database))[bad] == [0, 1, 2, 3, 4, 5, 6]

        await until(complete)
        assert await count(database, "dead_letters") == 0
        await self.end(consumer, task)

    async def test_an_entry_that_is_no_event_goes_to_the_dead_letters(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, entity = new_id(), new_id()
        key = f"{organization}/{entity}"
        await bus.append(TOPIC, [make_event(0, organization=organization, entity=entity)])
        await harness.append_unreadable(key)
        await bus.append(TOPIC, [make_event(1, organization=organization, entity=entity), make_event(7)])
        consumer, task = await self.consume(harness, bus, record)

        async def dealt_with() -> bool:
            return await count(database, "dead_letters") == 2 and await count(database) == 2

        await until(dealt_with)
        letters = await dead(database, "beta.test")
        assert [each.reason for each in letters] == ["invalid", "parked"]
        assert (await effects(database))[key] == [0]
        assert b"unreadable" in letters[0].body
        await self.end(consumer, task)

    async def test_an_event_that_is_too_new_waits_for_a_consumer_that_reads_it(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, entity, other = new_id(), new_id(), new_id()
        newer = {"dataschema": schema_uri("thing.changed", 2), "traceparent": TRACEPARENT}
        events = [make_event(n, organization=organization, entity=e) for n in range(4) for e in (entity, other)]
        events[2] = make_event(1, organization=organization, entity=entity, **newer)
        await bus.append(TOPIC, events)
        old = Consumer(database, bus, "beta.test", [TOPIC], record, understands={"thing.changed": 1})
        task = asyncio.create_task(old.run())

        async def dealt_with() -> bool:
            return await count(database, "inbox") == 8

        await until(dealt_with)
        await self.end(old, task)
        waiting = await dead(database, "beta.test")
        assert [(each.reason, each.trace_id) for each in waiting] == [
            ("unsupported", TRACEPARENT[3:35]), ("parked", None), ("parked", None),
        ]  # fmt: skip
        assert [CloudEvent.from_json(each.body) for each in waiting] == events[2::2]
        new = Consumer(database, bus, "beta.test", [TOPIC], record, understands={"thing.changed": 2})
        tasks = [asyncio.create_task(new.run()), asyncio.create_task(new.run_redrives())]
        await bus.append(TOPIC, [make_event(4, organization=organization, entity=entity)])

        async def complete() -> bool:
            return (await effects(database)).get(f"{organization}/{entity}") == [0, 1, 2, 3, 4]

        await until(complete)
        assert await count(database, "dead_letters") == 0
        tasks[1].cancel()
        await self.end(new, tasks[0])

    async def test_the_trace_goes_through(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        seen: list[str | None] = []

        async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
            seen.append(current_traceparent())

        consumer, task = await self.consume(harness, bus, handler)
        await bus.append(TOPIC, [make_event(traceparent=TRACEPARENT)])
        await until(lambda: bool(seen))
        assert seen == [TRACEPARENT]
        await self.end(consumer, task)
        assert await count(database) == 0

    async def test_outbox_to_effect(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, entity = new_id(), new_id()
        for n in range(30):
            await publish_all(database, organization, entity, [n])
        relay = Relay(database, bus, batch=7)
        consumer = Consumer(database, bus, "beta.test", [relay.topic], record)
        task = asyncio.create_task(consumer.run())
        while await relay.drain_once():
            pass

        async def complete() -> bool:
            return await count(database) >= 30

        await until(complete)
        assert await effects(database) == {f"{organization}/{entity}": list(range(30))}
        await self.end(consumer, task)
        await relay.stop()

    async def test_two_relays_at_once_double_nothing(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        one, two = Relay(database, bus, batch=5, lease_seconds=0.2), Relay(database, bus, batch=5, lease_seconds=0.2)
        organization = new_id()
        entities: list[UUID] = [new_id() for _ in range(4)]
        tasks = [asyncio.create_task(relay.run()) for relay in (one, two)]
        for n in range(20):
            for entity in entities:
                await publish_all(database, organization, entity, [n])
            if n % 5 == 0:
                await (one if one.active else two).stop()

        async def drained() -> bool:
            return await count(database, "outbox") == 0

        await until(drained)
        entries = [e async for e in bus.read([one.topic], "earliest", follow=False)]
        if not bus.features.atomic_relay:  # the fenced relay may have sent a batch it could not remove
            first = {e.event.id: e for e in reversed(entries) if e.event}
            entries = [e for e in entries if e.event and first[e.event.id] is e]
        assert numbers(entries) == {f"{organization}/{entity}": list(range(20)) for entity in entities}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def test_a_relay_killed_between_send_and_remove(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, entity = new_id(), new_id()
        await publish_all(database, organization, entity, range(10))
        sent = "relay.removed" if bus.features.atomic_relay else "relay.sent"

        def kill(point: str) -> None:
            if point == sent:
                raise Killed

        with monkeypatch.context() as fault:
            fault.setattr("shared.events.relay.buggify", kill)
            with pytest.raises(Killed):
                await Relay(database, bus, batch=6, lease_seconds=0.1).drain_once()
        heir = Relay(database, bus, batch=6)
        await asyncio.sleep(0.15)
        while await heir.drain_once():
            pass
        entries = [e async for e in bus.read([heir.topic], "earliest", follow=False)]
        assert len(entries) == (10 if bus.features.atomic_relay else 16)  # the killed one's batch may come twice
        consumer, task = await self.consume(harness, bus, record)

        async def complete() -> bool:
            return await count(database) >= 10 and await bus.lag("beta.test") == {}

        await until(complete)
        assert await effects(database) == {f"{organization}/{entity}": list(range(10))}
        await self.end(consumer, task)
        await heir.stop()

    async def test_events_sent_three_times_and_redelivered_have_one_effect(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        keys = [(new_id(), new_id()) for _ in range(3)]
        events = [make_event(n, organization=o, entity=e) for n in range(10) for o, e in keys]
        for batch in (events[:15], events, events[9:] + events):
            await bus.append(TOPIC, batch)
        consumer, task = await self.consume(harness, bus, record, run_size=7)

        async def caught_up() -> bool:
            return await count(database) >= 30 and await bus.lag("beta.test") == {}

        await until(caught_up)
        await bus.seek("beta.test", [TOPIC], "earliest")
        await until(caught_up)
        assert await effects(database) == {f"{o}/{e}": list(range(10)) for o, e in keys}
        await self.end(consumer, task)

    async def test_a_consumer_that_was_stopped_goes_on_where_it_was(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, entity = new_id(), new_id()
        for part in range(3):
            events = [make_event(part * 10 + n, organization=organization, entity=entity) for n in range(10)]
            consumer, task = await self.consume(harness, bus, record)
            await bus.append(TOPIC, events[:5])

            async def came(wanted: int = part * 10 + 5) -> bool:
                return await count(database) >= wanted

            await until(came)
            await self.end(consumer, task)
            await bus.append(TOPIC, events[5:])
        consumer, task = await self.consume(harness, bus, record)

        async def all_came() -> bool:
            return await count(database) >= 30

        await until(all_came)
        assert await effects(database) == {f"{organization}/{entity}": list(range(30))}
        await self.end(consumer, task)

    async def test_two_groups_have_their_effects_apart(self, harness: Harness) -> None:
        bus, database = await harness.bus(), await harness.database()
        organization, entity = new_id(), new_id()
        await bus.append(TOPIC, [make_event(n, organization=organization, entity=entity) for n in range(10)])
        fine, fine_task = await self.consume(harness, bus, record, group="beta.fine")
        hurt, hurt_task = await self.consume(harness, bus, Poison(3), group="beta.hurt")

        async def dealt_with() -> bool:
            return await count(database) + await count(database, "dead_letters") >= 20

        await until(dealt_with)
        assert len(await dead(database, "beta.hurt")) == 7
        assert await dead(database, "beta.fine") == []
        assert await count(database) == 13
        await self.end(fine, fine_task)
        await self.end(hurt, hurt_task)
