"""The bus on PostgreSQL: a log with gap-free positions, cursors owned by leased members, hints by NOTIFY.

The relay is the single appender of a topic (the head rows are locked while positions are given out), so
a consumer may read ``position >= cursor`` and miss nothing. Members of a group compute the same seats
from the same list of live members; a partition changes hands with a new epoch, which fences the commits
of whoever held it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import structlog

from shared.db import Database
from shared.events import wakeups
from shared.events.bus import BusFeatures, Fenced, Moment, Partition, Received, Relayed
from shared.events.envelope import CloudEvent, InvalidEvent
from shared.events.lease import Lease
from shared.events.partition import PARTITIONS, partition_of
from shared.ids import new_id

LEASE_SECONDS = 6.0
BEAT_SECONDS = 2.0
_APPEND = "SELECT bus.append($1, $2, $3, $4, $5, $6, $7::text[]::json[])"
_RELAY = "SELECT moved, traces FROM bus.relay($1, $2, $3, $4, $5, $6)"
_COMMIT = """
UPDATE bus.cursor c SET position = n.position
FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[]) AS n (topic, partition, position, epoch),
  (SELECT set_config('synchronous_commit', 'off', true)) AS relaxed  -- a lost offset is a repeat, and the inbox knows it
WHERE c.consumer_group = $1 AND c.owner = $2
  AND c.topic = n.topic AND c.partition = n.partition AND c.epoch = n.epoch
"""
_LEAVE = """
WITH freed AS (UPDATE bus.cursor SET owner = NULL WHERE consumer_group = $1 AND owner = $2)
DELETE FROM bus.member WHERE consumer_group = $1 AND member = $2
"""
_SEEK = """
UPDATE bus.cursor SET epoch = epoch + 1, position = CASE
  WHEN $3 = 'earliest' THEN 0 ELSE bus.position_at(topic, partition, $4) END
WHERE consumer_group = $1 AND topic = ANY ($2::text[])
"""
_LAG = """
SELECT c.topic, c.partition, h.position - greatest(c.position, coalesce(
  (SELECT min(l.position) FROM bus.log l WHERE l.topic = c.topic AND l.partition = c.partition), h.position)) AS lag
FROM bus.cursor c JOIN bus.head h ON h.topic = c.topic AND h.partition = c.partition
WHERE c.consumer_group = $1 AND h.position > c.position
"""
_STARTS = """
SELECT topic, partition, CASE WHEN $2 = 'earliest' THEN 0 ELSE bus.position_at(topic, partition, $3) END AS position
FROM bus.head WHERE topic = ANY ($1::text[])
"""
_READ = """
SELECT e.* FROM unnest($1::text[], $2::int[], $3::bigint[]) AS s (topic, partition, position)
CROSS JOIN LATERAL (
  SELECT l.topic, l.partition, l.position, l.key, l.envelope::text AS envelope, l.recorded_at FROM bus.log l
  WHERE l.topic = s.topic AND l.partition = s.partition AND l.position >= s.position
  ORDER BY l.position LIMIT $4
) e ORDER BY e.recorded_at, e.topic, e.partition, e.position
"""
_OLDEST = """
SELECT min(o.recorded_at) FROM bus.head h CROSS JOIN LATERAL (
  SELECT l.recorded_at FROM bus.log l WHERE l.topic = h.topic AND l.partition = h.partition ORDER BY l.position LIMIT 1
) o WHERE h.topic = ANY ($1::text[])
"""
_log = structlog.get_logger(__name__)


def _received(row: Any, recorded_at: datetime | None = None) -> Received:
    envelope: str = row["envelope"]
    place = (row["topic"], row["partition"], row["position"], row["key"])
    try:
        return Received(*place, CloudEvent.from_json(envelope), recorded_at=recorded_at)
    except InvalidEvent as error:
        return Received(*place, None, envelope.encode(), str(error), recorded_at)


class PostgresBus:
    """The log in the schema ``bus``, reached with one service's role."""

    def __init__(self, database: Database, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.features = BusFeatures("postgres", atomic_relay=True, takeover_seconds=lease_seconds + BEAT_SECONDS)
        self.database = database
        self.lease = timedelta(seconds=lease_seconds)
        self.post: wakeups.Post | None = None
        self._beat_seconds = min(BEAT_SECONDS, lease_seconds / 3)
        self._members: set[_Member] = set()
        self._users = 0
        self._beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._users += 1
        if self._users == 1:
            await self.database.open()
            self.post = wakeups.Post.open(self.database)
            self._beats = asyncio.create_task(self._beat(), name=f"bus-beats:{self.database.service}")

    async def stop(self) -> None:
        self._users -= 1
        if self._users == 0 and self._beats is not None and self.post is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)
            await self.post.close()
            await self.database.close()

    async def check(self, topics: Sequence[str]) -> None:
        """Nothing: the log is in the database, which says for itself when it is away."""

    async def append(self, topic: str, events: Sequence[CloudEvent]) -> None:
        await self.database.pool.execute(
            _APPEND,
            topic,
            [event.id for event in events],
            [event.organization_id for event in events],
            [event.type for event in events],
            [event.partitionkey for event in events],
            [partition_of(event.partitionkey) for event in events],
            [event.to_json().decode() for event in events],
        )
        wakeups.wake(topic)

    async def relay(
        self, database: Database, topic: str, lease: Lease, limit: int, *, traces: bool = False
    ) -> Relayed | None:
        """See ``AtomicRelay``. One statement, so a process paused in it holds no lock afterwards."""
        row: Any = await database.pool.fetchrow(_RELAY, topic, lease.name, lease.owner, lease.epoch, limit, traces)
        if row["moved"] > 0:
            wakeups.wake(topic)
        return None if row["moved"] < 0 else Relayed(row["moved"], row["traces"] or ())

    async def subscribe(
        self, group: str, topics: Sequence[str], *, start: Literal["earliest", "latest"] = "earliest"
    ) -> _Member:
        await self.database.pool.execute(
            "SELECT bus.enroll($1, $2, $3, $4)", group, list(topics), PARTITIONS, start == "earliest"
        )
        member = _Member(self, group, topics)
        await member.beat()
        self._members.add(member)
        return member

    async def seek(self, group: str, topics: Sequence[str], to: Moment) -> None:
        await self.database.pool.execute(_SEEK, group, list(topics), *_place(to))
        for topic in topics:
            wakeups.wake(topic)

    async def lag(self, group: str) -> Mapping[Partition, int]:
        rows = await self.database.pool.fetch(_LAG, group)
        return {(row["topic"], row["partition"]): row["lag"] for row in rows if row["lag"] > 0}

    async def read(
        self, topics: Sequence[str], since: Moment = "latest", *, follow: bool = True
    ) -> AsyncIterator[Received]:
        signal = wakeups.subscribe(*topics)
        starts = await self.database.pool.fetch(_STARTS, list(topics), *_place(since))
        known = {(row["topic"], row["partition"]): row["position"] for row in starts}
        # A partition that nobody had written to yet is new from its first entry on.
        after = {(topic, number): known.get((topic, number), 0) for topic in topics for number in range(PARTITIONS)}
        while True:
            signal.clear()
            keys = list(after)
            places = ([topic for topic, _ in keys], [number for _, number in keys], [after[key] for key in keys])
            rows = await self.database.pool.fetch(_READ, *places, 100)
            for row in rows:
                after[row["topic"], row["partition"]] = row["position"] + 1
                yield _received(row, row["recorded_at"])
            if not rows:
                if not follow:
                    return
                await signal.wait(wakeups.POLL_SECONDS)

    async def prune(self, topic: str, older_than: datetime) -> int:
        removed: int = await self.database.pool.fetchval("SELECT bus.prune($1, $2)", topic, older_than)
        return removed

    async def oldest(self, topics: Sequence[str]) -> datetime | None:
        found: datetime | None = await self.database.pool.fetchval(_OLDEST, list(topics))
        return found

    def forget(self, member: _Member) -> None:
        """Stop keeping a member alive."""
        self._members.discard(member)

    async def _beat(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._beat_seconds)
            try:
                for member in list(self._members):
                    await member.beat()
                failing = False
            except Exception as error:
                if not failing:
                    _log.warning("events_membership_not_renewed", service=self.database.service, error=repr(error))
                failing = True


