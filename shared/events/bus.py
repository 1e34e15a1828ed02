"""What a bus is: an ordered log per (topic, partition) and consumer groups that share its partitions.

Retries, the inbox, dead letters, telemetry live above this interface, so that every bus behaves alike;
one conformance suite holds the adapters to it, and ``BusFeatures`` declares where they differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable
from uuid import UUID

from shared.db import Database
from shared.events.envelope import CloudEvent, Sealed
from shared.events.lease import Lease
from shared.ids import NIL

Moment = datetime | Literal["earliest", "latest"]
"""A place in the log: the first event recorded at or after a time, the oldest kept, or the next to come."""

Partition = tuple[str, int]
"""(topic, partition number)."""


class Fenced(Exception):
    """Another member owns some of the partitions by now; their events will be seen there."""


class BusAway(ConnectionError):
    """The bus cannot be reached, and the message says how: nothing was lost, try again."""


class WrongSetup(Exception):
    """The bus is there, and something on it is not as events need it: nothing was lost, the message says what to do."""


@dataclass(frozen=True, slots=True)
class BusFeatures:
    """What one adapter can do beyond the interface, or cannot."""

    name: str
    atomic_relay: bool
    """Events move from the outbox to the log in one transaction: a relay never duplicates."""
    takeover_seconds: float
    """Longest time until the partitions of a lost member are owned again."""
    prunes: bool = True
    """``prune`` removes entries; otherwise the log's own retention does, whether every group has seen them or not."""


@dataclass(frozen=True, slots=True)
class Received:
    """One entry of the log. ``event`` is None where it cannot be read: then ``body`` and ``error`` say why."""

    topic: str
    partition: int
    position: int
    key: str
    event: CloudEvent | None
    body: bytes = b""
    error: str | None = None
    recorded_at: datetime | None = None
    traceparent: str | None = None
    """The trace of an entry that cannot be read, where its headers still tell it."""

    @property
    def identity(self) -> UUID:
        """What the inbox knows it by: its event's id, or what stood where in the log."""
        if self.event is not None:
            return self.event.id
        place = f"{self.topic}/{self.partition}/{self.position}/".encode()
        return UUID(bytes=hashlib.blake2b(place + self.body, digest_size=16).digest())

    @property
    def organization_id(self) -> UUID:
        """The organisation of the event, from its key where the event cannot be read."""
        if self.event is not None:
            return self.event.organization_id
        try:
            return UUID(self.key.partition("/")[0])
        except ValueError:
            return NIL


class Subscription(Protocol):
    """One member of a consumer group. It keeps its membership alive by itself while it is open."""

    async def fetch(self, limit: int, wait: float) -> Sequence[Received]:
        """Up to ``limit`` entries after the last committed ones, in order within each partition.

        Waits up to ``wait`` seconds for the first. What was fetched and not committed comes again, so
        nothing is buffered ahead of the caller: not calling ``fetch`` is the back-pressure.
        """

    async def commit(self, received: Sequence[Received]) -> None:
        """Everything up to these entries is done. Raises ``Fenced`` when some partitions were lost."""

    async def close(self) -> None:
        """Leave the group; the partitions are free at once."""


class Bus(Protocol):
    """A durable, partitioned log. ``start`` and ``stop`` are counted, so that several parts may share it."""

    features: BusFeatures

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self, topics: Sequence[str]) -> None:
        """Raises ``BusAway`` or ``WrongSetup`` where events cannot pass through these topics."""

    async def append(self, topic: str, events: Sequence[CloudEvent]) -> None:
        """Append in order; when it returns, the events are as durable as the bus is."""

    async def subscribe(
        self, group: str, topics: Sequence[str], *, start: Literal["earliest", "latest"] = "earliest"
    ) -> Subscription:
        """Join a group; a group that is new to a topic begins at ``start``."""

    async def seek(self, group: str, topics: Sequence[str], to: Moment) -> None:
        """Move a whole group; what its members hold uncommitted is fenced."""

    async def lag(self, group: str) -> Mapping[Partition, int]:
        """How many entries each partition holds that the group has not committed."""

    def read(self, topics: Sequence[str], since: Moment = "latest", *, follow: bool = True) -> AsyncIterator[Received]:
        """Entries without a group: for watching and debugging. Ends at the present unless ``follow``."""

    async def prune(self, topic: str, older_than: datetime) -> int:
        """Remove entries that are old and consumed by every group; how many. See ``BusFeatures.prunes``.

        A call may leave some, so that it ends in time: call again until it removes none.
        """

    async def oldest(self, topics: Sequence[str]) -> datetime | None:
        """When the oldest entry that these topics still hold was recorded, at the latest; None when they are empty."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """A batch that was moved: how many events, and the ``traceparent`` of those whose trace is kept."""

    count: int
    traces: Sequence[str] = ()


@runtime_checkable
class AtomicRelay(Protocol):
    """A bus that lives beside the outbox and takes a batch from it in one transaction."""

    async def relay(
        self, database: Database, topic: str, lease: Lease, limit: int, *, traces: bool = False
    ) -> Relayed | None:
        """Move up to ``limit`` events while ``lease`` is held; None when it is lost. ``traces``: tell them."""


@runtime_checkable
class Forwarder(Protocol):
    """A bus that takes events as they lie in the outbox, which spares the relay reading them."""

    async def forward(self, topic: str, events: Sequence[Sealed]) -> None:
        """``append``, of sealed events."""
