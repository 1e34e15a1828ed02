"""What every bus does. A test module subclasses ``BusConformance`` and brings a ``harness`` fixture.

``BusFeatures`` declares where a bus may differ; a test that depends on a difference says so by name.
"""

import asyncio
import contextlib
from dataclasses import fields
from datetime import timedelta
from uuid import UUID

import pytest

from shared import clock
from shared.events import MAX_EVENT_BYTES, Fenced, Subscription
from shared.ids import new_id
from tests.shared.events.consumer_conformance import ConsumerConformance
from tests.shared.events.harness import Harness, numbers, take
from tests.shared.events.support import TOPIC, TRACEPARENT, make_event, until


class BusConformance(ConsumerConformance):
    async def test_what_is_appended_is_received_unchanged(self, harness: Harness) -> None:
        bus = await harness.bus()
        sent = make_event(
            3, traceparent=TRACEPARENT, tracestate="a=1,b=2", correlationid="c", causationid="d", authtype="user",
            authid="Zoë", dataregion="eu", data={"text": "ü\u2028\U0001f30d", "list": [1, 2.5, None, True, {}]},
        )  # fmt: skip
        assert all(getattr(sent, each.name) is not None for each in fields(sent))
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

    async def test_the_largest_events(self, harness: Harness) -> None:
        bus = await harness.bus()
        key = {"organization": new_id(), "entity": new_id()}
        room = MAX_EVENT_BYTES - len(make_event(0, data={"text": ""}, **key).to_json())
        big = [make_event(n, data={"text": "x" * room}, **key) for n in range(4)]
        assert len(big[0].to_json()) == MAX_EVENT_BYTES
        small = make_event(4, **key)
        await bus.append(TOPIC, [*big, small])
        member = await bus.subscribe("beta.a", [TOPIC])
        assert [e.event for e in await take(member, 5)] == [*big, small]
        await member.close()

    async def test_a_member_joins_and_leaves_during_work(self, harness: Harness) -> None:
        one, two = await harness.bus(), await harness.bus()
        keys = [(new_id(), new_id()) for _ in range(30)]
        seen: dict[str, list[int]] = {f"{o}/{e}": [] for o, e in keys}
        worked = {"first": 0, "second": 0}
        stopped: set[str] = set()
        sent = 0

        async def work(name: str, member: Subscription) -> None:
            while name not in stopped:
                batch = await member.fetch(40, 0.05)
                for each in batch:
                    assert each.event is not None
                    if each.event.sequence not in seen[each.key]:  # a change of hands repeats what was not committed
                        seen[each.key].append(each.event.sequence)
                        worked[name] += 1
                with contextlib.suppress(Fenced):
                    await member.commit(batch)

        async def publish_one_of_each() -> bool:
            nonlocal sent
            await one.append(TOPIC, [make_event(sent, organization=o, entity=e) for o, e in keys])
            sent += 1
            return worked["second"] > 0

        first = await one.subscribe("beta.a", [TOPIC])
        tasks = [asyncio.create_task(work("first", first))]
        for _ in range(5):
            await publish_one_of_each()
        second = await two.subscribe("beta.a", [TOPIC])
        tasks.append(asyncio.create_task(work("second", second)))
        await until(publish_one_of_each)
        stopped.add("second")
        await tasks[1]
        await second.close()
        for _ in range(5):
            await publish_one_of_each()
        await until(lambda: all(len(found) == sent for found in seen.values()), 15)
        assert seen == {f"{o}/{e}": list(range(sent)) for o, e in keys}
        assert worked["first"] > 0
        stopped.add("first")
        await tasks[0]
        await first.close()

    async def test_a_member_that_did_not_commit_gets_the_same_again(self, harness: Harness) -> None:
        bus = await harness.bus()
        await bus.append(TOPIC, [make_event(n) for n in range(20)])
        member = await bus.subscribe("beta.a", [TOPIC])
        first = {e.event.id for e in await member.fetch(8, 2.0) if e.event}
        assert len(await take(member, 20)) == 20
        assert first
        await bus.append(TOPIC, [make_event(n) for n in range(3)])
        assert len(await take(member, 3)) == 3
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
        if not bus.features.prunes:  # the log's own retention does
            await take(member, 10)
            assert await bus.prune(TOPIC, later) == 0
            await member.close()
            return
        await take(member, 10)
        await bus.append(TOPIC, [make_event(n) for n in range(3)])
        assert await bus.prune(TOPIC, later) == 10
        await bus.seek("beta.a", [TOPIC], "earliest")
        assert sum((await bus.lag("beta.a")).values()) == 3
        assert len(await take(member, 3)) == 3
        await member.close()

    async def test_the_oldest_entry_tells_since_when_it_is_there(self, harness: Harness) -> None:
        bus = await harness.bus()
        assert await bus.oldest([TOPIC]) is None
        began = clock.now()
        await bus.append(TOPIC, [make_event(n) for n in range(20)])
        then = await bus.oldest([TOPIC])
        assert then is not None
        assert abs(then - began) < timedelta(seconds=5)
        await bus.append(TOPIC, [make_event(n) for n in range(20)])
        assert await bus.oldest([TOPIC]) == then
        assert await bus.oldest(["guardian.alpha.events"]) is None
