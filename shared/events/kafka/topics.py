"""Topics: made when they are first used, refused with a sentence where somebody made them otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from shared.events.bus import BusAway, WrongSetup
from shared.events.envelope import MAX_EVENT_BYTES
from shared.events.kafka.cluster import CALL_SECONDS, Cluster
from shared.events.partition import PARTITIONS

BATCH_BYTES = 1_000_000
"""Largest batch the producer makes; the largest event fits with its headers."""

_MESSAGE_BYTES = 2 * 1024 * 1024
_DAY = 86_400_000
_PREFIX = "guardian"


class WrongTopic(WrongSetup):
    """A topic is there and is not what events need, or is not there and cannot be made."""


class Topics:
    """The topics of one platform on a cluster: names under its prefix, settings, partitions."""

    def __init__(self, cluster: Cluster, prefix: str, retention_days: int) -> None:
        self._cluster = cluster
        self._prefix = prefix
        retention = retention_days * _DAY
        self._wanted = {
            "cleanup.policy": "delete",
            "retention.ms": str(retention),
            "retention.bytes": "-1",
            "segment.ms": str(_DAY),  # only whole segments are removed: what is kept longer is at most a day's
            "max.message.bytes": str(_MESSAGE_BYTES),
            "compression.type": "uncompressed",  # whatever others write with: we cannot unpack every codec
            # Times of one clock: a producer's clock that is wrong would delete events early, or keep them.
            "message.timestamp.type": "LogAppendTime",
        }
        self._ready: set[str] = set()
        self._making = asyncio.Lock()

    def name(self, topic: str) -> str:
        """The topic on the cluster."""
        return self._prefix + topic.removeprefix(_PREFIX)

    def logical(self, name: str) -> str | None:
        """The topic as services know it; None for a topic of somebody else."""
        return _PREFIX + name[len(self._prefix) :] if name.startswith(self._prefix + ".") else None

    def group(self, group: str) -> str:
        """The group on the cluster."""
        return f"{self._prefix}.{group}"

    def doubt(self, topic: str) -> None:
        """Look again before the next use: something about the topic was not as expected."""
        self._ready.discard(self.name(topic))

    async def ensure(self, topic: str) -> str:
        """The name of a topic that is there, as it has to be; raises ``WrongTopic``."""
        name = self.name(topic)
        if name not in self._ready:
            async with self._making:
                if name not in self._ready:
                    # Made before anything asks for its metadata, which would make it with a broker's defaults.
                    await self._make(name)
                    await self._check(name)
                    self._ready.add(name)
        return name

    async def _make(self, name: str) -> None:
        wanted: list[Any] = [(name, PARTITIONS, -1, [], list(self._wanted.items()))]
        request = CreateTopicsRequest(wanted, int(CALL_SECONDS * 1000), False)

        async def ask(client: AIOKafkaClient) -> Any:
            controller = client.cluster.controller
            response = await client.send(controller.nodeId if controller else client.get_random_node(), request)
            ((_, code, message),) = response.topic_errors
            if code and for_code(code).retriable:
                raise for_code(code)(message)
            return code, message

        code, message = await self._cluster.call(ask)
        # One who may not create may still use what is there.
        if code and for_code(code) not in (TopicAlreadyExistsError, TopicAuthorizationFailedError):
            raise WrongTopic(f"Kafka does not make the topic {name}: {message or for_code(code).__name__}")

    async def _check(self, name: str) -> None:
        try:
            count = await self._cluster.call(lambda client: _partitions(client, name))
        except BusAway as error:
            if not isinstance(error.__cause__, UnknownTopicOrPartitionError):
                raise
            raise WrongTopic(
                f"The Kafka topic {name} does not exist and this client may not make it. Make it with: "
                f"{self._tool('topics')} --create --topic {name} --partitions {PARTITIONS} "
                + " ".join(f"--config {key}={value}" for key, value in self._wanted.items())
            ) from error
        if count != PARTITIONS:
            raise WrongTopic(
                f"The Kafka topic {name} has {count} partitions, and events need {PARTITIONS}. Remove it, with the "
                f"events it holds, and it is made anew: {self._tool('topics')} --delete --topic {name}{self._anew()}. "
                "Or set KAFKA_PREFIX to a name that no topic begins with."
            )
        wrong = self._differences(await self._settings(name))
        if wrong:
            change = ",".join(f"{key}={self._wanted[key]}" for key in wrong)
            days = int(wrong.get("retention.ms", 0)) > 0
            hint = " Or set GUARDIAN_EVENT_RETENTION_DAYS to what it keeps." if days else ""
            raise WrongTopic(
                f"The Kafka topic {name} has {', '.join(f'{key}={found}' for key, found in wrong.items())}: events would "
                "be lost, or be kept for longer than the notes that each was handled, or could not be read. "
                f"Change it with: {self._tool('configs')} --alter --entity-type topics "
                f"--entity-name {name} --add-config '{change}'{self._anew()}.{hint}"
            )

    async def _settings(self, name: str) -> dict[str, str]:
        wanted = [(ConfigResourceType.TOPIC.value, name, list(self._wanted))]
        response = await self._cluster.send(DescribeConfigsRequest(wanted))
        ((code, _, _, _, entries),) = response.resources
        return {} if code else {entry[0]: entry[1] for entry in entries}

    def _differences(self, found: dict[str, str]) -> dict[str, str]:
        """What is there and will not do; where we may not look, nothing."""
        will_do: dict[str, Callable[[str], bool]] = {
            "segment.ms": lambda value: int(value) <= _DAY,
            "max.message.bytes": lambda value: int(value) >= max(BATCH_BYTES, MAX_EVENT_BYTES),
            "compression.type": lambda value: value in ("uncompressed", "gzip"),
        }
        return {
            key: found[key]
            for key, value in self._wanted.items()
            if key in found and found[key] != value and not (key in will_do and will_do[key](found[key]))
        }

    def _anew(self) -> str:
        """For the broker of ``make kafka``, which comes without Kafka's tools."""
        if not self._cluster.servers.startswith(("127.0.0.1:", "localhost:")):
            return ""
        return " (if it is the broker of 'make kafka': stop it, remove .guardian/kafka with all its events, start it again)"

    def _tool(self, name: str) -> str:
        return f"kafka-{name}.sh --bootstrap-server {self._cluster.servers}"


async def _partitions(client: AIOKafkaClient, name: str) -> int:
    """How many partitions a topic has, once all of them have a leader."""
    request = MetadataRequest([name], allow_auto_topic_creation=False)
    response = await client.send(client.get_random_node(), request)
    ((code, *_, partitions),) = response.topics
    if code:
        error: KafkaError = for_code(code)(name)
        raise error
    if any(each[2] < 0 for each in partitions):
        raise LeaderNotAvailableError(name)
    return len(partitions)
