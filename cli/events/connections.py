"""The connections of the commands to a platform, in the services' own roles, and what is wrong with them in a sentence."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import asyncpg
import structlog

from cli.home import NoPlatform, connected_settings, on_the_same_bus
from cli.system import SERVICES
from shared.db import Database
from shared.db.database import UNAVAILABLE
from shared.errors import ServiceUnavailable
from shared.events import Bus, Consumer, Worker
from shared.events.bus import BusAway, WrongSetup
from shared.events.connect import connect_bus
from shared.settings import InvalidSettings, Settings

READER = next(service.name for service in SERVICES if service.consumes)
"""Whose role reads the log: any consumer's may."""


class CannotAnswer(Exception):
    """Why a command does nothing, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as its service declares it."""

    name: str
    service: str
    consumer: Consumer
    database: Database
    bus: Bus


class Platform:
    """The databases and buses of every service of a platform that runs elsewhere."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self.settings = settings
        self._stack = stack
        self._buses: dict[str, Bus] = {}
        self.databases = {each.name: Database.for_service(settings, each.name) for each in SERVICES if each.schema}

    @cached_property
    def workers(self) -> dict[str, Worker]:
        """The background half of each service; it tells what there is, and is never started."""
        return {each.name: each.load("worker")(self.settings) for each in SERVICES if each.schema}

    async def bus(self, service: str) -> Bus:
        """The bus in the role of a service."""
        if service not in self._buses:
            bus = self._buses[service] = connect_bus(self.settings, self.databases[service])
            await bus.start()
            self._stack.push_async_callback(bus.stop)
        return self._buses[service]

    async def groups(self) -> list[Group]:
        """Every consumer group of every service."""
        return [
            Group(consumer.group, name, consumer, self.databases[name], await self.bus(name))
            for name, worker in self.workers.items()
            for consumer in worker.consumers
        ]

    async def group(self, name: str) -> Group:
        """One group by its name; raises ``CannotAnswer``."""
        groups = await self.groups()
        for each in groups:
            if each.name == name:
                return each
        raise CannotAnswer(f"there is no consumer group {name!r}; there is: {', '.join(each.name for each in groups)}")


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Platform]:
    """The platform for the length of the block; nothing is reached before it is asked."""
    async with AsyncExitStack() as stack:
        platform = Platform(settings, stack)
        for database in platform.databases.values():
            await database.open()
            stack.push_async_callback(database.close)
        yield platform


def answer(work: Callable[[Platform], Awaitable[int]]) -> int:
    """Run a command against the platform of this home; its exit status, 1 with a sentence where it cannot be asked."""

    async def run() -> int:
        async with connected(on_the_same_bus(connected_settings())) as platform:
            return await work(platform)

    with _quiet():
        try:
            return asyncio.run(run())
        except KeyboardInterrupt:
            return 0
        except BrokenPipeError:  # whoever read this has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (InvalidSettings, NoPlatform, CannotAnswer) as error:
            text = str(error)
        except (ServiceUnavailable, BusAway, WrongSetup, asyncpg.PostgresError, *UNAVAILABLE) as error:
            if isinstance(error, ValueError):
                raise  # a value that asyncpg cannot send is a mistake of ours, not an outage
            text = sentence(error)
    print(f"guardian: {text}", file=sys.stderr)
    return 1


def sentence(error: BaseException) -> str:
    """Why the platform cannot be asked, and what to do about it."""
    if isinstance(error, (BusAway, WrongSetup)):
        text = str(error).removesuffix(".")
        lost = "Nothing is lost: events wait in the outboxes (guardian events outbox) and go on by themselves"
        if isinstance(error, WrongSetup):
            return f"{text}. {lost} once that is done."
        return f"{text}. {lost} when it can be: check that the broker of KAFKA_BOOTSTRAP_SERVERS runs."
    if isinstance(error, (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
        return (
            f"the database lets no service in ({error}): set GUARDIAN_SECRET_KEY (or GUARDIAN_HOME) to the platform's, "
            "and run 'guardian migrate' where it has never run"
        )
    undefined = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)
    if isinstance(error, (*undefined, asyncpg.InvalidSchemaNameError, asyncpg.InvalidCatalogNameError)):
        return f"the database is not that of this release ({error}): run 'guardian migrate'"
    cause = error.__cause__ or error
    why = str(cause) or type(cause).__name__
    return f"the database cannot be reached ({why}): check that the platform runs and where DATABASE_URL leads"


@contextmanager
def _quiet() -> Iterator[None]:
    """What connections log while they fail is said once, by the command."""
    before, threshold = structlog.get_config(), logging.root.manager.disable
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(threshold)
        structlog.configure(**before)
