"""What every bus does. A test module subclasses ``BusConformance`` and brings a ``harness`` fixture.

``BusFeatures`` declares where a bus may differ; a test that depends on a difference says so by name.
"""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from shared import clock
from shared.events import Fenced
from shared.ids import new_id
from tests.shared.events.consumer_conformance import ConsumerConformance
from tests.shared.events.harness import Harness, numbers, take
from tests.shared.events.support import TOPIC, TRACEPARENT, make_event, until


class BusConformance(ConsumerConformance):
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
            await one.append(TOPIC, [make_event() for _ in range(200)])  # 12 partitions: some in each, surely
            for name, member in (("first", first), ("second", second)):
                batch = await member.fetch(1000, 0.1)
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
