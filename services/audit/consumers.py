"""Records every event of the platform as an entry of the audit log."""

from collections.abc import Sequence
from datetime import date

from services.audit import domain, service
from shared.db import Database, Session
from shared.events import Bus, CloudEvent, Consumer, Tuning, topic_of

GROUP = "audit"
SOURCES = ("crm", "identity", "ratelimit")
"""The services whose events are recorded."""


class Recorder:
    """The handler: one statement stores a run of events. It remembers which months have partitions."""

    def __init__(self) -> None:
        self._months: set[date] = set()

    async def __call__(self, session: Session, events: Sequence[CloudEvent]) -> None:
        """Store the entries of events of one organisation."""
        await service.record(session, events, self._months)


def recorder(database: Database, bus: Bus) -> Consumer:
    """The consumer of every service's events.

    Large runs, because one statement stores a whole run; four at a time, because each waits for the disk.
    """
    topics = [topic_of(source) for source in SOURCES]
    tuning = Tuning(run_size=500, concurrency=4)
    return Consumer(database, bus, GROUP, topics, Recorder(), tuning=tuning, understands=domain.UNDERSTOOD)
