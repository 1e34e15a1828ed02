"""A member of a group: positions are its own business, membership is aiokafka's.

While a large batch is worked on the next one is read, a little at a time. Each generation of the group begins by reading the offsets committed before it. What is handed out belongs
to that generation, and is committed under its number and no other: whoever slept through a rebalance, or
through a move of the group, is fenced by the broker. A consumer that met anything unforeseen is thrown away
and another one joins; the group's offsets are all that must survive.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    GroupCoordinatorNotAvailableError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    KafkaError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest

from shared.events.bus import BusAway, Fenced, Received, WrongSetup
from shared.events.kafka.assignor import Assignor
from shared.events.kafka.cluster import CALL_SECONDS, EARLIEST, LATEST, Cluster
from shared.events.kafka.disposal import dispose
from shared.events.kafka.lenient import getmany
from shared.events.kafka.records import received
from shared.events.kafka.topics import Topics

SESSION_SECONDS = 6.0
BEAT_SECONDS = 2.0
_JOIN_SECONDS = 15.0
_AWAY_SECONDS = 60.0
_RETRY_SECONDS = 0.5
_AHEAD_FROM = 500
"""Entries of a batch from which on it is worth reading the next one meanwhile."""
_SLICE = 50
_FENCED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)
_MOVED = (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)
_log = structlog.get_logger(__name__)

Generation = tuple[int, str]
"""Number of a generation and the id of the member in it."""
Handed = dict[TopicPartition, tuple[int, int]]
"""Per partition: behind the last entry handed out, and where to go on after it (behind markers and gaps)."""


class WrongGroup(WrongSetup):
    """The group is in use by consumers of another kind."""


def consumer_options(options: Mapping[str, Any], beat_seconds: float) -> dict[str, Any]:
    """How every consumer that joins a group is set up."""
    return {
        **options,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",  # what retention took is gone; what is left is not passed over
        "isolation_level": "read_committed",
        "session_timeout_ms": int(SESSION_SECONDS * 1000),
        "rebalance_timeout_ms": int(SESSION_SECONDS * 1000),
        "heartbeat_interval_ms": int(beat_seconds * 1000),
        "max_poll_interval_ms": 2**31 - 1,  # a consumer that pauses keeps its membership
        "request_timeout_ms": 10_000,  # longer than a rebalance, for which a join waits
        "max_partition_fetch_bytes": 1024 * 1024,
        "fetch_max_bytes": 4 * 1024 * 1024,
    }


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The batch that is read while the one before it is worked on."""

    generation: Generation | None
    task: asyncio.Task[list[Received]]
    handed: Handed


