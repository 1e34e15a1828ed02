"""``guardian events tail``: events as they happen."""

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from cli.events.connections import READER, CannotAnswer, Platform
from cli.events.output import NOTHING, local, print_json
from cli.system import SERVICES
from shared.events.bus import Received
from shared.events.watch import tail as watch

TOPICS = {service.name: service.topic for service in SERVICES if service.publishes}
_SHOWN = 160


def topics_of(services: Sequence[str]) -> list[str]:
    """The topics of the named services, of all that publish where none is named; raises ``CannotAnswer``."""
    for name in services:
        if name not in TOPICS:
            raise CannotAnswer(f"{name!r} is no service that publishes events; there is: {', '.join(TOPICS)}")
    return [topic for name, topic in TOPICS.items() if not services or name in services]


async def tail(
    platform: Platform,
    *,
    services: Sequence[str],
    types: Sequence[str],
    organization_id: UUID | None,
    subject: UUID | None,
    since: datetime | None,
    follow: bool,
    as_json: bool,
) -> int:
    """Print events until interrupted (``follow``), or those that are there already."""
    bus = await platform.bus(READER)
    entries = watch(
        bus,
        topics_of(services),
        since=since or ("latest" if follow else "earliest"),
        follow=follow,
        types=types,
        organization_id=organization_id,
        subject=subject,
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    async for entry in entries:
        if as_json:
            print_json(as_object(entry))
        else:
            print(line(entry, width), flush=True)
    return 0


def as_object(entry: Received) -> dict[str, Any]:
    """An entry for a program: where it stands, then the event, or why it cannot be read."""
    place = {"topic": entry.topic, "partition": entry.partition, "position": entry.position}
    if entry.event is not None:
        return {**place, **entry.event.attributes(), "data": entry.event.data}
    return {
        **place,
        "partitionkey": entry.key,
        "invalid": True,
        "error": entry.error,
        "traceparent": entry.traceparent,
        "body": entry.body.decode(errors="replace"),
    }


def line(entry: Received, width: int | None = None) -> str:
    """An entry for a person, on one line; ``width`` is that of a terminal, where there is one."""
    event = entry.event
    time = event.time if event else entry.recorded_at
    when = local(time) if time else NOTHING
    if event is None:
        place = f"{entry.topic}/{entry.partition}@{entry.position}"
        what, rest = "cannot be read", f"{entry.error}  ({place}, key {entry.key!r})  {entry.body[:_SHOWN]!r}"
    else:
        what, rest = event.type, f"{event.subject}  #{event.sequence}  {orjson.dumps(event.data).decode()}"
    room = _SHOWN + 50 if width is None else max(width - len(when) - 28, 40)
    rest = rest if len(rest) <= room else f"{rest[: room - 1]}…"
    if width is None:
        return f"{when}  {what:<24}  {rest}"
    return f"\033[2m{when}\033[0m  \033[{31 if event is None else 1}m{what:<24}\033[0m  {rest}"
