import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.db import Database
from shared.events import Bus, Received
from shared.events.memory import MemoryBus
from shared.events.postgres import PostgresBus
from shared.events.watch import lag, replay, tail
from shared.ids import new_id
from tests.shared.events.support import TOPIC, make_event

ProcessFactory = Callable[..., Awaitable[Database]]


@pytest.fixture(params=["memory", "postgres"])
async def bus(request: pytest.FixtureRequest, process: ProcessFactory) -> Bus:
    return MemoryBus() if request.param == "memory" else PostgresBus(await process("beta"))


async def collect(entries: AsyncIterator[Received]) -> list[int]:
    return sorted([each.event.sequence if each.event else -1 async for each in entries])


async def test_filters(bus: Bus) -> None:
    one, two, entity = new_id(), new_id(), new_id()
    await bus.append(
        TOPIC,
        [
            make_event(1, organization=one, type="thing.made"),
            make_event(2, organization=one, entity=entity),
            make_event(3, organization=two, type="thing.made"),
        ],
    )
    if isinstance(bus, MemoryBus):
        await bus.append_raw(TOPIC, f"{one}/x", b"{", "not JSON")
        assert await collect(tail(bus, [TOPIC], since="earliest", follow=False, organization_id=one)) == [-1, 1, 2]
    assert await collect(tail(bus, [TOPIC], since="earliest", follow=False, organization_id=two)) == [3]
    assert await collect(tail(bus, [TOPIC], since="earliest", follow=False, types=["thing.made"])) == [1, 3]
    assert await collect(tail(bus, [TOPIC], since="earliest", follow=False, subject=entity)) == [2]
    assert await collect(tail(bus, [TOPIC], since="latest", follow=False)) == []


async def test_following_shows_new_entries_as_they_come(bus: Bus) -> None:
    await bus.append(TOPIC, [make_event(1)])
    entries = tail(bus, [TOPIC])
    first = asyncio.ensure_future(anext(entries))
    await asyncio.sleep(0.1)
    await bus.append(TOPIC, [make_event(2)])
    got = await asyncio.wait_for(first, 5)
    assert got.event is not None
    assert got.event.sequence == 2
    assert got.recorded_at is not None
    await entries.aclose()  # type: ignore[attr-defined]


async def test_lag_and_replay(bus: Bus) -> None:
    member = await bus.subscribe("beta.a", [TOPIC])
    await bus.append(TOPIC, [make_event(n) for n in range(5)])
    assert await lag(bus, ["beta.a", "beta.b"]) == {"beta.a": 5, "beta.b": 0}
    got = list(await member.fetch(100, 1.0))
    await member.commit(got)
    assert await lag(bus, ["beta.a"]) == {"beta.a": 0}
    assert await replay(bus, "beta.a", [TOPIC]) == 5
    await member.close()
