"""What every bus does. A test module subclasses ``BusConformance`` and brings a ``harness`` fixture.

``BusFeatures`` declares where a bus may differ; a test that depends on a difference says so by name.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import pytest

from shared import clock
from shared.db import Database, Session
from shared.events import Bus, CloudEvent, Consumer, Fenced, Received, Relay, Subscription, Tuning
from shared.events.consumer import Handler
from shared.events.deadletters import dead, redrive
from shared.ids import new_id
from shared.logs import current_traceparent
from tests.shared.events.support import (
    TOPIC,
    TRACEPARENT,
    count,
    effects,
    make_event,
    publish_all,
    record,
    until,
)


class Harness(Protocol):
    async def bus(self) -> Bus:
        """The started bus as one more process sees it."""

    async def lose(self, bus: Bus, member: Subscription) -> None:
        """The process of ``member`` stops without a word, and is noticed as this bus notices it."""

    async def append_unreadable(self, key: str) -> None:
        """An entry that is no CloudEvent, under ``key``."""

    async def database(self) -> Database:
        """The consuming service's database."""


async def take(member: Subscription, wanted: int, *, limit: int = 100, seconds: float = 10.0) -> list[Received]:
    """Fetch and commit until ``wanted`` entries came."""
    got: list[Received] = []
    deadline = asyncio.get_running_loop().time() + seconds
    while len(got) < wanted:
        assert asyncio.get_running_loop().time() < deadline, f"{len(got)} of {wanted} entries came"
        batch = await member.fetch(limit, 0.2)
        got += batch
        if batch:
            await member.commit(batch)
    return got


