"""While a large batch is worked on the next one is read: nothing is passed over, whatever becomes of the first."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest

from shared.events.bus import Fenced, Received
from shared.events.kafka import KafkaBus
from shared.ids import new_id
from shared.settings import Settings
from tests.shared.events.support import TOPIC, make_event

GROUP = "beta.ahead"
COUNT = 3000
BATCH = 700


@pytest.fixture
async def bus(kafka_servers: str, kafka_prefix: str) -> AsyncIterator[KafkaBus]:
    """A topic with a backlog: 3000 events of 300 keys, ten of each in order."""
    values = {"kafka_bootstrap_servers": kafka_servers, "kafka_prefix": kafka_prefix}
    made = KafkaBus(Settings.model_validate({"environment": "test", **values}), "beta", beat_seconds=0.3)
    await made.start()
    keys = [{"organization": new_id(), "entity": new_id()} for _ in range(COUNT // 10)]
    for n in range(10):
        await made.append(TOPIC, [make_event(n, **key) for key in keys])
    yield made
    await made.stop()


def places(batch: Sequence[Received]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for each in batch:
        found[each.partition].append(each.position)
    return dict(found)


def is_in_order(batch: Sequence[Received]) -> bool:
    seen: dict[str, int] = {}
    for each in batch:
        assert each.event is not None
        if seen.get(each.key, -1) >= each.event.sequence:
            return False
        seen[each.key] = each.event.sequence
    return True


async def test_batch_after_batch_gives_each_entry_once_and_in_order(bus: KafkaBus) -> None:
    member = await bus.subscribe(GROUP, [TOPIC])
    got: list[Received] = []
    async with asyncio.timeout(30):
        while len(got) < COUNT:
            batch = await member.fetch(BATCH, 1.0)
            await asyncio.sleep(0.05)
            await member.commit(batch)
            got += batch
    assert len(got) == COUNT
    assert is_in_order(got)
    assert {partition: sorted(each) for partition, each in places(got).items()} == {
        partition: list(range(len(each))) for partition, each in places(got).items()
    }
    assert await member.fetch(BATCH, 0.1) == []
    assert await bus.lag(GROUP) == {}


@pytest.mark.parametrize("share", [0, 0.5], ids=["nothing", "half"])
async def test_what_is_not_committed_comes_again_before_what_was_read_ahead(bus: KafkaBus, share: float) -> None:
    member = await bus.subscribe(GROUP, [TOPIC])
    async with asyncio.timeout(30):
        while len(first := await member.fetch(BATCH, 1.0)) < BATCH:
            pass  # what has not arrived from the broker yet
        await asyncio.sleep(0.2)
        done = first[: int(len(first) * share)]
        if done:
            await member.commit(done)
        left = {(each.partition, each.position) for each in first[len(done) :]}
        got: list[Received] = []
        while len(got) < COUNT - len(done):
            batch = await member.fetch(BATCH, 1.0)
            await member.commit(batch)
            got += batch
    assert left <= {(each.partition, each.position) for each in got}
    assert len(got) == COUNT - len(done)
    assert is_in_order(got)


async def test_members_that_come_and_go_leave_nothing_out(bus: KafkaBus) -> None:
    done: set[UUID] = set()

    async def work(batches: int | None) -> None:
        member = await bus.subscribe(GROUP, [TOPIC])
        while len(done) < COUNT and batches != 0:
            batch = await member.fetch(BATCH, 0.3)
            await asyncio.sleep(0.05)
            try:
                await member.commit(batch)
            except Fenced:
                continue
            done.update(each.identity for each in batch)
            batches = None if batches is None else batches - 1
        await member.close()  # with the next batch half read

    async with asyncio.timeout(40):
        await asyncio.gather(work(1), work(None), work(2))
    assert len(done) == COUNT
    assert await bus.lag(GROUP) == {}
