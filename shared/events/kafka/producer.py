"""Appending: a batch per partition in flight, all of them answered before the next round.

An idempotent producer repeats a batch without doubling it. When one fails for good, later ones must not
follow it, so the producer is thrown away as it stands and the caller starts again from its first event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer

from shared.events.envelope import CloudEvent, Sealed
from shared.events.kafka.cluster import CALL_SECONDS, Cluster
from shared.events.kafka.topics import BATCH_BYTES, Topics

_ROUND_SECONDS = 5.0
"""A round that is not answered by then has failed: shorter than a relay's lease."""

_log = structlog.get_logger(__name__)


class Producer:
    """Appends in order, one call at a time."""

    def __init__(self, options: Mapping[str, Any], cluster: Cluster, topics: Topics) -> None:
        self._options = options
        self._cluster = cluster
        self._topics = topics
        self._producer: AIOKafkaProducer | None = None
        self._turn = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def append(self, topic: str, events: Sequence[tuple[int, CloudEvent | Sealed]]) -> None:
        """Append to their partitions, in order; whatever it raises, the caller repeats from the first event."""
        lanes: dict[int, deque[CloudEvent | Sealed]] = {}
        for partition, event in events:
            lanes.setdefault(partition, deque()).append(event)
        async with self._turn:
            try:
                name = await self._topics.ensure(topic)
                producer = await self._started()
                while lanes:
                    await self._round(producer, name, lanes)
            except BaseException as error:
                self._topics.doubt(topic)
                self._discard()
                if self._cluster.is_silence(error):
                    raise self._cluster.away(error) from error
                raise

    async def close(self) -> None:
        """Close the connections; what was appended is answered already."""
        self._discard()
        if self._ending:
            await asyncio.wait(self._ending, timeout=CALL_SECONDS)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                **self._options,
                enable_idempotence=True,
                acks="all",
                max_batch_size=BATCH_BYTES,
                request_timeout_ms=int(CALL_SECONDS * 1000),
            )
            async with asyncio.timeout(CALL_SECONDS):
                await self._producer.start()
        return self._producer

    async def _round(self, producer: AIOKafkaProducer, name: str, lanes: dict[int, deque[CloudEvent | Sealed]]) -> None:
        sent = []
        async with asyncio.timeout(_ROUND_SECONDS):
            for partition, lane in list(lanes.items()):
                batch = producer.create_batch()
                while lane:
                    headers, value = lane[0].to_binary()
                    key = lane[0].partitionkey.encode()
                    if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
                        break
                    lane.popleft()
                if not lane:
                    del lanes[partition]
                sent.append(await producer.send_batch(batch, name, partition=partition))
            await asyncio.gather(*sent)

    def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            task = asyncio.create_task(_end(producer))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


async def _end(producer: AIOKafkaProducer) -> None:
    """Close without the flush of ``stop``: what was not sent must not be sent behind the caller's repeat."""
    producer._closed = True  # noqa: SLF001
    try:
        if producer._sender.sender_task is not None:  # noqa: SLF001
            await producer._sender.close()  # noqa: SLF001
    except Exception:
        _log.debug("kafka_producer_not_stopped", exc_info=True)
    finally:
        await producer.client.close()
