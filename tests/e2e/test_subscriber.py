"""The subscriber of docs/guides/events.md, as it is printed there, against a real broker."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared import clock
from shared.events import CloudEvent
from shared.events.kafka import KafkaBus
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
        sys.executable, "subscriber.py", cwd=folder, env=environment, stdout=PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


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
