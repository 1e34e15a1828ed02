from collections.abc import Awaitable, Callable

import pytest_asyncio

from shared.db import Database
from shared.events import Bus, Subscription
from shared.events.memory import MemoryBus
from tests.shared.events.conformance import BusConformance
from tests.shared.events.support import TOPIC


class MemoryHarness:
    def __init__(self, database: Database) -> None:
        self._bus = MemoryBus()
        self._database = database

    async def bus(self) -> Bus:
        return self._bus

    async def lose(self, bus: Bus, member: Subscription) -> None:
        await member.close()  # a member cannot be lost without its process, and the bus with it

    async def append_unreadable(self, key: str) -> None:
        await self._bus.append_raw(TOPIC, key, b"{unreadable", "not JSON")

    async def database(self) -> Database:
        return self._database


@pytest_asyncio.fixture(loop_scope="session")
async def harness(process: Callable[..., Awaitable[Database]]) -> MemoryHarness:
    return MemoryHarness(await process("beta"))


class TestMemoryBus(BusConformance):
    pass
