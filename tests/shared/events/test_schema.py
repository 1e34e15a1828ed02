from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest

from shared import clock
from shared.db import Database
from shared.db.versions import owner_dsn
from shared.events.postgres import PostgresBus
from shared.events.schema import (
    BUS_TABLES,
    SYSTEM_TABLES,
    bus_grants,
    dead_letter_reasons_ddl,
    migrate_bus,
    system_tables_ddl,
)
from shared.settings import Settings
from tests.shared.events.conftest import SERVICES
from tests.shared.events.support import make_event

ProcessFactory = Callable[..., Awaitable[Database]]


async def test_a_service_appends_to_its_own_topic_only(process: ProcessFactory) -> None:
    bus = PostgresBus(await process("alpha"))
    await bus.append("guardian.alpha.events", [make_event()])
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="svc_alpha may not append to guardian"):
        await bus.append("guardian.beta.events", [make_event()])
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="may not prune"):
        await bus.prune("guardian.beta.events", clock.now() - timedelta(days=7))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO bus.head VALUES ('guardian.beta.events', 0, 1)",
        "UPDATE bus.head SET position = 0",
        "DELETE FROM bus.log",
        "UPDATE bus.log SET type = 'x'",
        "SELECT * FROM beta.outbox",
        "SELECT * FROM beta.inbox",
        "INSERT INTO beta.dead_letters DEFAULT VALUES",
    ],
)
async def test_a_service_writes_no_log_and_sees_no_other_service(process: ProcessFactory, statement: str) -> None:
    database = await process("alpha")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.pool.execute(statement)


async def test_everything_may_be_run_again(events_settings: Settings) -> None:
    connection = await asyncpg.connect(owner_dsn(events_settings))
    for statement in system_tables_ddl("alpha"):
        await connection.execute(statement)
    await migrate_bus(owner_dsn(events_settings), SERVICES)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname IN ('alpha', 'bus')")
    assert {row["tablename"] for row in tables} == {*SYSTEM_TABLES, *BUS_TABLES, "effects"}
    await connection.close()


async def test_the_dead_letters_of_an_earlier_release_learn_the_reasons_of_this_one(events_settings: Settings) -> None:
    connection = await asyncpg.connect(owner_dsn(events_settings))
    letter = """INSERT INTO alpha.dead_letters (consumer, key, organization_id, topic, partition, position, reason, body)
        VALUES ('c', 'k', gen_random_uuid(), 't', 0, 0, $1, '')"""
    await connection.execute("ALTER TABLE alpha.dead_letters DROP CONSTRAINT dead_letters_reason_check")
    await connection.execute(
        "ALTER TABLE alpha.dead_letters ADD CHECK (reason IN ('failed', 'invalid', 'parked'))"  # its name is the default one
    )
    await connection.execute(letter, "parked")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(letter, "unsupported")
    for _ in range(2):
        for statement in dead_letter_reasons_ddl("alpha"):
            await connection.execute(statement)
    await connection.execute(letter, "unsupported")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(letter, "bored")
    await connection.close()


async def test_every_table_keeps_its_organisation_as_a_column_where_it_has_events(events_settings: Settings) -> None:
    connection = await asyncpg.connect(owner_dsn(events_settings))
    rows = await connection.fetch(
        "SELECT table_name FROM information_schema.columns WHERE table_schema IN ('alpha', 'bus') AND column_name = 'organization_id'"
    )
    assert {row["table_name"] for row in rows} >= {"outbox", "inbox", "dead_letters", "log"}
    await connection.close()


@pytest.mark.parametrize("name", ["crm; DROP TABLE x", "Crm", "", "a.b", "1a"])
def test_only_plain_names_become_sql(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain identifier"):
        system_tables_ddl(name)
    with pytest.raises(ValueError, match="not a plain identifier"):
        bus_grants(name)
