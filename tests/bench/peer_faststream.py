"""The peer on Kafka: a FastStream subscriber whose handler makes the same audit entry, then acknowledges.

``single`` takes one message at a time and commits its offset after the effect; several members of the group
work side by side within the process, as FastStream offers it for manual acknowledgement. ``batch`` takes
batches and commits once for each. The effect is at least once; the entry's primary key absorbs repeats, so
that the peer needs no inbox. The settings are the fastest of those tried on two cores.
"""

import sys
from datetime import date
from itertools import groupby
from typing import Any

import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

from services.audit import domain, jobs, service
from shared import clock
from shared.db import Database
from shared.events.envelope import CloudEvent
from shared.settings import Settings

MEMBERS = 4
RECORDS = 500
_COMMON: dict[str, Any] = {
    "ack_policy": AckPolicy.MANUAL,
    "auto_offset_reset": "earliest",
    "session_timeout_ms": 45_000,
}


class Audit:
    """The effect: entries of one organisation in one transaction."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database.for_service(settings.model_copy(update={"database_pool_size": 16}), "audit")
        self._months: set[date] = set()

    async def open(self) -> None:
        """Connect, and make this month's partition."""
        await self.database.open()
        await jobs.partitions(self.database).run()
        month = domain.month_of(clock.now())
        self._months = {domain.month_after(month, step) for step in range(-1, domain.MONTHS_AHEAD)}

    async def record(self, events: list[CloudEvent]) -> None:
        """Store the entries of events of one organisation."""
        async with self.database.transaction(events[0].organization_id) as session:
            await service.record(session, events, self._months)


def _event(record: Any) -> CloudEvent:
    return CloudEvent.from_binary(record.headers, record.value)


def _single(broker: KafkaBroker, topic: str, audit: Audit) -> None:
    async def record(body: bytes, message: KafkaMessage) -> None:
        await audit.record([_event(message.raw_message)])
        await message.ack()

    broker.subscriber(topic, group_id="peer.single", max_workers=MEMBERS, **_COMMON)(record)


def _batch(broker: KafkaBroker, topic: str, audit: Audit) -> None:
    async def record(bodies: list[bytes], message: KafkaMessage) -> None:
        raw: Any = message.raw_message
        events = sorted((_event(each) for each in raw), key=lambda event: event.organization_id)
        for _, run in groupby(events, key=lambda event: event.organization_id):
            await audit.record(list(run))
        await message.ack()

    broker.subscriber(topic, group_id="peer.batch", batch=True, max_records=RECORDS, **_COMMON)(record)


async def _main(mode: str, topic: str) -> None:
    settings = Settings()
    assert settings.kafka_bootstrap_servers is not None
    audit = Audit(settings)
    await audit.open()
    broker = KafkaBroker(settings.kafka_bootstrap_servers, decoder=lambda message: message.body, logger=None)
    {"single": _single, "batch": _batch}[mode](broker, topic, audit)
    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:3]))