class Member:
    """One member of a group: a ``Subscription``."""

    def __init__(
        self,
        cluster: Cluster,
        topics: Topics,
        options: Mapping[str, Any],
        group: str,
        wanted: Sequence[str],
        start: Literal["earliest", "latest"],
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._options = options
        self._group = group
        self._wanted = list(wanted)
        self._start = EARLIEST if start == "earliest" else LATEST
        self._consumer: AIOKafkaConsumer | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._generation: Generation | None = None
        self._settled = False
        self._committed: dict[TopicPartition, int] = {}
        self._handed: Handed = {}
        self._ahead: _Ahead | None = None
        self._known_at = 0.0
        self.closed = False

    async def fetch(self, limit: int, wait: float) -> Sequence[Received]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        found = await self._read_before()
        while not found and not self.closed:
            try:
                if await self.prepare(deadline - loop.time()):
                    found = await self._take(limit, deadline - loop.time(), self._handed)
            except BusAway:
                await asyncio.sleep(min(_RETRY_SECONDS, max(deadline - loop.time(), 0)))
            if not found and loop.time() >= deadline:
                await self._pass_gaps()
                break
        if len(found) >= _AHEAD_FROM:
            handed: Handed = {}
            task = asyncio.create_task(self._take(limit, 0.0, handed), name=f"kafka-ahead:{self._group}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._ahead = _Ahead(self._generation, task, handed)
        return found

    async def _read_before(self) -> list[Received]:
        """What was read ahead, where all before it was committed; else the positions go back to what was."""
        ahead = self._ahead
        if ahead is None:
            self._rewind({})
            return []
        await asyncio.wait({ahead.task})  # not long: it waits for no entry
        self._ahead = None
        follows = not self._handed and ahead.generation == self._generation
        if follows:
            self._handed = ahead.handed
        else:
            self._rewind(ahead.handed)
        found = ahead.task.result()
        return found if follows else []

    async def commit(self, received: Sequence[Received]) -> None:
        ends: dict[TopicPartition, int] = {}
        for each in received:
            place = TopicPartition(self._topics.name(each.topic), each.partition)
            ends[place] = max(ends.get(place, 0), each.position + 1)
        generation = self._generation
        if generation is None or any(place not in self._handed for place in ends):
            raise Fenced(f"{self._group} lost partitions to another member")
        await self._send(
            generation,
            {place: self._handed[place][1] if end >= self._handed[place][0] else end for place, end in ends.items()},
        )
        for place, end in ends.items():
            if place in self._handed and end >= self._handed[place][0]:
                del self._handed[place]

    async def close(self) -> None:
        self.closed = True
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
        if self._ahead is not None:
            self._ahead.task.cancel()
            await asyncio.wait([self._ahead.task])
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await dispose(consumer)

    async def prepare(self, seconds: float) -> bool:
        """Whether this member knows its positions, after at most ``seconds`` of joining and asking for them."""
        if self._settled:
            return True
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare(), name=f"kafka-member:{self._group}")
        # A task of its own: joining takes longer than one fetch may wait.
        task = self._preparing
        await asyncio.wait([task], timeout=max(seconds, 0))
        if task.done():
            self._preparing = None
            if not task.cancelled():
                task.result()
        return self._settled

    async def _prepare(self) -> None:
        if self._consumer is None:
            names = [await self._topics.ensure(topic) for topic in self._wanted]
            self._consumer = await self._joined(names)
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                while not self._settled:
                    await self._settle(self._consumer)
        except (TimeoutError, KafkaError) as error:
            await self._replace(error)
            raise self._cluster.refusal(error) or self._cluster.away(error) from error

    async def _joined(self, names: Sequence[str]) -> AIOKafkaConsumer:
        def assigned() -> None:
            coordinator = consumer._coordinator  # noqa: SLF001
            self._generation = coordinator.generation, coordinator.member_id
            self._settled = False
            self._committed.clear()
            self._handed.clear()

        assignor = Assignor(assigned=assigned)
        consumer = AIOKafkaConsumer(
            *names, **self._options, group_id=self._group, partition_assignment_strategy=(assignor,)
        )
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                await consumer.start()
        except BaseException as error:
            await dispose(consumer)
            if isinstance(error, InconsistentGroupProtocolError):
                raise WrongGroup(
                    f"The Kafka group {self._group} is in use by consumers that are not ours. Stop them, or set "
                    "KAFKA_PREFIX to a name that no group begins with."
                ) from error
            if self._cluster.is_silence(error):
                raise self._cluster.away(error) from error
            if (refusal := self._cluster.refusal(error)) is not None:
                raise refusal from error
            raise
        return consumer

    async def _settle(self, consumer: AIOKafkaConsumer) -> None:
        """Learn the positions of this generation; fix those of partitions that are new to the group."""
        generation = self._generation
        assigned = list(consumer.assignment())
        found = await consumer._coordinator.fetch_committed_offsets(assigned)  # noqa: SLF001
        positions = {place: each.offset for place, each in found.items()}
        new = {place: self._start for place in assigned if place not in positions}
        try:
            if new and generation is not None:
                fixed = await self._cluster.offsets(new)
                await self._send(generation, fixed)
                positions |= fixed
        except Fenced:
            await asyncio.sleep(0.05)
        if self._generation != generation or len(positions) < len(assigned):
            return
        for place, position in positions.items():
            consumer.seek(place, position)
        self._committed, self._handed = positions, {}
        self._settled = True
        self._known_at = asyncio.get_running_loop().time()

    async def _take(self, limit: int, wait: float, handed: Handed) -> list[Received]:
        consumer, generation = self._consumer, self._generation
        assert consumer is not None
        found: dict[TopicPartition, list[Any]] = {}
        try:
            # A rebalance makes getmany wait for its end, however long that takes.
            async with asyncio.timeout(max(wait, 0) + 0.2):
                await self._fill(found, handed, consumer, limit, max(wait, 0.001))
        except (TimeoutError, ConsumerStoppedError):
            pass
        except Exception as error:
            # The position may be behind entries that were never handed out: begin again from the offsets.
            await self._replace(error)
            # A plain KafkaError is the coordination's: joining again is the answer to it.
            if type(error) is not KafkaError and not self._cluster.is_silence(error):
                raise
        taken: list[Received] = []
        for place, records in found.items():
            name = self._topics.logical(place.topic) or place.topic
            for start in range(0, len(records), _SLICE):
                taken += [received(name, record) for record in records[start : start + _SLICE]]
                await asyncio.sleep(0)  # whoever works on the batch before goes on
        return taken if self._generation == generation else []

    async def _fill(
        self,
        found: dict[TopicPartition, list[Any]],
        handed: Handed,
        consumer: AIOKafkaConsumer,
        limit: int,
        wait: float,
    ) -> None:
        """Wait for the first entry; then a fair share of each partition, then more of any."""
        generation = self._generation

        async def take(count: int, *places: TopicPartition, wait: float = 0.0) -> int:
            batch = await getmany(
                consumer, self._cluster, self._positions, *places, timeout_ms=int(wait * 1000), max_records=count
            )
            if self._generation != generation:
                return 0  # of a new generation that does not know its positions yet: they come again
            for place, records in batch.items():
                handed[place] = records[-1].offset + 1, await consumer.position(place)
                found.setdefault(place, []).extend(records)
            return sum(map(len, batch.values()))

        left = limit - await take(1, wait=wait)
        if left == limit:
            return
        places = list(consumer.assignment())
        random.shuffle(places)
        share = max(limit // max(len(places), 1), 1)
        for place in places:
            if left > 0:
                left -= await take(min(share, left), place)
        if left > 0:
            await take(left)

    def _positions(self) -> dict[TopicPartition, int]:
        """Where to go on in each partition."""
        handed = self._handed | (self._ahead.handed if self._ahead is not None else {})
        return self._committed | {place: after for place, (_, after) in handed.items()}

    def _rewind(self, ahead: Handed) -> None:
        """What was handed out, or read ahead, and not committed comes again."""
        if self._consumer is not None:
            for place in (self._handed.keys() | ahead.keys()) & self._committed.keys():
                self._consumer.seek(place, self._committed[place])
        self._handed.clear()

    async def _pass_gaps(self) -> None:
        """Commit positions behind what is no entry (markers of transactions, gaps), so that it is no lag."""
        consumer, generation = self._consumer, self._generation
        if consumer is None or generation is None or not self._settled:
            return
        loop = asyncio.get_running_loop()
        if consumer._coordinator.coordinator_id is not None:  # noqa: SLF001
            self._known_at = loop.time()
        elif loop.time() - self._known_at > _AWAY_SECONDS:
            await self._replace("the brokers are not where they were")
            return
        assignment = consumer._subscription.subscription.assignment  # noqa: SLF001
        ahead = {}
        for place, committed in self._committed.items():
            state = assignment.state_value(place)
            settled = place not in self._handed and state is not None and state.has_valid_position
            if settled and state.position > committed:
                ahead[place] = state.position
        if ahead:
            try:
                await self._send(generation, ahead)
            except (Fenced, BusAway):
                _log.debug("kafka_gap_not_committed", group=self._group)

    async def _replace(self, error: object) -> None:
        _log.info("kafka_member_joins_again", group=self._group, error=repr(error))
        consumer, self._consumer = self._consumer, None
        self._generation, self._settled = None, False
        self._handed.clear()
        if consumer is not None:
            await dispose(consumer)

    async def _send(self, generation: Generation, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit as the member this was in ``generation``, whatever it is by now."""
        by_topic: dict[str, list[tuple[int, int, str]]] = {}
        for place, offset in offsets.items():
            by_topic.setdefault(place.topic, []).append((place.partition, offset, ""))
        request = OffsetCommitRequest(self._group, *generation, -1, list(by_topic.items()))
        problem: BaseException = TimeoutError()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                while self._generation == generation and self._consumer is not None:
                    refusal = await self._try(self._consumer._coordinator, request)  # noqa: SLF001
                    if refusal is None:
                        if self._generation == generation:
                            self._committed.update(offsets)
                        return
                    problem = refusal
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise self._cluster.away(problem) from problem
        raise Fenced(f"{self._group} lost partitions to another member")

    async def _try(self, coordinator: Any, request: Any) -> KafkaError | None:
        """Send a commit once: None when it is done, the error when another attempt may help."""
        try:
            await coordinator.ensure_coordinator_known()
            response = await coordinator._send_req(request)  # noqa: SLF001
        except KafkaError as error:
            if not error.retriable:
                raise
            return error
        refusals = [for_code(code)() for _, partitions in response.topics for _, code in partitions if code]
        for refusal in refusals:
            if isinstance(refusal, _FENCED):
                raise Fenced(f"{self._group} lost partitions to another member") from refusal
            if isinstance(refusal, _MOVED):
                coordinator.coordinator_dead()
            elif not refusal.retriable:
                raise refusal
        return refusals[0] if refusals else None
