"""Who drains: our relay and audit worker as the product runs them apart, and the peers with the same effect.

Each contender's processes are started for a round, warmed with a few events and given their backlog while
they cannot touch it: our relay's lease is held by the bench, a peer is stopped where it stands.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import asyncpg

from shared.events import topic_of
from shared.events.envelope import CloudEvent
from shared.events.kafka import KafkaBus
from shared.events.partition import partition_of
from shared.ids import new_id
from shared.settings import Settings
from tests.bench import peer_pgqueuer
from tests.bench.events_load import Organizations
from tests.bench.events_system import Drain, Entries, Process, Progress, environment

WARM = 200
_COLUMNS = ("id", "organization_id", "type", "key", "partition", "envelope")
_HOLD = """
INSERT INTO crm.leases AS l (name, owner, epoch, lease_until) VALUES ('relay', $1, 1, 'infinity')
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = l.epoch + 1, lease_until = excluded.lease_until
"""
_RELEASE = "UPDATE crm.leases SET owner = NULL, lease_until = '-infinity' WHERE name = 'relay'"


class Contender(ABC):
    """Drains a backlog into the audit log. ``others`` are processes beside ours whose CPU counts."""

    name: str

    def __init__(self, settings: Settings, entries: Entries, others: dict[str, int]) -> None:
        self.settings = settings
        self.entries = entries
        self._others = others

    async def round(self, organizations: Organizations, count: int, progress: Progress) -> Drain:
        """One drain of ``count`` events with processes of its own."""
        processes = self.start()
        pids = {each.name: each.pid for each in processes} | self._others
        try:
            await self.entries.clear()
            await self.fill(list(organizations.events(WARM)))
            await self.entries.arrive(WARM, lambda: None, pids, lambda _: None)
            await self.hold(processes)
            await self.entries.clear()
            await self.fill(list(organizations.events(count)))
            await self.entries.settle()
            return await self.entries.arrive(count, lambda: self.release(processes), pids, progress)
        finally:
            for process in processes:
                process.stop()

    @abstractmethod
    def start(self) -> list[Process]: ...

    @abstractmethod
    async def hold(self, processes: Sequence[Process]) -> None:
        """Keep the backlog from being touched."""

    @abstractmethod
    async def fill(self, events: list[CloudEvent]) -> None: ...

    @abstractmethod
    async def release(self, processes: Sequence[Process]) -> None: ...


class Ours(Contender):
    """The CRM's worker (its relay) and the audit log's worker, a process each, on the bus of the settings."""

    name = "guardian"

    def start(self) -> list[Process]:
        """The two workers."""
        inherited = environment(self.settings)
        return [Process(name, ["cli.main", "run", name, "--role", "worker"], inherited) for name in ("crm", "audit")]

    async def hold(self, processes: Sequence[Process]) -> None:
        """Take the relay's lease; whoever had it does nothing without."""
        await self.entries.connection.execute(_HOLD, new_id())

    async def fill(self, events: list[CloudEvent]) -> None:
        """Put events into the CRM's outbox, as its transactions would have."""
        rows = [
            (event.id, event.organization_id, event.type, event.partitionkey, partition_of(event.partitionkey),
             event.to_json().decode())
            for event in events
        ]  # fmt: skip
        await self.entries.connection.copy_records_to_table("outbox", schema_name="crm", columns=_COLUMNS, records=rows)

    async def release(self, processes: Sequence[Process]) -> None:
        """Give the lease up and hint at it, as a relay that stops would have and a commit does."""
        await self.entries.connection.execute(_RELEASE)
        await self.entries.connection.execute("SELECT pg_notify('guardian_events', 'outbox:crm')")


class _Peer(Contender):
    """A peer in one process, stopped where it stands while its backlog is made."""

    module: str
    arguments: tuple[str, ...] = ()

    def start(self) -> list[Process]:
        """The peer's process."""
        return [Process(self.name, [self.module, *self.arguments], environment(self.settings))]

    async def hold(self, processes: Sequence[Process]) -> None:
        """Stop it, once what it was given before is done."""
        await asyncio.sleep(0.5)
        for process in processes:
            process.pause()

    async def release(self, processes: Sequence[Process]) -> None:
        """Let it go on."""
        for process in processes:
            process.go_on()


class PgQueuer(_Peer):
    """pgqueuer on the same PostgreSQL."""

    name = "pgqueuer"
    module = "tests.bench.peer_pgqueuer"

    async def fill(self, events: list[CloudEvent]) -> None:
        """One job for each event."""
        await peer_pgqueuer.enqueue(self.entries.connection, [event.to_json() for event in events])


class FastStream(_Peer):
    """A FastStream subscriber on the same broker that commits per message."""

    name = "faststream"
    module = "tests.bench.peer_faststream"
    batch = False

    def __init__(self, settings: Settings, entries: Entries, others: dict[str, int]) -> None:
        super().__init__(settings, entries, others)
        self._topic = topic_of("batched" if self.batch else "single")
        self.arguments = ("batch" if self.batch else "single", self._topic)
        self._bus = KafkaBus(settings, "bench")

    async def round(self, organizations: Organizations, count: int, progress: Progress) -> Drain:
        """The topic is made first, with as many partitions as ours: FastStream would make it with one."""
        await self.fill([])
        return await super().round(organizations, count, progress)

    async def fill(self, events: list[CloudEvent]) -> None:
        """The events in the peer's topic, as our producer writes them."""
        await self._bus.start()
        try:
            for first in range(0, len(events) or 1, 1000):
                await self._bus.append(self._topic, events[first : first + 1000])
        finally:
            await self._bus.stop()


class FastStreamBatch(FastStream):
    """A FastStream subscriber that commits per batch."""

    name = "faststream, per batch"
    batch = True


async def prepare_pgqueuer(connection: "asyncpg.Connection[Any]") -> None:
    """Make pgqueuer's tables."""
    await peer_pgqueuer.prepare(connection)
