"""The subscriber of docs/guides/events.md, as it is printed there, against a real broker."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from deploy.kafka.protocol import choose_port
from shared import clock
from shared.events import CloudEvent
from shared.events.kafka import KafkaBus
from shared.events.partition import PARTITIONS
from shared.ids import new_id
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
TOPIC = "guardian.crm.events"
ORGANIZATION = new_id()


def program() -> str:
    guide = (ROOT / "docs/guides/events.md").read_text()
    section = guide.partition("\n## Subscribe from outside\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(found)


def contact_event(name: str, event_type: str = "contact.created") -> CloudEvent:
    (example,) = json.loads((ROOT / f"openapi/events/crm/{event_type}.v1.json").read_text())["examples"]
    subject = new_id()
    if "contact" in example:
        example["contact"] |= {"id": str(subject), "first_name": name}
    return CloudEvent(
        id=new_id(),
        source="/guardian/crm",
        type=event_type,
        subject=subject,
        time=clock.now(),
        dataschema=f"urn:guardian:schema:{event_type}:1",
        organization_id=ORGANIZATION,
        partitionkey=f"{ORGANIZATION}/{subject}",
        sequence=1,
        data=example,
    )


@pytest.fixture
async def bus(kafka_servers: str, kafka_prefix: str) -> AsyncIterator[KafkaBus]:
    values: dict[str, Any] = {"kafka_bootstrap_servers": kafka_servers, "kafka_prefix": kafka_prefix}
    made = KafkaBus(Settings(environment="test", **values), "crm")
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def subscriber(folder: Path, servers: str, prefix: str) -> AsyncIterator[Process]:
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_PREFIX": prefix}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "subscriber.py", cwd=folder, env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ends_quietly(process: Process) -> None:
    """At Ctrl-C, and having been quiet all its life: what aiokafka logs of a rebalance is no failure."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        _, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert b"Traceback" not in complaints
    assert b"Unclosed" not in complaints


async def poison(servers: str, topic: str) -> None:
    """What is no event of ours, in every partition: among what a reader must not be stopped by."""
    headers = [("ce_type", b"contact.created"), ("ce_id", b"1"), ("ce_tenantid", b"t")]
    wrong = (b"{", b'{"contact": 3}', b'{"contact": {"id": "1", "first_name": {}}}', b'{"contact": {"id": "1"}}', None)
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    try:
        for partition in range(PARTITIONS):
            await producer.send_and_wait(topic, b"no headers", partition=partition)
            await producer.send_and_wait(topic, b"{}", partition=partition, headers=[("ce_type", b"\xff")])
            for value in wrong:
                await producer.send_and_wait(topic, value, b"key", partition, headers=headers)
    finally:
        await producer.stop()


async def names(process: Process, count: int) -> set[str]:
    assert process.stdout is not None
    found = set()
    async with asyncio.timeout(40):
        for _ in range(count):
            organization, _contact, name = (await process.stdout.readline()).decode().split()
            assert organization == str(ORGANIZATION)
            found.add(name)
    return found


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_the_subscriber_of_the_guide_prints_each_new_contact_once(
    bus: KafkaBus, kafka_servers: str, kafka_prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "subscriber.py").write_text(program())
    ada = contact_event("Ada")
    await bus.append(TOPIC, [ada, contact_event("", "contact.deleted"), ada, contact_event("Grace")])
    async with subscriber(tmp_path, kafka_servers, kafka_prefix) as first:
        assert await names(first, 2) == {"Ada", "Grace"}
    # Killed, and started again from wherever its offsets were: nothing is printed twice, nothing is missed.
    await bus.append(TOPIC, [ada, contact_event("Mary")])
    async with subscriber(tmp_path, kafka_servers, kafka_prefix) as second:
        assert await names(second, 1) == {"Mary"}
        await bus.append(TOPIC, [contact_event("Joan")])
        assert await names(second, 1) == {"Joan"}


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_it_puts_what_it_cannot_read_aside_and_shares_with_a_second_member(
    bus: KafkaBus, kafka_servers: str, kafka_prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "subscriber.py").write_text(program())
    await bus.append(TOPIC, [contact_event("Ada")])
    await poison(kafka_servers, f"{kafka_prefix}.crm.events")
    async with subscriber(tmp_path, kafka_servers, kafka_prefix) as first:
        assert await names(first, 1) == {"Ada"}
        async with subscriber(tmp_path, kafka_servers, kafka_prefix) as second:
            stored = await flooded(bus, tmp_path, "joining", first, second)
            await ends_quietly(second)
        # The one that is left takes everything over.
        stored |= await flooded(bus, tmp_path, "leaving", first)
        await ends_quietly(first)
    database = sqlite3.connect(tmp_path / "subscriber.db")
    assert database.execute("SELECT count(*), count(DISTINCT event_id) FROM contacts").fetchone() == (
        len(stored) + 1,
        len(stored) + 1,
    )
    places = [place for (place,) in database.execute("SELECT place FROM unreadable")]
    assert len(places) == 7 * PARTITIONS
    assert {place.split("/")[1] for place in places} == {str(number) for number in range(PARTITIONS)}
    database.close()


async def flooded(bus: KafkaBus, folder: Path, word: str, *members: Process) -> set[str]:
    """Write until every member has said something new, so that offsets are committed while the group changes."""
    written: set[str] = set()
    said = [asyncio.create_task(heard(member, word)) for member in members]
    async with asyncio.timeout(60):
        while not all(each.done() for each in said):
            several = {f"{word}-{len(written) + number}" for number in range(20)}
            await bus.append(TOPIC, [contact_event(name) for name in sorted(several)])
            written |= several
            await asyncio.sleep(0.05)
    database = sqlite3.connect(folder / "subscriber.db")
    async with asyncio.timeout(40):
        while not written <= {name for (name,) in database.execute("SELECT name FROM contacts")}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    database.close()
    return written


async def heard(process: Process, word: str) -> None:
    assert process.stdout is not None
    while word not in (line := await process.stdout.readline()).decode():
        assert line, "it ended"


@pytest.mark.slow
async def test_it_waits_for_a_broker_that_is_away_and_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "subscriber.py").write_text(program())
    servers = f"127.0.0.1:{choose_port()}"
    async with subscriber(tmp_path, servers, "guardian") as process:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            for _ in range(2):
                while f"No broker at {servers}, trying again" not in (await process.stderr.readline()).decode():
                    pass
        await ends_quietly(process)