def _place(to: Moment) -> tuple[str, datetime]:
    return ("at", to) if isinstance(to, datetime) else (to, datetime.max.replace(tzinfo=UTC))


class _Member:
    """One member of a group: a ``Subscription``."""

    def __init__(self, bus: PostgresBus, group: str, topics: Sequence[str]) -> None:
        self._bus = bus
        self._group = group
        self._topics = list(topics)
        self._id: UUID = new_id()
        self._epochs: dict[Partition, int] = {}
        self._surplus = False
        self._signal = wakeups.subscribe(*topics)

    async def beat(self, *, release: bool = False) -> None:
        """Renew the membership, take the free partitions of this seat, give surplus ones up on ``release``."""
        surplus: int = await self._bus.database.pool.fetchval(
            "SELECT bus.join($1, $2, $3, $4, $5)", self._group, self._id, self._topics, self._bus.lease, release
        )
        self._surplus = surplus > 0

    async def fetch(self, limit: int, wait: float) -> Sequence[Received]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            self._signal.clear()
            # Between two batches nothing is in flight, so partitions can change hands without a repeat.
            if self._surplus:
                await self.beat(release=True)
            rows = await self._bus.database.pool.fetch(
                "SELECT * FROM bus.fetch($1, $2, $3)", self._group, self._id, limit
            )
            left = deadline - loop.time()
            if rows or left <= 0:
                self._epochs = {(row["topic"], row["partition"]): row["epoch"] for row in rows}
                return [_received(row) for row in rows]
            connected = self._bus.post is not None and self._bus.post.connected
            await self._signal.wait(left if connected else min(left, wakeups.POLL_SECONDS))

    async def commit(self, received: Sequence[Received]) -> None:
        ends: dict[Partition, int] = {}
        for each in received:
            place = each.topic, each.partition
            ends[place] = max(ends.get(place, 0), each.position + 1)
        places = list(ends)
        tag = await self._bus.database.pool.execute(
            _COMMIT,
            self._group,
            self._id,
            [topic for topic, _ in places],
            [number for _, number in places],
            [ends[place] for place in places],
            [self._epochs.get(place, -1) for place in places],
        )
        if int(tag.rpartition(" ")[2]) < len(places):
            raise Fenced(f"{self._group} lost partitions to another member")

    async def close(self) -> None:
        self._bus.forget(self)
        await self._bus.database.pool.execute(_LEAVE, self._group, self._id)
