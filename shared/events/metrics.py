"""Prometheus metrics of the event path (the table is in docs/guides/events.md).

Gauges are set whenever a worker's status is read. Durations are of batches, named as in OpenTelemetry's conventions.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

PUBLISHED = Counter("guardian_events_published_total", "Events committed to the outbox", ["service"])
RELAYED = Counter("guardian_events_relayed_total", "Events moved from the outbox to the bus", ["service"])
HANDLED = Counter(
    "guardian_events_handled_total",
    "Events a consumer group has dealt with; outcome is done, repeated, parked or dead",
    ["group", "outcome"],
)
OUTBOX_AGE = Gauge("guardian_events_outbox_oldest_seconds", "Age of the oldest event not yet relayed", ["service"])
LAG = Gauge("guardian_events_consumer_lag", "Events in the log a consumer group has not committed", ["group"])
DEAD = Gauge("guardian_events_dead_letters", "Dead letters and parked events of a consumer group", ["group"])
CIRCUIT = Gauge("guardian_events_circuit_open", "1 while a consumer group's circuit is not closed", ["group"])
RETRIES = Counter("guardian_events_retries_total", "Attempts at an event after its first one", ["group"])
DEAD_LETTERED = Counter(
    "guardian_events_dead_lettered_total",
    "Events put among the dead letters, by reason; those parked behind them are not counted",
    ["group", "reason"],
)
SEND_SECONDS = Histogram(
    "messaging_client_operation_duration_seconds",
    "Time a relay took to move a batch from the outbox to the bus; its count is that of the batches",
    ["service"],
    buckets=_SECONDS,
)
PROCESS_SECONDS = Histogram(
    "messaging_process_duration_seconds",
    "Time a consumer group's handler took for a run of events",
    ["group"],
    buckets=_SECONDS,
)
