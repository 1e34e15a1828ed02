"""Records that anybody who may write to a topic can put there, and that must stop nobody."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import decode_varint_py as decode_varint

from shared.db import Database
from shared.events import CloudEvent, Consumer
from shared.events.deadletters import dead
from shared.events.kafka import KafkaBus
from shared.events.kafka.records import received
from shared.events.partition import partition_of
from shared.ids import new_id
from shared.settings import Settings
from tests.shared.events.harness import take
from tests.shared.events.support import TOPIC, count, effects, make_event, record, until

ProcessFactory = Callable[..., Awaitable[Database]]


class NoText(str):
    """A header's name that is no UTF-8 on the wire."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


async def write_raw(
    servers: str,
    topic: str,
    partition: int,
    events: Sequence[CloudEvent],
    write: Callable[[Any, int, CloudEvent], None],
    *,
    codec: int = 0,
) -> None:
    """One batch of a producer that is not ours; ``write`` puts an event into it as the record of an offset."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as plain:
        made = plain.create_batch()
        made._builder = _DefaultRecordBatchBuilderPy(2, codec, False, -1, -1, -1, 1_000_000)
        for offset, event in enumerate(events):
            write(made._builder, offset, event)
            made._relative_offset += 1
        await (await plain.send_batch(made, topic, partition=partition))


def settings_of(servers: str, prefix: str) -> Settings:
    return Settings(environment="test", kafka_bootstrap_servers=servers, kafka_prefix=prefix)


async def test_an_event_that_cannot_be_read_keeps_its_own_key_in_order_and_nobody_elses(
    kafka_servers: str, kafka_prefix: str, process: ProcessFactory
) -> None:
    database = await process("beta")
    bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
    await bus.start()
    victim, real, other = make_event(0), make_event(0), make_event(0)
    key, topic = victim.partitionkey.encode(), f"{kafka_prefix}.beta.events"
    headers, value = victim.to_binary()
    forged, _ = make_event(partitionkey=victim.partitionkey).to_binary()
    async with AIOKafkaProducer(bootstrap_servers=kafka_servers) as plain:

        async def write(key: bytes, body: bytes | None, fields: list[tuple[str, bytes]], of: bytes = key) -> None:
            await plain.send_and_wait(
                await bus._topics.ensure(TOPIC), body, key=key, headers=fields, partition=partition_of(of.decode())
            )

        await write(key, None, [])  # a tombstone
        await write(key, b"garbage", [])
        await write(key, value, forged)  # an organisation that is not the key's
        await write(b"other key", None, headers)
        mine = real.partitionkey.encode()
        await write(mine, b"{bad", real.to_binary()[0], mine)
        await write(mine, value, [(n, b"?" if n == "ce_time" else v) for n, v in real.to_binary()[0]], mine)
    same = {"organization": real.organization_id, "entity": real.subject}
    await bus.append(TOPIC, [victim, make_event(1, **same), other])
    consumer = Consumer(database, bus, "beta.test", [TOPIC], record)
    task = asyncio.create_task(consumer.run())

    async def all_dealt_with() -> bool:
        return await count(database, "inbox") == 9

    await until(all_dealt_with)
    assert topic
    assert await effects(database) == {victim.partitionkey: [0], other.partitionkey: [0]}
    letters = await dead(database, "beta.test")
    parking = [each.reason for each in letters if each.key == real.partitionkey]
    assert parking == ["invalid", "parked", "parked"]
    strangers = [each for each in letters if each.key != real.partitionkey]
    assert [each.reason for each in strangers] == ["invalid"] * 4
    assert all(each.key.startswith(f"unreadable:{TOPIC}/") for each in strangers)
    consumer.stop()
    await asyncio.wait_for(task, 5)
    await bus.stop()


async def test_what_can_be_read_and_not_be_written_is_refused(
    kafka_servers: str, kafka_prefix: str, process: ProcessFactory
) -> None:
    database = await process("beta")
    bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
    await bus.start()
    deep, early, good = (make_event(n) for n in range(3))
    early_headers = [
        (name, b"0001-01-01T00:00:00+14:00" if name == "ce_time" else each) for name, each in early.to_binary()[0]
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka_servers) as plain:
        topic, nested = await bus._topics.ensure(TOPIC), b'{"x":' * 400 + b"1" + b"}" * 400
        for event, headers, body in ((deep, deep.to_binary()[0], nested), (early, early_headers, b"{}")):
            await plain.send_and_wait(topic, body, key=event.partitionkey.encode(), headers=headers, partition=0)
    await bus.append(TOPIC, [good])
    consumer = Consumer(database, bus, "beta.test", [TOPIC], record)
    task = asyncio.create_task(consumer.run())

    async def all_dealt_with() -> bool:
        return await count(database, "inbox") == 3 and await bus.lag("beta.test") == {}

    await until(all_dealt_with)
    assert {(each.key, each.reason) for each in await dead(database, "beta.test")} == {
        (deep.partitionkey, "invalid"), (early.partitionkey, "invalid"),
    }  # fmt: skip
    consumer.stop()
    await asyncio.wait_for(task, 5)
    await bus.stop()


@pytest.mark.parametrize("codec", [0, 1], ids=["plain", "gzip"])
async def test_a_header_whose_name_is_no_text_stops_nobody(kafka_servers: str, kafka_prefix: str, codec: int) -> None:
    bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
    await bus.start()
    topic = await bus._topics.ensure(TOPIC)
    same = {"organization": new_id(), "entity": new_id()}
    sent = [make_event(n, **same) for n in range(9)]
    place = partition_of(sent[0].partitionkey)
    await bus.append(TOPIC, [sent[0], *(make_event() for _ in range(50))])

    def with_a_name_that_is_no_text(builder: Any, offset: int, event: CloudEvent) -> None:
        headers, value = event.to_binary()
        odd = [(NoText("x"), b"1")] if event.sequence in (2, 3, 5) else []
        key = event.partitionkey.encode()
        builder.append(offset, 1000, key, b"{bad" if offset == 2 else value, [*headers, *odd])

    for batch in (sent[1:5], sent[5:8]):
        await write_raw(kafka_servers, topic, place, batch, with_a_name_that_is_no_text, codec=codec)
    await bus.append(TOPIC, sent[8:])
    member = await bus.subscribe("beta.a", [TOPIC])
    for got in (
        await take(member, 59, limit=2),
        [each async for each in bus.read([TOPIC], "earliest", follow=False)],
    ):
        mine = [each for each in got if each.key == sent[0].partitionkey]
        wanted = [None if n in (3, 7) else event for n, event in enumerate(sent)]
        assert [each.event for each in mine] == wanted
        assert [each.position for each in mine] == sorted({each.position for each in mine})
        assert len(got) == 59
    assert await bus.lag("beta.a") == {}
    await bus.stop()


@pytest.mark.parametrize("key", [b"", b"k" * 40, None], ids=["no key", "an offset ahead", "its own key"])
async def test_a_record_with_attributes_stops_nobody_and_hides_nobody(
    kafka_servers: str, kafka_prefix: str, key: bytes | None
) -> None:
    """Kafka passes any attributes on; aiokafka takes what follows them for other fields than it is."""
    bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
    await bus.start()
    topic = await bus._topics.ensure(TOPIC)
    same = {"organization": new_id(), "entity": new_id()}
    sent = [make_event(n, **same) for n in range(60)]
    place = partition_of(sent[0].partitionkey)
    await bus.append(TOPIC, sent[:3])

    def with_attributes(builder: Any, offset: int, event: CloudEvent) -> None:
        headers, value = event.to_binary()
        begin, odd = len(builder._buffer), event.sequence == 4
        builder.append(offset, 1000, event.partitionkey.encode() if key is None or not odd else key, value, headers)
        if odd:
            _, attributes = decode_varint(builder._buffer, begin)
            builder._buffer[attributes] = 0x80

    await write_raw(kafka_servers, topic, place, sent[3:6], with_attributes)
    await bus.append(TOPIC, sent[6:])
    member = await bus.subscribe("beta.a", [TOPIC])
    for got in (
        await take(member, 60, limit=2),
        [each async for each in bus.read([TOPIC], "earliest", follow=False)],
    ):
        assert [each.event for each in got] == sent
        assert [each.position for each in got] == list(range(60))
    assert await bus.lag("beta.a") == {}
    await bus.stop()


@pytest.mark.parametrize("milliseconds", [-80_000_000_000_000, 400_000_000_000_000, -(2**63), 2**63 - 1])
def test_a_record_of_an_impossible_time_is_read(milliseconds: int) -> None:
    class Record:
        event = make_event()
        headers, value = event.to_binary()
        partition, offset, key, timestamp = 0, 1, b"", milliseconds

    got = received(TOPIC, Record)
    assert (got.event, got.recorded_at) == (Record.event, None)
