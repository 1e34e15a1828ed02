"""``guardian events``: look at what happened, as it happens."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import orjson

from cli.system import SERVICES
from shared import clock
from shared.db import Database
from shared.events.bus import Received
from shared.events.postgres import PostgresBus
from shared.events.watch import tail as watch
from shared.settings import Settings

Say = Callable[[str], None]
TOPICS = tuple(service.topic for service in SERVICES if service.publishes)
READER = next(service.name for service in SERVICES if service.consumes)
"""Whose role reads the log: any consumer's may."""


def tail(
    settings: Settings,
    *,
    types: Sequence[str],
    organization_id: UUID | None,
    subject: UUID | None,
    since: timedelta | None,
    follow: bool,
    as_json: bool,
    say: Say,
) -> None:
    """Print events until interrupted (``follow``), or those of the last ``since`` only."""

    async def run() -> None:
        database = Database.for_service(settings, READER)
        await database.open()
        bus = PostgresBus(database)
        await bus.start()
        try:
            newest: Literal["latest", "earliest"] = "latest" if follow else "earliest"
            start = newest if since is None else clock.now() - since
            entries = watch(
                bus, TOPICS, since=start, follow=follow, types=types, organization_id=organization_id, subject=subject
            )  # fmt: skip
            async for entry in entries:
                say(_json_line(entry) if as_json else _line(entry))
        finally:
            await bus.stop()
            await database.close()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


def _json_line(entry: Received) -> str:
    position = {"topic": entry.topic, "partition": entry.partition, "position": entry.position}
    attributes = entry.event.attributes() | {"data": entry.event.data} if entry.event else {"invalid": True}
    return orjson.dumps({**position, **attributes}, default=str).decode()


def _line(entry: Received) -> str:
    event = entry.event
    if event is None:
        return f"{entry.topic}/{entry.partition}@{entry.position}  cannot be read"
    data = orjson.dumps(event.data, default=str).decode()
    shown = data if len(data) <= 160 else f"{data[:157]}…"
    return f"{_local(event.time)}  {event.type:<24} {event.subject}  #{event.sequence}  {shown}"


def _local(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
