"""A migrated database with events in it, and the commands run against it, for the tests of ``guardian events``."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from cli.main import app
from services.audit import consumers
from services.crm.events import ContactDeleted
from shared import clock
from shared.auth import Principal
from shared.db import Database
from shared.events import CloudEvent, publish, topic_of
from shared.events.envelope import schema_uri
from shared.events.postgres import PostgresBus
from shared.ids import new_id
from shared.settings import Settings

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
CRM = topic_of("crm")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def make_event(event_type: str = "contact.deleted", **fields: Any) -> CloudEvent:
    organization, subject = fields.pop("organization", None) or new_id(), fields.pop("subject", None) or new_id()
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "/guardian/crm",
        "type": event_type,
        "subject": subject,
        "time": clock.now(),
        "dataschema": schema_uri(event_type, fields.pop("version", 1)),
        "organization_id": organization,
        "partitionkey": f"{organization}/{subject}",
        "sequence": 1,
        "data": {},
        "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01",
    }
    return CloudEvent(**(values | fields))


def poisoned(**fields: Any) -> CloudEvent:
    """An event that the audit log cannot store: PostgreSQL's jsonb holds no NUL."""
    return make_event("contact.updated", data={"name": "a\0b"}, **fields)


class EventPlatform:
    """``run`` a command in this process; ``append``, ``publish`` and ``consume`` what it shall find."""

    def __init__(self, dsn: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(environment="test", home=home, database_url=SecretStr(dsn), log_level="WARNING")
        monkeypatch.setenv("DATABASE_URL", dsn)
        monkeypatch.setenv("GUARDIAN_HOME", str(home))

    def run(self, *arguments: str, status: int = 0, stdin: str | None = None) -> str:
        """What ``guardian events …`` prints, once it ended with ``status``."""
        result = CliRunner().invoke(app, ["events", *arguments], input=stdin)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result.output

    def objects(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json", status=status).splitlines()]

    def refuses(self, *arguments: str) -> str:
        """The one sentence a command says in place of an answer."""
        (line,) = self.run(*arguments, status=1).splitlines()
        assert line.startswith("guardian: ")
        return line.removeprefix("guardian: ")

    def on_terminal(self, columns: int, *arguments: str) -> list[str]:
        """The lines of a command whose output is a terminal."""
        ours, its = os.openpty()
        environment = {**os.environ, "COLUMNS": str(columns), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            subprocess.run(
                [sys.executable, "-m", "cli.main", "events", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=its,
                check=True,
            )
            os.close(its)
            text = b""
            with contextlib.suppress(OSError):  # how Linux tells the end
                while read := os.read(ours, 65536):
                    text += read
        finally:
            os.close(ours)
        return text.decode().splitlines()

    def do(self, service: str, work: Callable[[Database], Awaitable[T]]) -> T:
        async def run() -> T:
            database = Database(self.settings, service)
            await database.open()
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(run())

    def append(self, *events: CloudEvent) -> None:
        """Put events into the CRM's topic, as its relay would."""
        self.do("crm", lambda database: PostgresBus(database).append(CRM, events))

    def append_unreadable(self, key: str) -> None:
        statement = "SELECT bus.append($1, $2, $3, $4, $5, $6, $7::text[]::json[])"
        arguments = (CRM, [new_id()], [UUID(key.partition("/")[0])], ["?"], [key], [0], ['{"unreadable": 1}'])
        self.do("crm", lambda database: database.pool.execute(statement, *arguments))

    def publish(self, organization: UUID, count: int) -> None:
        """Leave events in the CRM's outbox."""

        async def work(database: Database) -> None:
            principal = Principal(organization, "system", "test", request_id="r")
            async with database.transaction(organization) as session:
                for n in range(count):
                    publish(session, ContactDeleted(), subject=new_id(), sequence=n + 1, principal=principal)

        self.do("crm", work)

    def consume(self) -> None:
        """Let the audit log's consumer read all there is."""

        async def work(database: Database) -> None:
            bus = PostgresBus(database)
            consumer = consumers.recorder(database, bus)
            member = await bus.subscribe(consumer.group, consumer.topics)
            while batch := await member.fetch(1000, 0.0):
                await consumer.process(batch)
                await member.commit(batch)
            await member.close()

        self.do("audit", work)

    def count(self, table: str, service: str = "audit") -> int:
        found = self.do(service, lambda database: database.pool.fetchval(f"SELECT count(*) FROM {table}"))
        return int(found)


def ids(letters: Sequence[dict[str, Any]]) -> list[int]:
    return [letter["id"] for letter in letters]
