"""Two services of our own, ``alpha`` and ``beta``, in a database per test with the events' tables and a log of effects."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from shared.db import Database
from shared.db.migrations import provision
from shared.db.versions import owner_dsn
from shared.events.schema import migrate_bus, system_tables_ddl
from shared.ids import new_id
from shared.settings import Settings
from shared.testing.server import TestServer

SERVICES = ("alpha", "beta")
EFFECTS = """CREATE TABLE {0}.effects (
  nth bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid, event_id uuid, key text, sequence bigint,
  handled_by text DEFAULT '')"""
ProcessFactory = Callable[..., Awaitable[Database]]


async def build(dsn: str) -> None:
    settings = Settings(environment="test", database_url=SecretStr(dsn))
    await provision(settings, SERVICES)
    connection = await asyncpg.connect(owner_dsn(settings))
    try:
        for service in SERVICES:
            await connection.execute(EFFECTS.format(service))
            await connection.execute(f"GRANT ALL ON {service}.effects TO svc_{service}")
            for statement in system_tables_ddl(service):
                await connection.execute(statement)
    finally:
        await connection.close()
    await migrate_bus(owner_dsn(settings), SERVICES)


@pytest.fixture(scope="session")
def events_template(postgres_server: TestServer) -> str:
    postgres_server.ensure_template("events_template", build)
    return "events_template"


@pytest.fixture
def events_settings(postgres_server: TestServer, events_template: str, tmp_path: Path) -> Iterator[Settings]:
    name = f"events_{new_id().hex}"
    dsn = postgres_server.create_database(name, template=events_template)
    yield Settings(environment="test", home=tmp_path, database_url=SecretStr(dsn), log_level="WARNING")
    postgres_server.drop_database(name)


@pytest_asyncio.fixture(loop_scope="session")
async def process(events_settings: Settings) -> AsyncIterator[ProcessFactory]:
    """``await process("alpha")``: an open ``Database`` as another process would have it (a pool of its own)."""
    opened: list[Database] = []

    async def start(service: str = "alpha") -> Database:
        database = Database(events_settings, service)
        await database.open()
        opened.append(database)
        return database

    yield start
    for database in opened:
        await database.close()
