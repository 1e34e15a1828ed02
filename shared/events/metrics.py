"""Prometheus metrics of the event path; gauges are set whenever a worker's status is read."""

from prometheus_client import Counter, Gauge

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
