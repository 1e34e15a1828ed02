"""Reading what aiokafka gives up on, or misreads.

It raises in the middle of a batch at a header whose name is no UTF-8. It takes a record's attributes, one byte,
for a number of several: with its high bit set all that follows is misread, up to an offset that is not the record's,
so that others would be passed over. Anybody who may write to a topic can append such records, and a consumer that
begins again meets them again. The batch is then read once more, by ourselves: a name that is no text is none that
we know, and every record is where it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from struct import unpack_from
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py as decode_varint

from shared.events.kafka.cluster import EARLIEST, Cluster

_BYTES = 1024 * 1024
_LENGTH_AT, _LENGTH_COUNTS_FROM = 8, 12
_log = structlog.get_logger(__name__)

Batches = dict[TopicPartition, list[Any]]


async def getmany(
    consumer: AIOKafkaConsumer,
    cluster: Cluster,
    positions: Callable[[], Mapping[TopicPartition, int]],
    *places: TopicPartition,
    timeout_ms: int,
    max_records: int,
) -> Batches:
    """``consumer.getmany``, past every record. ``positions`` tells where the caller is in each partition."""
    at = dict(positions())
    doubtful: list[TopicPartition] = []
    try:
        found: Batches = await consumer.getmany(*places, timeout_ms=timeout_ms, max_records=max_records)
        doubtful = [place for place, records in found.items() if place in at and not _follow(records, at[place])]
        if doubtful:  # what retention took is a gap as well, and the one that there mostly is
            firsts = await cluster.offsets(dict.fromkeys(doubtful, EARLIEST))
            at.update({place: max(at[place], first) for place, first in firsts.items()})
            doubtful = [place for place in doubtful if not _follow(found[place], at[place])]
        if not doubtful:
            return found
    except (UnicodeDecodeError, CorruptRecordException) as error:
        _log.info("kafka_batch_read_again", error=str(error))
        at = dict(positions())
        doubtful = [place for place in _stuck(consumer) if place in at]
    for place in consumer.assignment() & at.keys():
        consumer.seek(place, at[place])  # what was taken of others in the same call is lost, and comes again
    found = {}
    for place in doubtful:
        records = await _records(cluster, place, at[place])
        taken = list(islice(records, max_records))
        if place in consumer.assignment():
            consumer.seek(place, records.next_fetch_offset)
            if taken:
                found[place] = taken
                break  # one partition at a time: the caller's limit holds
    return found


def _follow(records: list[Any], position: int) -> bool:
    """Whether these are the next records from a position on, without a gap."""
    return bool(records[-1].offset + 1 - position == len(records))


def _stuck(consumer: AIOKafkaConsumer) -> list[TopicPartition]:
    """The partitions whose buffered records ended with an error."""
    found = []
    for place, buffered in consumer._fetcher._records.items():  # noqa: SLF001
        unpacking = getattr(getattr(buffered, "_partition_records", None), "_records_iterator", None)
        if unpacking is not None and unpacking.gi_frame is None:
            found.append(place)
    return found


async def _records(cluster: Cluster, place: TopicPartition, position: int) -> Any:
    """What a fetch from ``position`` on gives, as aiokafka unpacks it (aborted transactions and markers left out)."""
    wanted = [(place.topic, [(place.partition, position, _BYTES)])]

    async def ask(client: AIOKafkaClient) -> Any:
        leader = client.cluster.leader_for_partition(place)
        if leader is None or leader < 0:
            await client.force_metadata_update()
            raise LeaderNotAvailableError(place)
        response = await client.send(leader, FetchRequest(500, 1, _BYTES, READ_COMMITTED, wanted, rack_id=""))
        ((_, ((_, code, _, *rest),)),) = response.topics
        if code:
            client.force_metadata_update()
            error: KafkaError = for_code(code)(place)
            raise error
        return rest

    _, _, aborted, *_, data = await cluster.call(ask)
    return PartitionRecords(place, _Memory(data), aborted, position, None, None, False, READ_COMMITTED)


class _Memory:
    """The batches of a fetch."""

    def __init__(self, data: bytes) -> None:
        self._batches: deque[Any] = deque()
        start = 0
        while start + _LENGTH_COUNTS_FROM <= len(data):
            end = start + _LENGTH_COUNTS_FROM + unpack_from(">i", data, start + _LENGTH_AT)[0]
            if end > len(data):
                break  # the last one was cut
            self._batches.append(data[start:end])
            start = end

    def has_next(self) -> bool:
        return bool(self._batches)

    def next_batch(self) -> Any:
        batch = _Batch(self._batches.popleft())
        if not batch.validate_crc():
            raise CorruptRecordException("the checksum of a batch is wrong")
        batch._maybe_uncompress()  # noqa: SLF001
        batch._buffer = _Bytes(batch._buffer)  # noqa: SLF001
        return batch


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """Records whose attributes, of which Kafka uses none, are read as none."""

    def _read_msg(self, *_: Any) -> Any:
        _, start = decode_varint(self._buffer, self._pos)
        self._buffer[start] = 0
        return super()._read_msg()


class _Bytes(bytearray):
    """Bytes whose slices become text whatever they are."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Bytes(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        return super().decode(encoding, "replace")
