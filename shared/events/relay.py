"""Moves a service's events from its outbox to the bus: one active relay per service, in order.

The lease's epoch is checked in the statement that removes rows from the outbox, so a relay that was
paused past its lease does nothing. A bus that lives in the same database takes a batch in that very
transaction; for any other bus a crash between sending and removing sends again, and the inbox absorbs it.
"""

import time

import structlog

from shared.buggify import buggify
from shared.db import Database
from shared.events import metrics, wakeups
from shared.events.bus import AtomicRelay, Bus, Forwarder, Relayed
from shared.events.envelope import CloudEvent, Sealed
from shared.events.lease import Lease
from shared.events.outbox import outbox_signal
from shared.events.partition import topic_of
from shared.events.tracing import Spans, sampled

# At most so many events, and 8 MB; the first one always.
_READ = """
SELECT seq, key, partition, envelope FROM (
  SELECT *, sum(octet_length(envelope)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - octet_length(envelope) AS before
  FROM (SELECT seq, key, partition, envelope::text AS envelope FROM outbox ORDER BY seq LIMIT $1) AS batch
) AS summed WHERE before < 8000000 ORDER BY seq
"""
_REMOVE = """
WITH held AS MATERIALIZED (
  SELECT 1 FROM leases WHERE name = $2 AND owner = $3 AND epoch = $4 FOR UPDATE
)
DELETE FROM outbox WHERE seq = ANY ($1::bigint[]) AND EXISTS (SELECT FROM held)
"""
_OLDEST = """
SELECT coalesce(extract(epoch FROM clock_timestamp() -
  (SELECT created_at FROM outbox ORDER BY seq LIMIT 1)), 0)::float8
"""
_UNSENT = "SELECT count(*) FROM (SELECT FROM outbox LIMIT 100000) AS rows"
_log = structlog.get_logger(__name__)


class Relay:
    """The relay of ``database.service``. ``run`` it as a task, or call ``drain_once`` yourself."""

    def __init__(self, database: Database, bus: Bus, *, batch: int = 500, lease_seconds: float = 6.0) -> None:
        self.service = database.service
        self.topic = topic_of(database.service)
        self.lease = Lease(database, "relay", lease_seconds)
        self._database = database
        self._bus = bus
        self._batch = batch
        self._spans = Spans(database, bus.features.name)
        self._signal = wakeups.subscribe(outbox_signal(database.service))
        self._finishing = False

    @property
    def active(self) -> bool:
        """Whether this relay is the one that works; the others stand by."""
        return self.lease.held

    async def run(self) -> None:
        """Relay until ``finish``. Errors are the supervisor's to handle; running again is safe."""
        try:
            while not self._finishing:
                self._signal.clear()
                if await self.drain_once() == 0 and not self._finishing:
                    await self._signal.wait(wakeups.POLL_SECONDS)
        finally:
            self._signal.exclusive = False

    def finish(self) -> None:
        """End ``run`` after the batch in hand: one that is sent and not marked as sent would be sent again."""
        self._finishing = True
        self._signal.set()

    async def stop(self) -> None:
        """Let another relay take over at once."""
        await self.lease.release()

    async def drain_once(self) -> int:
        """Move one batch, if this relay holds the lease (or can take it); how many events."""
        self._signal.exclusive = await self.lease.hold()
        if not self.lease.held:
            return 0
        began = time.time_ns()
        if isinstance(self._bus, AtomicRelay):
            buggify("relay.read")
            moved = await self._bus.relay(self._database, self.topic, self.lease, self._batch, traces=self._spans.kept)
        else:
            moved = await self._send()
        if moved is None:
            _log.info("events_relay_fenced", service=self.service)
            self.lease.lost()
            self._signal.exclusive = False
            return 0
        if moved.count:
            buggify("relay.removed")
            metrics.RELAYED.labels(self.service).inc(moved.count)
            metrics.SEND_SECONDS.labels(self.service).observe((time.time_ns() - began) / 1e9)
            self._spans.sent(self.topic, moved.traces, began)
        return moved.count

    async def oldest_unsent_seconds(self) -> float:
        """Age of the oldest event in the outbox; 0 when there is none."""
        return float(await self._database.pool.fetchval(_OLDEST))

    async def unsent(self) -> int:
        """How many events the outbox holds; no more than 100,000 are counted."""
        return int(await self._database.pool.fetchval(_UNSENT))

    async def _send(self) -> Relayed | None:
        rows = await self._database.pool.fetch(_READ, self._batch)
        if not rows:
            return Relayed(0)
        buggify("relay.read")
        # Whoever slept here may have been replaced, and would append old events behind newer ones.
        if not self.lease.lasts:
            return None
        if isinstance(self._bus, Forwarder):
            await self._bus.forward(self.topic, [Sealed(row["key"], row["partition"], row["envelope"]) for row in rows])
        else:
            await self._bus.append(self.topic, [CloudEvent.from_json(row["envelope"]) for row in rows])
        buggify("relay.sent")
        tag = await self._database.pool.execute(
            _REMOVE, [row["seq"] for row in rows], self.lease.name, self.lease.owner, self.lease.epoch
        )
        # The text is searched first: only a sampled event is worth reading.
        kept = [CloudEvent.from_json(row["envelope"]) for row in rows if self._spans.kept and '-01"' in row["envelope"]]
        return None if tag == "DELETE 0" else Relayed(len(rows), sampled(kept))