def numbers(received: Sequence[Received]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for each in received:
        assert each.event is not None
        found.setdefault(each.key, []).append(each.event.sequence)
    return found


class BusConformance:
    async def test_what_is_appended_is_received_unchanged(self, harness: Harness) -> None:
        bus = await harness.bus()
        sent = make_event(3, traceparent=TRACEPARENT, correlationid="c", causationid="d", authid="me", dataregion="eu")
        await bus.append(TOPIC, [sent])
        member = await bus.subscribe("beta.a", [TOPIC])
        (got,) = await take(member, 1)
        assert got.event == sent
        assert got.key == sent.partitionkey
        await member.close()

    async def test_a_key_keeps_its_order(self, harness: Harness) -> None:
        bus = await harness.bus()
        member = await bus.subscribe("beta.a", [TOPIC])
        keys = [(new_id(), new_id()) for _ in range(20)]
        for n in range(10):
            await bus.append(TOPIC, [make_event(n, organization=o, entity=e) for o, e in keys])
        got = await take(member, 200, limit=37)
        assert numbers(got) == {f"{o}/{e}": list(range(10)) for o, e in keys}
        assert len({each.partition for each in got}) > 1
        await member.close()

    async def test_two_groups_each_see_everything(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(20)])
        for group in ("beta.a", "beta.b"):
            member = await bus.subscribe(group, [TOPIC])
            assert len(await take(member, 20)) == 20
            await member.close()

    async def test_two_members_share_the_partitions(self, harness: Harness) -> None:
        one, two = await harness.bus(), await harness.bus()
        first = await one.subscribe("beta.a", [TOPIC])
        second = await two.subscribe("beta.a", [TOPIC])
        ids: set[UUID] = set()
        seen: dict[str, set[int]] = {"first": set(), "second": set()}

        async def both_worked() -> bool:
            await one.append(TOPIC, [make_event() for _ in range(48)])
            for name, member in (("first", first), ("second", second)):
                batch = await member.fetch(200, 0.1)
                if batch:
                    await member.commit(batch)
                ids.update(each.event.id for each in batch if each.event)
                seen[name] = {each.partition for each in batch}
            return bool(seen["first"]) and bool(seen["second"]) and not seen["first"] & seen["second"]

        await until(both_worked)
        assert len(seen["first"] | seen["second"]) == 12
        await first.close()
        await second.close()

    async def test_what_was_not_committed_comes_again(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        member = await bus.subscribe("beta.a", [TOPIC])
        crashed = await member.fetch(100, 2.0)
        await member.close()
        again = await bus.subscribe("beta.a", [TOPIC])
        assert {e.position for e in await take(again, 5)} == {e.position for e in crashed}
        await again.close()

    async def test_what_was_committed_does_not_come_again(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        member = await bus.subscribe("beta.a", [TOPIC])
        await take(member, 5)
        await member.close()
        again = await bus.subscribe("beta.a", [TOPIC])
        late = make_event(9)
        await bus.append(TOPIC, [late])
        assert [e.event for e in await take(again, 1)] == [late]
        await again.close()

    async def test_a_group_that_starts_at_the_latest_misses_the_past(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        member = await bus.subscribe("beta.a", [TOPIC], start="latest")
        late = make_event(9)
        await bus.append(TOPIC, [late])
        assert [e.event for e in await take(member, 1)] == [late]
        await member.close()

    async def test_replay_from_zero_and_from_a_time(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(10)])
        await asyncio.sleep(0.05)  # the log keeps times of its own clock
        middle = clock.now()
        await asyncio.sleep(0.05)
        await bus.append(TOPIC, [make_event(n) for n in range(10, 15)])
        member = await bus.subscribe("beta.a", [TOPIC])
        await take(member, 15)
        await bus.seek("beta.a", [TOPIC], middle)
        assert sorted(n for ns in numbers(await take(member, 5)).values() for n in ns) == list(range(10, 15))
        await bus.seek("beta.a", [TOPIC], "earliest")
        assert len(await take(member, 15)) == 15
        await bus.seek("beta.a", [TOPIC], "latest")
        assert await member.fetch(100, 0.1) == []
        await member.close()

    async def test_a_seek_fences_what_is_in_flight(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        member = await bus.subscribe("beta.a", [TOPIC])
        batch = await member.fetch(100, 2.0)
        await bus.seek("beta.a", [TOPIC], "earliest")
        with pytest.raises(Fenced):
            await member.commit(batch)
        assert len(await take(member, 5)) == 5
        await member.close()

    async def test_a_lost_member_is_replaced(self, harness: Harness) -> None:
        one, two = await harness.bus(), await harness.bus()
        lost = await one.subscribe("beta.a", [TOPIC])
        await one.append(TOPIC, [make_event(n) for n in range(40)])
        held = await lost.fetch(100, 2.0)
        heir = await two.subscribe("beta.a", [TOPIC])
        await harness.lose(one, lost)
        began = asyncio.get_running_loop().time()
        assert len(await take(heir, 40, seconds=10)) == 40
        assert asyncio.get_running_loop().time() - began < 10
        with pytest.raises(Fenced):
            await lost.commit(held)
        await heir.close()

    async def test_an_event_of_64_kib(self, harness: Harness) -> None:
        bus = await harness.bus()
        big = make_event(1, data={"text": "ü" * 32_768})
        await bus.append(TOPIC, [big])
        member = await bus.subscribe("beta.a", [TOPIC])
        assert [e.event for e in await take(member, 1)] == [big]
        await member.close()

    async def test_close_while_another_task_waits_for_events(self, harness: Harness) -> None:
        bus = await harness.bus()
        member = await bus.subscribe("beta.a", [TOPIC])
        waiting = asyncio.create_task(member.fetch(10, 0.5))
        await asyncio.sleep(0)
        await member.close()
        assert await waiting == []
        await bus.append(TOPIC, [make_event()])
        assert await member.fetch(10, 0.1) == []

    async def test_a_waiting_member_hears_of_an_event_at_once(self, harness: Harness) -> None:
        bus = await harness.bus()
        member = await bus.subscribe("beta.a", [TOPIC])
        waiting = asyncio.create_task(member.fetch(10, 5.0))
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        await bus.append(TOPIC, [make_event()])
        assert len(await waiting) == 1
        assert asyncio.get_running_loop().time() - began < 0.9  # sooner than the next poll
        await member.close()

    async def test_lag_counts_what_is_not_committed(self, harness: Harness) -> None:
        bus = await harness.bus()
        member = await bus.subscribe("beta.a", [TOPIC])
        await bus.append(TOPIC, [make_event(n) for n in range(30)])
        await member.fetch(100, 2.0)
        assert sum((await bus.lag("beta.a")).values()) == 30
        await take(member, 30)
        assert await bus.lag("beta.a") == {}
        await member.close()

    async def test_a_slow_consumer_is_handed_no_more_than_it_asks_for(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(300)])
        member = await bus.subscribe("beta.a", [TOPIC])
        batch = await member.fetch(7, 2.0)
        assert 0 < len(batch) <= 7
        await member.commit(batch)
        assert sum((await bus.lag("beta.a")).values()) == 300 - len(batch)
        await take(member, 300 - len(batch), limit=50)
        await member.close()

    async def test_reading_without_a_group(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        assert len([e async for e in bus.read([TOPIC], "earliest", follow=False)]) == 5
        assert [e async for e in bus.read([TOPIC], "latest", follow=False)] == []
        assert [e async for e in bus.read([TOPIC], clock.now() + timedelta(hours=1), follow=False)] == []
        assert await bus.lag("beta.a") == {}

    async def test_pruning_keeps_what_a_group_has_not_seen(self, harness: Harness) -> None:
        bus = await harness.bus()
        member = await bus.subscribe("beta.a", [TOPIC])
        await bus.append(TOPIC, [make_event(n) for n in range(10)])
        later = clock.now() + timedelta(hours=1)
        assert await bus.prune(TOPIC, later) == 0
        await take(member, 10)
        await bus.append(TOPIC, [make_event(n) for n in range(3)])
        assert await bus.prune(TOPIC, later) == 10
        await bus.seek("beta.a", [TOPIC], "earliest")
        assert sum((await bus.lag("beta.a")).values()) == 3
        assert len(await take(member, 3)) == 3
        await member.close()

    # --- the consumer on this bus -------------------------------------------------------------

    async def consume(
        self, harness: Harness, bus: Bus, handler: Handler, run_size: int = 100
    ) -> tuple[Consumer, asyncio.Task[None]]:
        consumer = Consumer(
            await harness.database(), bus, "beta.test", [TOPIC], handler,
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
        cured = False

        async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
            if not cured and any(e.subject == poisoned and e.sequence == 2 for e in events):
                raise ZeroDivisionError("poison")
            await record(session, events)

        await bus.append(
            TOPIC, [make_event(n, organization=organization, entity=e) for n in range(5) for e in (poisoned, healthy)]
        )
        consumer, task = await self.consume(harness, bus, handler)

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
        cured = True
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
