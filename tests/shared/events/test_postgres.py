from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest_asyncio

from shared.db import Database
from shared.db.versions import owner_dsn
from shared.events import Bus, Subscription
from shared.events.partition import partition_of
from shared.events.postgres import PostgresBus
from shared.settings import Settings
from tests.shared.events.conformance import BusConformance
from tests.shared.events.support import TOPIC

ProcessFactory = Callable[..., Awaitable[Database]]


class PostgresHarness:
    """Everything runs as ``beta``, on the topic of its own name."""

    def __init__(self, process: ProcessFactory, settings: Settings) -> None:
        self._process = process
        self._settings = settings
        self._database: Database | None = None
        self.started: list[PostgresBus] = []

    async def bus(self) -> Bus:
        bus = PostgresBus(await self._process("beta"), lease_seconds=2.0)
        await bus.start()
        self.started.append(bus)
        return bus

    async def lose(self, bus: Bus, member: Subscription) -> None:
        assert isinstance(bus, PostgresBus)
        bus.forget(member)  # type: ignore[arg-type]

    async def append_unreadable(self, key: str) -> None:
        connection = await asyncpg.connect(owner_dsn(self._settings))
        await connection.execute(
            "SELECT bus.append($1, ARRAY[gen_random_uuid()], ARRAY[gen_random_uuid()], ARRAY['x'], ARRAY[$2], ARRAY[$3::int],"
            """ ARRAY['{"unreadable": true}']::json[])""",
            TOPIC, key, partition_of(key),
        )  # fmt: skip
        await connection.close()

    async def database(self) -> Database:
        if self._database is None:
            self._database = await self._process("beta")
        return self._database


@pytest_asyncio.fixture(loop_scope="session")
async def harness(process: ProcessFactory, events_settings: Settings) -> AsyncIterator[PostgresHarness]:
    made = PostgresHarness(process, events_settings)
    yield made
    for bus in made.started:
        await bus.stop()


class TestPostgresBus(BusConformance):
    pass
