"""Moving a whole group while its members are alive anywhere: by joining it.

The one that assigns gives a mover every partition (see ``Assignor``). It commits the wanted offsets in that
generation and leaves. The others begin their next generation from there, and what they held is fenced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, InconsistentGroupProtocolError, KafkaError

from shared.events.kafka.assignor import Assignor
from shared.events.kafka.cluster import Cluster
from shared.events.kafka.disposal import dispose
from shared.events.kafka.member import WrongGroup
from shared.events.partition import PARTITIONS

_MOVE_SECONDS = 30.0


async def move(
    cluster: Cluster,
    options: Mapping[str, Any],
    group: str,
    names: Sequence[str],
    wanted: Callable[[], Awaitable[Mapping[TopicPartition, int]]],
) -> None:
    """Commit the offsets ``wanted`` tells once nobody else in the group has a partition of these topics."""
    places = {TopicPartition(name, number) for name in names for number in range(PARTITIONS)}
    mover = AIOKafkaConsumer(
        *names,
        **{**options, "fetch_max_bytes": 1, "max_partition_fetch_bytes": 1},
        group_id=group,
        partition_assignment_strategy=(Assignor(mover=True),),
    )
    try:
        async with asyncio.timeout(_MOVE_SECONDS):
            await mover.start()
            while not await _moved(mover, places, wanted):  # noqa: ASYNC110 (what it waits for is in the broker)
                await asyncio.sleep(0.05)  # another mover is at work, or another rebalance began
    except InconsistentGroupProtocolError as error:
        raise WrongGroup(
            f"The Kafka group {group} is in use by consumers that are not ours, so it cannot be moved. Stop them first."
        ) from error
    except (TimeoutError, KafkaError) as error:
        if cluster.is_silence(error):
            raise cluster.away(error) from error
        raise
    finally:
        await dispose(mover)


async def _moved(
    mover: AIOKafkaConsumer,
    places: set[TopicPartition],
    wanted: Callable[[], Awaitable[Mapping[TopicPartition, int]]],
) -> bool:
    if mover.assignment() != places:
        return False
    try:
        await mover.commit(dict(await wanted()))
    except (CommitFailedError, IllegalStateError):
        return False
    return True
