"""``guardian events`` beside a worker that runs, on both buses; what does not end by itself as a process of its own."""

import asyncio
import contextlib
import io
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from cli.events import dead, replay
from cli.events.connections import connected
from cli.events.lag import lag
from cli.events.tail import tail
from services.audit.app import worker
from shared import clock
from shared.db import Database
from shared.events import Bus, CloudEvent
from shared.events.connect import connect_bus
from shared.ids import new_id
from shared.settings import Settings
from tests.cli.event_platform import CRM, make_event, poisoned
from tests.shared.events.support import until

ROOT = Path(__file__).parents[2]


class Running:
    """An audit worker in this process, and ``guardian events`` in others."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.crm = Database.for_service(settings, "crm")
        self.audit = Database.for_service(settings, "audit")
        self.bus: Bus = connect_bus(settings, self.crm)
        self._processes: list[asyncio.subprocess.Process] = []

    async def append(self, *events: CloudEvent) -> None:
        await self.bus.append(CRM, events)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        dsn, servers = self.settings.database_url, self.settings.kafka_bootstrap_servers
        assert dsn is not None
        environment = {**os.environ, "DATABASE_URL": dsn.get_secret_value(), "GUARDIAN_HOME": str(self.settings.home)}
        environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), *(path for path in sys.path if path)))
        if servers is not None:
            environment |= {"KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_PREFIX": self.settings.kafka_prefix}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", "events", *arguments, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE
        )
        self._processes.append(process)
        return process

    async def end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def run(self, command: Callable[..., Awaitable[int]], *, status: int = 0, **options: Any) -> str:
        """What a command prints, once it ended with ``status``."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            async with connected(self.settings) as platform:
                assert await command(platform, **options) == status
        return out.getvalue()

    async def objects(self, command: Callable[..., Awaitable[int]], **options: Any) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self.run(command, as_json=True, **options)).splitlines()]

    async def count(self, table: str) -> int:
        return int(await self.audit.pool.fetchval(f"SELECT count(*) FROM {table}"))


@pytest_asyncio.fixture(loop_scope="session", params=["postgres", "kafka"])
async def running(request: pytest.FixtureRequest, fresh_database: str, tmp_path: Path) -> AsyncIterator[Running]:
    kafka: dict[str, str] = {}
    if request.param == "kafka":
        kafka["kafka_bootstrap_servers"] = request.getfixturevalue("kafka_servers")
        kafka["kafka_prefix"] = request.getfixturevalue("kafka_prefix")
    settings = Settings(
        environment="test",
        home=tmp_path,
        database_url=SecretStr(fresh_database),
        log_level="WARNING",
        **kafka,  # type: ignore[arg-type]
    )
    made, recording = Running(settings), worker(settings)
    await made.crm.open()
    await made.bus.start()
    await recording.start()
    yield made
    await made.end()
    await recording.stop()
    await made.bus.stop()
    await made.crm.close()


async def test_from_a_poisoned_event_to_a_replay(running: Running) -> None:
    organization, entity = new_id(), new_id()
    first = [make_event(organization=organization, subject=entity, sequence=n) for n in range(3)]
    await running.append(
        *first,
        poisoned(organization=organization, subject=entity, sequence=3),
        make_event(organization=organization, subject=entity, sequence=4),
        make_event(organization=organization),
    )

    async def dealt_with() -> bool:
        return await running.count("inbox") == 6

    await until(dealt_with, 30)
    any_letter: dict[str, Any] = {"key": None, "organization_id": None, "reason": None, "limit": 9}
    again: dict[str, Any] = {"group": "audit", "key": None, "wait": 20.0, "as_json": False}
    failed, parked = await running.objects(dead.listed, group="audit", **any_letter)
    assert (failed["reason"], parked["reason"]) == ("failed", "parked")
    said = await running.run(dead.redrive, number=failed["id"], everything=False, status=1, **again)
    assert "0 events handled." in said
    assert "1 key failed again (2 events still wait)" in said
    await running.run(dead.discarded, number=failed["id"], group="audit", yes=True)
    said = await running.run(dead.redrive, number=None, everything=True, **again)
    assert said == "audit will try 1 event of 1 key again, each key in order.\n1 event handled.\n"
    assert await running.objects(dead.listed, group="audit", **any_letter) == []

    every: dict[str, Any] = {"types": (), "organization_id": None}
    read = await running.objects(tail, services=(), since=None, follow=False, subject=entity, **every)
    assert [each["sequence"] for each in read] == [f"{n:020d}" for n in range(5)]
    hour_ago = clock.now() - timedelta(hours=1)
    (moved,) = await running.objects(replay.replay, group="audit", since=hour_ago, yes=True)
    assert moved["events"] == 6

    async def caught_up() -> bool:
        (group, *_) = await running.objects(lag, group="audit", partitions=False, watch=False)
        return bool(group["behind"] == 0 and group["state"] == "up to date")

    await until(caught_up, 30)
    assert await running.count("inbox") == 6
    assert await running.count("dead_letters") == 0
    said = await running.run(
        replay.rehearse, group="audit", since="earliest", subject=None, limit=99, as_json=False, status=1, **every
    )
    assert "5 ok, 1 would fail" in said


async def test_following(running: Running) -> None:
    subject = new_id()
    process = await running.start("tail", "--subject", str(subject))
    assert process.stdout is not None

    async def some() -> None:
        while True:  # from when on it follows cannot be seen from outside
            await running.append(make_event(subject=subject))
            await asyncio.sleep(0.3)

    sending = asyncio.create_task(some())
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    sending.cancel()
    assert f"contact.deleted           {subject}  #1  {{}}" in line.decode()
    process.send_signal(2)
    _, errors = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, errors) == (0, b"")


async def test_watching(running: Running) -> None:
    process = await running.start("lag", "--watch", "--json")
    assert process.stdout is not None
    lines = [json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) for _ in range(8)]
    assert [each["kind"] for each in lines] == ["group", "outbox", "outbox", "outbox"] * 2
    process.send_signal(2)
    await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
