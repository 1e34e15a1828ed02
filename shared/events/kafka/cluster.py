"""The brokers: how they are reached, and the few questions that need no producer and no group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    CorrelationIdError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnsupportedVersionError,
    for_code,
)
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from shared.events.bus import BusAway, WrongSetup
from shared.settings import Settings

EARLIEST, LATEST = -2, -1
"""Timestamps that stand for the oldest entry kept and for the next one to come."""

CALL_SECONDS = 4.0
_RETRY_SECONDS = 0.05
_READ_COMMITTED = 1
_SILENCE = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError, CorrelationIdError, TimeoutError, OSError)
_REFUSED = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    UnsupportedVersionError,
)
_T = TypeVar("_T")

# A broker that is away is said once, by whoever uses the bus; aiokafka would say it several times a second.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def connection(settings: Settings, client_id: str) -> dict[str, Any]:
    """The options every aiokafka client takes; ``Settings`` has refused what cannot work."""
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "client_id": client_id,
        "security_protocol": protocol,
    }
    if protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    if protocol.endswith("SSL"):
        options["ssl_context"] = create_ssl_context(
            cafile=settings.kafka_ssl_cafile,
            certfile=settings.kafka_ssl_certfile,
            keyfile=settings.kafka_ssl_keyfile,
        )
    return options


class Cluster:
    """One connection for questions, made when the first one is asked and again after it broke."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.servers: str = options["bootstrap_servers"]
        self._options = {**options, "request_timeout_ms": int(CALL_SECONDS * 1000), "retry_backoff_ms": 50}
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection; the next question opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def away(self, error: BaseException) -> BusAway:
        """What to raise when the brokers do not answer."""
        return BusAway(f"Kafka at {self.servers} cannot be reached: {str(error) or type(error).__name__}")

    def refusal(self, error: BaseException) -> WrongSetup | None:
        """What to raise when the brokers answer that they will not; None for any other error."""
        if not isinstance(error, _REFUSED):
            return None
        return WrongSetup(
            f"Kafka at {self.servers} refuses this client ({type(error).__name__.removesuffix('Error')}). Give it the "
            "rights that docs/guides/deploy.md lists, and use brokers of version 3.0 or later."
        )

    @staticmethod
    def is_silence(error: BaseException) -> bool:
        """Whether the brokers did not answer, or answered that it may work later."""
        return isinstance(error, TimeoutError) or (isinstance(error, KafkaError) and bool(error.retriable))

    async def call(self, question: Callable[[AIOKafkaClient], Awaitable[_T]]) -> _T:
        """Ask until it is answered, for a few seconds; ``BusAway`` when nobody is there to ask."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_SECONDS
        while True:
            client = await self._connected()
            try:
                async with asyncio.timeout_at(deadline):
                    return await question(client)
            except _SILENCE as error:
                if self._client is client:
                    await self.close()
                raise self.away(error) from error
            except KafkaError as error:
                if (refusal := self.refusal(error)) is not None:
                    raise refusal from error
                if not error.retriable:
                    raise
                if loop.time() + _RETRY_SECONDS > deadline:
                    raise self.away(error) from error
            await asyncio.sleep(_RETRY_SECONDS)

    async def send(self, request: Any) -> Any:
        """The answer of any broker."""
        return await self.call(lambda client: client.send(client.get_random_node(), request))

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """Every offset a group has committed."""

        async def ask(client: AIOKafkaClient) -> dict[TopicPartition, int]:
            node = await client.coordinator_lookup(CoordinationType.GROUP, group)
            response = await client.send(node, OffsetFetchRequest(group, None), group=ConnectionGroup.COORDINATION)
            _check(response.error_code)
            found = {}
            for topic, partitions in response.topics:
                for partition, offset, _, error_code in partitions:
                    _check(error_code)
                    if offset >= 0:
                        found[TopicPartition(topic, partition)] = offset
            return found

        return await self.call(ask)

    async def offsets(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The offset of the first entry at or after a time (milliseconds, ``EARLIEST``, ``LATEST``); -1 for none."""
        return {place: offset for place, (_, offset) in (await self.find(times)).items()}

    async def find(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int]]:
        """``offsets``, each after the time of its entry (-1 where the question was not one for a time)."""

        async def ask(client: AIOKafkaClient) -> dict[TopicPartition, tuple[int, int]]:
            by_leader: dict[int, dict[str, list[tuple[int, int]]]] = {}
            for place, time in times.items():
                leader = client.cluster.leader_for_partition(place)
                if leader is None or leader < 0:
                    await client.force_metadata_update()
                    raise LeaderNotAvailableError(place)
                by_leader.setdefault(leader, {}).setdefault(place.topic, []).append((place.partition, time))
            found = {}
            for leader, topics in by_leader.items():
                response = await client.send(leader, OffsetRequest(-1, _READ_COMMITTED, list(topics.items())))
                for topic, partitions in response.topics:
                    for partition, error_code, time, offset in partitions:
                        if error_code:
                            client.force_metadata_update()
                        _check(error_code)
                        found[TopicPartition(topic, partition)] = time, offset
            return found

        return await self.call(ask) if times else {}

    async def _connected(self) -> AIOKafkaClient:
        async with self._connecting:
            if self._client is None:
                client = AIOKafkaClient(**self._options)
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        await client.bootstrap()
                except (KafkaError, *_SILENCE) as error:
                    await client.close()
                    raise self.away(await self._reason(client) or error) from error
                self._client = client
            return self._client

    async def _reason(self, client: AIOKafkaClient) -> BaseException | None:
        """Why the first broker cannot be used: ``bootstrap`` keeps a refused password to itself."""
        host, port, _ = client.hosts[0]
        options = {name: value for name, value in self._options.items() if name not in _NOT_OF_A_CONNECTION}
        try:
            async with asyncio.timeout(1):
                await (await create_conn(host, port, **options)).close()
        except (KafkaError, *_SILENCE) as error:
            return error
        return None


_NOT_OF_A_CONNECTION = ("bootstrap_servers", "retry_backoff_ms")


def _check(code: int) -> None:
    if code:
        error: KafkaError = for_code(code)()
        raise error
