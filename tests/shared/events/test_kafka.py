from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from shared.db import Database
from shared.events import Bus, Subscription
from shared.events.kafka import KafkaBus
from shared.events.kafka.member import Member
from shared.events.partition import partition_of
from shared.ids import new_id
from shared.settings import Settings
from tests.shared.events.conformance import BusConformance
from tests.shared.events.support import TOPIC, make_event

ProcessFactory = Callable[..., Awaitable[Database]]
pytestmark = pytest.mark.kafka


class KafkaHarness:
    """A prefix of its own per test: fresh topics and groups on the broker all tests share."""

    def __init__(self, process: ProcessFactory, servers: str) -> None:
        self.settings = Settings(
            environment="test", kafka_bootstrap_servers=servers, kafka_prefix=f"t{new_id().hex}", log_level="WARNING"
        )
        self.topic = TOPIC.replace("guardian", self.settings.kafka_prefix, 1)
        self._process = process
        self._database: Database | None = None
        self.started: list[KafkaBus] = []

    async def bus(self) -> Bus:
        bus = KafkaBus(self.settings, "beta", beat_seconds=0.3)
        await bus.start()
        self.started.append(bus)
        return bus

    async def lose(self, bus: Bus, member: Subscription) -> None:
        """No heartbeat any more, and no goodbye."""
        assert isinstance(member, Member)
        assert member._consumer is not None
        coordinator = member._consumer._coordinator
        coordinator._coordination_task.cancel()
        coordinator._heartbeat_task.cancel()

    async def append_unreadable(self, key: str) -> None:
        organization, entity = map(UUID, key.split("/"))
        headers, _ = make_event(organization=organization, entity=entity).to_binary()
        async with AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap_servers) as producer:
            await producer.send_and_wait(
                self.topic, b"{unreadable", key=key.encode(), partition=partition_of(key), headers=headers
            )

    async def database(self) -> Database:
        if self._database is None:
            self._database = await self._process("beta")
        return self._database


@pytest_asyncio.fixture(loop_scope="session")
async def harness(process: ProcessFactory, kafka_servers: str) -> AsyncIterator[KafkaHarness]:
    made = KafkaHarness(process, kafka_servers)
    yield made
    for bus in made.started:
        await bus.stop()


class TestKafkaBus(BusConformance):
    pass
