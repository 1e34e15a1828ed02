"""What the audit tests share: made-up events, and waiting for a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from services.audit.consumers import Recorder
from shared import clock
from shared.db import Database
from shared.events import CloudEvent
from shared.ids import new_id

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def make_event(organization_id: UUID, action: str = "contact.updated", **fields: Any) -> CloudEvent:
    """An event as the CRM would publish it."""
    subject = fields.pop("subject", None) or new_id()
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "/guardian/crm",
        "type": action,
        "subject": subject,
        "time": clock.now(),
        "dataschema": f"urn:guardian:schema:{action}:1",
        "organization_id": organization_id,
        "partitionkey": f"{organization_id}/{subject}",
        "sequence": 1,
        "data": {},
        "authtype": "app_user",
        "authid": "0198c5a0-0000-7000-8000-00000000000a",
    }
    return CloudEvent(**(values | fields))


async def record(database: Database, *events: CloudEvent) -> Sequence[CloudEvent]:
    """Give events (of one organisation) to the consumer's handler, in a transaction of their own."""
    async with database.transaction(events[0].organization_id) as session:
        await Recorder()(session, events)
    return events


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
