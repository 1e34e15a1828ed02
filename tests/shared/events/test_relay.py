import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from shared.db import Database
from shared.events import Bus, Relay
from shared.events.lease import Lease
from shared.events.memory import MemoryBus
from shared.events.postgres import PostgresBus
from shared.ids import new_id
from tests.shared.events.support import count, publish_all, until

ProcessFactory = Callable[..., Awaitable[Database]]


async def entries(bus: Bus, topic: str) -> list[int]:
    return [e.event.sequence async for e in bus.read([topic], "earliest", follow=False) if e.event]


@pytest.fixture(params=["memory", "postgres"])
async def bus(request: pytest.FixtureRequest, process: ProcessFactory) -> Bus:
    return MemoryBus() if request.param == "memory" else PostgresBus(await process())


async def test_a_lease_has_one_holder_at_a_time(process: ProcessFactory) -> None:
    database = await process()
    one, two = Lease(database, "x", seconds=0.2), Lease(database, "x", seconds=0.2)
    assert await one.hold()
    assert not await two.hold()
    assert await one.hold()
    first = one.epoch
    assert first is not None
    await until(two.hold)
    assert two.epoch == first + 1
    await asyncio.sleep(0.1)
    assert not await one.hold()
    await two.release()
    assert not two.held
    assert await one.hold()


async def test_a_lease_is_renewed_while_it_is_used(process: ProcessFactory) -> None:
    database = await process()
    one, two = Lease(database, "x", seconds=0.3), Lease(database, "x", seconds=0.3)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.6
    assert await one.hold()
    while loop.time() < end:
        assert await one.hold()
        assert not await two.hold()
        await asyncio.sleep(0.02)


async def test_batches_go_in_order_and_leave_the_outbox(process: ProcessFactory, bus: Bus) -> None:
    database = await process()
    await publish_all(database, new_id(), new_id(), list(range(25)))
    relay = Relay(database, bus, batch=10)
    assert [await relay.drain_once() for _ in range(4)] == [10, 10, 5, 0]
    assert await entries(bus, relay.topic) == list(range(25))
    assert await count(database, "outbox") == 0
    assert await relay.oldest_unsent_seconds() == 0


async def test_a_standby_moves_nothing_until_the_active_relay_ends(process: ProcessFactory, bus: Bus) -> None:
    database, organization = await process(), new_id()
    active, standby = Relay(database, bus), Relay(database, bus)
    assert await active.drain_once() == 0
    await publish_all(database, organization, new_id(), [1])
    assert await standby.drain_once() == 0
    assert (active.active, standby.active) == (True, False)
    assert await standby.oldest_unsent_seconds() > 0
    await active.stop()
    assert await standby.drain_once() == 1


async def test_a_relay_that_was_paused_past_its_lease_is_fenced(process: ProcessFactory, bus: Bus) -> None:
    database, entity, organization = await process(), new_id(), new_id()
    paused = Relay(database, bus, lease_seconds=60)
    assert await paused.drain_once() == 0
    await database.pool.execute("UPDATE leases SET lease_until = '-infinity'")
    heir = Relay(database, bus, lease_seconds=60)
    await publish_all(database, organization, entity, [0, 1])
    assert await heir.drain_once() == 2
    await publish_all(database, organization, entity, [2])
    # The paused one still believes in its lease; what it does is refused by the epoch.
    assert paused.lease.epoch is not None
    assert await paused.drain_once() == 0
    assert [paused.active, heir.active] == [False, True]
    assert await count(database, "outbox") == 1
    assert await heir.drain_once() == 1
    log = await entries(bus, heir.topic)
    assert list(dict.fromkeys(log)) == [0, 1, 2]
    if bus.features.atomic_relay:
        assert log == [0, 1, 2]


@pytest.mark.parametrize("stopped", ["monotonic", "time"])
async def test_a_relay_that_wakes_behind_its_lease_appends_nothing(
    process: ProcessFactory, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    """Paused between its look at the lease and the append; one of the clocks may have stood still meanwhile."""
    database, entity, organization, bus = await process(), new_id(), new_id(), MemoryBus()
    paused = Relay(database, bus, lease_seconds=60)
    await publish_all(database, organization, entity, [0])
    heir = Relay(database, bus, lease_seconds=60)

    def sleep(point: str) -> None:
        if point == "relay.read":
            running = {"monotonic": "time", "time": "monotonic"}[stopped]
            now = getattr(time, running)() + 61
            monkeypatch.setattr(f"shared.events.lease.time.{running}", lambda: now)

    with monkeypatch.context() as fault:
        fault.setattr("shared.events.relay.buggify", sleep)
        assert await paused.drain_once() == 0
    monkeypatch.undo()
    assert await entries(bus, paused.topic) == []
    assert not paused.active
    await database.pool.execute("UPDATE leases SET lease_until = '-infinity'")
    assert await heir.drain_once() == 1
    assert await entries(bus, paused.topic) == [0]


async def test_a_crashed_relay_is_replaced_within_its_lease(process: ProcessFactory, bus: Bus) -> None:
    database = await process()
    crashed = Relay(database, bus, lease_seconds=1.0)
    await crashed.drain_once()
    standby = Relay(database, bus, lease_seconds=1.0)
    task = asyncio.create_task(standby.run())
    await publish_all(database, new_id(), new_id(), [1])

    async def drained() -> bool:
        return await count(database, "outbox") == 0

    await until(drained, 5.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_commit_wakes_the_relay_before_its_next_poll(process: ProcessFactory) -> None:
    database = await process()
    relay = Relay(database, PostgresBus(database))
    task = asyncio.create_task(relay.run())
    await until(lambda: relay.active)
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    await publish_all(database, new_id(), new_id(), [1])

    async def drained() -> bool:
        return await count(database, "outbox") == 0

    await until(drained)
    assert asyncio.get_running_loop().time() - began < 0.8
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_concurrent_writers_lose_nothing_and_positions_have_no_gaps(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    bus = PostgresBus(database)
    relay = Relay(database, bus, batch=17)
    entities = [new_id() for _ in range(4)]

    async def writer(entity: object) -> None:
        for n in range(40):
            await publish_all(database, organization, entity, [n])  # type: ignore[arg-type]

    task = asyncio.create_task(relay.run())
    await asyncio.gather(*(writer(entity) for entity in entities))

    async def drained() -> bool:
        return await count(database, "outbox") == 0

    await until(drained)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    found: dict[str, list[int]] = {}
    positions: dict[int, list[int]] = {}
    async for entry in bus.read([relay.topic], "earliest", follow=False):
        assert entry.event is not None
        found.setdefault(entry.key, []).append(entry.event.sequence)
        positions.setdefault(entry.partition, []).append(entry.position)
    assert found == {f"{organization}/{entity}": list(range(40)) for entity in entities}
    assert all(sorted(each) == list(range(len(each))) for each in positions.values())
