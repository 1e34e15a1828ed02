"""Facts: published with the transaction that makes them true, handled with an effect exactly once.

Services use these names; adapters are ``shared.events.postgres.PostgresBus`` and ``.memory.MemoryBus``.
"""

from shared.events.bus import Bus, BusFeatures, Fenced, Moment, Received, Subscription
from shared.events.consumer import Consumer, Handler, Tuning
from shared.events.envelope import MAX_EVENT_BYTES, CloudEvent, InvalidEvent
from shared.events.failures import Circuit, Retry
from shared.events.outbox import publish
from shared.events.partition import PARTITIONS, topic_of
from shared.events.registry import Declaration, Event, PersonalData, declaration_of, declarations, event
from shared.events.relay import Relay
from shared.events.worker import ConsumerStatus, Job, Worker, WorkerStatus

__all__ = [
    "MAX_EVENT_BYTES",
    "PARTITIONS",
    "Bus",
    "BusFeatures",
    "Circuit",
    "CloudEvent",
    "Consumer",
    "ConsumerStatus",
    "Declaration",
    "Event",
    "Fenced",
    "Handler",
    "InvalidEvent",
    "Job",
    "Moment",
    "PersonalData",
    "Received",
    "Relay",
    "Retry",
    "Subscription",
    "Tuning",
    "Worker",
    "WorkerStatus",
    "declaration_of",
    "declarations",
    "event",
    "publish",
    "topic_of",
]
