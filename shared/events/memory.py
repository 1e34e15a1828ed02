"""The bus in one process's memory: for tests and tools; it loses everything with the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Literal

from shared import clock
from shared.events import wakeups
from shared.events.bus import BusFeatures, Fenced, Moment, Partition, Received
from shared.events.envelope import CloudEvent
from shared.events.partition import PARTITIONS, partition_of


class MemoryBus:
    """Lists for logs, dictionaries for cursors; the members of a group share partitions by their order."""

    features = BusFeatures("memory", atomic_relay=False, takeover_seconds=0.0)

    def __init__(self) -> None:
        self._logs: dict[Partition, list[Received]] = {}
        self._removed: dict[Partition, int] = {}
        self._cursors: dict[tuple[str, Partition], int] = {}
        self._groups: dict[str, list[_Member]] = {}

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def check(self, topics: Sequence[str]) -> None:
        """It is always there."""

    async def append(self, topic: str, events: Sequence[CloudEvent]) -> None:
        now = clock.now()
        for event in events:
            place = topic, partition_of(event.partitionkey)
            entry = Received(*place, self.end(place), event.partitionkey, event, recorded_at=now)
            self._logs.setdefault(place, []).append(entry)
        wakeups.wake(topic, remote=False)

    async def append_raw(self, topic: str, key: str, body: bytes, error: str) -> None:
        """Append an entry that cannot be read, as a broker may hold."""
        place = topic, partition_of(key)
        entry = Received(*place, self.end(place), key, None, body, error, clock.now())
        self._logs.setdefault(place, []).append(entry)
        wakeups.wake(topic, remote=False)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, start: Literal["earliest", "latest"] = "earliest"
    ) -> _Member:
        for topic in topics:
            for number in range(PARTITIONS):
                place = topic, number
                self._cursors.setdefault((group, place), 0 if start == "earliest" else self.end(place))
        member = _Member(self, group, topics)
        self._groups.setdefault(group, []).append(member)
        return member

    async def seek(self, group: str, topics: Sequence[str], to: Moment) -> None:
        for member in self._groups.get(group, []):
            member.fence()
        for topic in topics:
            for number in range(PARTITIONS):
                self._cursors[group, (topic, number)] = self._position(topic, number, to)
            wakeups.wake(topic, remote=False)

    async def lag(self, group: str) -> Mapping[Partition, int]:
        waiting = {
            place: self.end(place) - max(position, self._removed.get(place, 0))
            for (of, place), position in self._cursors.items()
            if of == group
        }
        return {place: count for place, count in waiting.items() if count > 0}

    async def read(
        self, topics: Sequence[str], since: Moment = "latest", *, follow: bool = True
    ) -> AsyncIterator[Received]:
        signal = wakeups.subscribe(*topics)
        after = {
            (topic, number): self._position(topic, number, since) for topic in topics for number in range(PARTITIONS)
        }
        while True:
            signal.clear()
            found = [entry for place, position in after.items() for entry in self.entries(place, position, 100)]
            for entry in found:
                after[entry.topic, entry.partition] = entry.position + 1
                yield entry
            if not found:
                if not follow:
                    return
                await signal.wait(wakeups.POLL_SECONDS)

    async def prune(self, topic: str, older_than: datetime) -> int:
        removed = 0
        for place, log in self._logs.items():
            if place[0] != topic:
                continue
            consumed = [position for (_, at), position in self._cursors.items() if at == place]
            below = min([self._position(*place, older_than), *consumed])
            count = max(below - self._removed.get(place, 0), 0)
            del log[:count]
            self._removed[place] = self._removed.get(place, 0) + count
            removed += count
        return removed

    async def oldest(self, topics: Sequence[str]) -> datetime | None:
        first = [log[0].recorded_at for (topic, _), log in self._logs.items() if topic in topics and log]
        return min((each for each in first if each is not None), default=None)

    def end(self, place: Partition) -> int:
        """The position the next entry gets."""
        return self._removed.get(place, 0) + len(self._logs.get(place, ()))

    def entries(self, place: Partition, position: int, limit: int) -> list[Received]:
        """Up to ``limit`` entries from ``position`` on."""
        first = max(position - self._removed.get(place, 0), 0)
        return self._logs.get(place, [])[first : first + limit]

    def pending(self, group: str, member: _Member) -> dict[Partition, int]:
        """The partitions whose seat ``member`` has and that hold more, with the group's positions."""
        members = self._groups.get(group, [])
        if member not in members:
            return {}
        seat, seats = members.index(member), len(members)
        return {
            place: position
            for (of, place), position in self._cursors.items()
            if of == group and place[1] % seats == seat and position < self.end(place)
        }

    def commit(self, group: str, member: _Member, ends: Mapping[Partition, int]) -> None:
        """Move the cursors of the partitions ``member`` still has the seat of."""
        members = self._groups.get(group, [])
        for place, end in ends.items():
            if member not in members or place[1] % len(members) != members.index(member):
                raise Fenced(f"{group} lost {place} to another member")
            self._cursors[group, place] = end

    def leave(self, group: str, member: _Member) -> None:
        """Take a member out of its group, as its end or its loss does."""
        members = self._groups.get(group, [])
        if member in members:
            members.remove(member)
            for topic in {place[0] for of, place in self._cursors if of == group}:
                wakeups.wake(topic, remote=False)

    def _position(self, topic: str, number: int, to: Moment) -> int:
        place = topic, number
        if to == "earliest":
            return 0
        if not isinstance(to, datetime):
            return self.end(place)
        for entry in self._logs.get(place, []):
            if entry.recorded_at is not None and entry.recorded_at >= to:
                return entry.position
        return self.end(place)


class _Member:
    """One member of a group: a ``Subscription``."""

    def __init__(self, bus: MemoryBus, group: str, topics: Sequence[str]) -> None:
        self._bus = bus
        self._group = group
        self._fenced = False
        self._signal = wakeups.subscribe(*topics)

    def fence(self) -> None:
        """Refuse the next commit."""
        self._fenced = True

    async def fetch(self, limit: int, wait: float) -> Sequence[Received]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            self._signal.clear()
            self._fenced = False
            pending = self._bus.pending(self._group, self)
            share = max(limit // max(len(pending), 1), 1)
            found = [e for place, position in pending.items() for e in self._bus.entries(place, position, share)]
            left = deadline - loop.time()
            if found or left <= 0:
                return found[:limit]
            await self._signal.wait(left)

    async def commit(self, received: Sequence[Received]) -> None:
        if self._fenced:
            raise Fenced(f"{self._group} was moved")
        ends: dict[Partition, int] = {}
        for each in received:
            ends[each.topic, each.partition] = max(ends.get((each.topic, each.partition), 0), each.position + 1)
        self._bus.commit(self._group, self, ends)

    async def close(self) -> None:
        self._bus.leave(self._group, self)
