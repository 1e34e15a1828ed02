"""``KafkaBus``: the ``Bus`` protocol on a Kafka cluster.

``start`` opens nothing: each connection is made when it is first needed, so a broker that is away keeps
nothing from starting. What needs the broker raises ``BusAway`` within seconds while it is away; members
of groups wait for it and go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.protocol.metadata import MetadataRequest

from shared import clock
from shared.events.bus import BusAway, BusFeatures, Moment, Partition, Received
from shared.events.envelope import CloudEvent, Sealed
from shared.events.kafka.cluster import CALL_SECONDS, EARLIEST, LATEST, Cluster, connection
from shared.events.kafka.disposal import dispose
from shared.events.kafka.lenient import getmany
from shared.events.kafka.member import BEAT_SECONDS, SESSION_SECONDS, Member, consumer_options
from shared.events.kafka.mover import move
from shared.events.kafka.producer import Producer
from shared.events.kafka.records import received
from shared.events.kafka.topics import Topics
from shared.events.partition import PARTITIONS, partition_of
from shared.settings import Settings

_SUBSCRIBE_SECONDS = 20.0
_READ_SECONDS = 0.5


class KafkaBus:
    """The log on Kafka, as one service's process uses it."""

    def __init__(self, settings: Settings, service: str, *, beat_seconds: float = BEAT_SECONDS) -> None:
        self.features = BusFeatures(
            "kafka", atomic_relay=False, takeover_seconds=SESSION_SECONDS + beat_seconds + 1, prunes=False
        )
        self._options = connection(settings, f"guardian-{service}")
        self._consuming = consumer_options(self._options, beat_seconds)
        self._cluster = Cluster(self._options)
        self._topics = Topics(self._cluster, settings.kafka_prefix, settings.event_retention_days)
        self._producer = Producer(self._options, self._cluster, self._topics)
        self._members: set[Member] = set()
        self._users = 0

    async def start(self) -> None:
        self._users += 1

    async def stop(self) -> None:
        self._users -= 1
        if self._users == 0:
            await asyncio.gather(*(member.close() for member in self._members))
            self._members.clear()
            await self._producer.close()
            await self._cluster.close()

    async def check(self, topics: Sequence[str]) -> None:
        await self._cluster.send(MetadataRequest([]))  # topics that were right once are not looked at again
        for topic in topics:
            await self._topics.ensure(topic)

    async def append(self, topic: str, events: Sequence[CloudEvent]) -> None:
        await self._producer.append(topic, [(partition_of(event.partitionkey), event) for event in events])

    async def forward(self, topic: str, events: Sequence[Sealed]) -> None:
        await self._producer.append(topic, [(event.partition, event) for event in events])

    async def subscribe(
        self, group: str, topics: Sequence[str], *, start: Literal["earliest", "latest"] = "earliest"
    ) -> Member:
        """See ``Bus``. While the brokers are away it returns a member that joins as soon as they are back."""
        member = Member(self._cluster, self._topics, self._consuming, self._topics.group(group), topics, start)
        self._members = {each for each in self._members if not each.closed} | {member}
        try:
            await member.prepare(_SUBSCRIBE_SECONDS)
        except BusAway:
            pass
        except BaseException:
            await member.close()
            raise
        return member

    async def seek(self, group: str, topics: Sequence[str], to: Moment) -> None:
        names = [await self._topics.ensure(topic) for topic in topics]
        places = [TopicPartition(name, number) for name in names for number in range(PARTITIONS)]
        await move(
            self._cluster, self._consuming, self._topics.group(group), names, lambda: self._positions(places, to)
        )

    async def lag(self, group: str) -> Mapping[Partition, int]:
        committed = await self._cluster.committed(self._topics.group(group))
        places = {place: name for place in committed if (name := self._topics.logical(place.topic)) is not None}
        begins, ends = await asyncio.gather(
            self._cluster.offsets(dict.fromkeys(places, EARLIEST)), self._cluster.offsets(dict.fromkeys(places, LATEST))
        )
        waiting = {
            (name, place.partition): ends[place] - max(committed[place], begins[place])
            for place, name in places.items()
        }
        return {place: count for place, count in waiting.items() if count > 0}

    async def read(
        self, topics: Sequence[str], since: Moment = "latest", *, follow: bool = True
    ) -> AsyncIterator[Received]:
        names = {await self._topics.ensure(topic): topic for topic in topics}
        places = [TopicPartition(name, number) for name in names for number in range(PARTITIONS)]
        ends = await self._positions(places, "latest")
        at = dict(ends if since == "latest" else await self._positions(places, since))
        consumer = AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            request_timeout_ms=int(CALL_SECONDS * 1000),
        )
        try:
            await consumer.start()
            consumer.assign(places)
            for place in places:
                consumer.seek(place, at[place])
            while True:
                batches = await getmany(
                    consumer, self._cluster, at.copy, timeout_ms=int(_READ_SECONDS * 1000), max_records=1000
                )
                at.update({place: await consumer.position(place) for place in batches})
                for record in sorted((each for batch in batches.values() for each in batch), key=_recorded):
                    yield received(names[record.topic], record)
                if not follow and all([await consumer.position(place) >= ends[place] for place in places]):
                    return
        finally:
            await dispose(consumer)

    async def prune(self, topic: str, older_than: datetime) -> int:  # noqa: ARG002
        """Nothing: the topic's retention does it (see ``BusFeatures.prunes``)."""
        return 0

    async def oldest(self, topics: Sequence[str]) -> datetime | None:
        names = [await self._topics.ensure(topic) for topic in topics]
        places = [TopicPartition(name, number) for name in names for number in range(PARTITIONS)]
        # Asked for rather than reckoned: Kafka deletes by segments, so that entries outlive their retention.
        found = await self._cluster.find(dict.fromkeys(places, 0))
        times = [time for time, offset in found.values() if offset >= 0]
        now = int(clock.now().timestamp() * 1000)  # whoever else writes there may give any time
        return datetime.fromtimestamp(min(now, *times) / 1000, UTC) if times else None

    async def _positions(self, places: Sequence[TopicPartition], to: Moment) -> dict[TopicPartition, int]:
        ends = await self._cluster.offsets(dict.fromkeys(places, EARLIEST if to == "earliest" else LATEST))
        if not isinstance(to, datetime):
            return ends
        # Asked for after the ends: what is appended in between is later than both.
        found = await self._cluster.offsets(dict.fromkeys(places, int(to.timestamp() * 1000)))
        return {place: found[place] if found[place] >= 0 else ends[place] for place in places}


def _recorded(record: object) -> tuple[int, str, int, int]:
    return record.timestamp, record.topic, record.partition, record.offset  # type: ignore[attr-defined]
