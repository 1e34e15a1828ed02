"""Looking at the log and moving through it, for people and tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from uuid import UUID

from shared.events.bus import Bus, Moment, Received


async def tail(
    bus: Bus,
    topics: Sequence[str],
    *,
    since: Moment = "latest",
    follow: bool = True,
    types: Collection[str] = (),
    organization_id: UUID | None = None,
    subject: UUID | None = None,
) -> AsyncIterator[Received]:
    """Entries that match every given filter; an entry that cannot be read matches none but the organisation's."""
    async for entry in bus.read(topics, since, follow=follow):
        if organization_id is not None and entry.organization_id != organization_id:
            continue
        if (types or subject) and entry.event is None:
            continue
        if entry.event is not None and types and entry.event.type not in types:
            continue
        if entry.event is not None and subject is not None and entry.event.subject != subject:
            continue
        yield entry


async def lag(bus: Bus, groups: Sequence[str]) -> Mapping[str, int]:
    """How many entries each group is behind, over all its partitions."""
    return {group: sum((await bus.lag(group)).values()) for group in groups}


async def replay(bus: Bus, group: str, topics: Sequence[str], since: Moment = "earliest") -> int:
    """Move a group back; how many entries it will see again. Effects it already had are not repeated."""
    await bus.seek(group, topics, since)
    return sum((await bus.lag(group)).values())
