"""The gateway's own figures, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class GatewayMetrics:
    """Children are kept, because ``labels()`` costs more than the increment it leads to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "guardian_gateway_requests",
            "Requests by the service that answered, method and status",
            ["service", "method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "guardian_gateway_request_seconds",
            "Time from a request's arrival to the end of its answer",
            ["service"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._connections = Gauge(
            "guardian_gateway_upstream_connections",
            "Connections to a service in another process: open, idle among them; requests waiting for one",
            ["service", "state"],
            registry=self.registry,
        )
        self._refused = Counter(
            "guardian_gateway_refused",
            "Calls refused by a limit: the name of a plan's policy, own for an organisation's, unavailable when undecided",
            ["policy"],
            registry=self.registry,
        )
        self._gauges: list[Gauge] = []
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Show ``value()`` whenever the figures are read."""
        gauge = Gauge(name, description, registry=self.registry)
        gauge.set_function(value)
        self._gauges.append(gauge)

    def watch_connections(self, service: str, state: str, value: Callable[[], float]) -> None:
        """Show how many connections to ``service`` are in ``state``."""
        self._connections.labels(service, state).set_function(value)

    def refused(self, policy: str) -> None:
        """Count one call that a limit refused."""
        self._refused.labels(policy).inc()

    def answered(self, service: str, method: str, status: int, seconds: float) -> None:
        """Count one request. Status 499 means that the client left first."""
        if method not in _METHODS:
            method = "other"
        key = (service, method, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(service, method, str(status))
        counter.inc()
        histogram = self._histograms.get(service)
        if histogram is None:
            histogram = self._histograms[service] = self._seconds.labels(service)
        histogram.observe(seconds)
