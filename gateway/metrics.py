"""The gateway's own figures, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.guards import Guard
from gateway.retries import RetryBudget
from gateway.shedding import Priority

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Answers(Collector):
    """Requests and their times, kept as numbers until somebody reads them: a request must not pay for objects."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, int], int] = {}
        self.times: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}

    def add(self, service: str, method: str, status: int, seconds: float) -> None:
        """One request."""
        key = (service, method, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        times = self.times.get(service)
        if times is None:
            times = self.times[service] = [0] * (len(_BUCKETS) + 1)
            self.seconds[service] = 0.0
        times[bisect_left(_BUCKETS, seconds)] += 1
        self.seconds[service] += seconds

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        requests = CounterMetricFamily(
            "guardian_gateway_requests",
            "Requests by the service that answered, method and status",
            labels=["service", "method", "status"],
        )
        for (service, method, status), count in self.requests.items():
            requests.add_metric([service, method, str(status)], count)
        yield requests
        times = HistogramMetricFamily(
            "guardian_gateway_request_seconds",
            "Time from a request's arrival to the end of its answer",
            labels=["service"],
        )
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        for service, counts in self.times.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            times.add_metric([service], buckets, sum_value=self.seconds[service])
        yield times


class GatewayMetrics:
    """The registry and what is counted in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = _Answers()
        self.registry.register(self._answers)
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
        self._guards = Gauge(
            "guardian_gateway_guard",
            "A service's bulkhead and breaker: requests inside, requests waiting, 1 while it is not asked (open), retries",
            ["service", "state"],
            registry=self.registry,
        )
        self._shed = Counter(
            "guardian_gateway_shed",
            "Requests refused because there was too much to do, by their class",
            ["priority"],
            registry=self.registry,
        )
        self._gauges: list[Gauge] = []

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Show ``value()`` whenever the figures are read."""
        gauge = Gauge(name, description, registry=self.registry)
        gauge.set_function(value)
        self._gauges.append(gauge)

    def watch_connections(self, service: str, state: str, value: Callable[[], float]) -> None:
        """Show how many connections to ``service`` are in ``state``."""
        self._connections.labels(service, state).set_function(value)

    def watch_guard(self, service: str, guard: Guard) -> None:
        """Show what a service's guard does."""
        for state, value in (
            ("inside", lambda: guard.bulkhead.inside),
            ("waiting", lambda: guard.bulkhead.waiting),
            ("open", lambda: guard.breaker.is_open),
        ):
            self._guards.labels(service, state).set_function(value)

    def watch_retries(self, service: str, budget: RetryBudget) -> None:
        """Show how many requests to ``service`` were tried again."""
        self._guards.labels(service, "retries").set_function(lambda: budget.spent)

    def shed(self, priority: Priority) -> None:
        """Count one request that was given up."""
        self._shed.labels(priority.name.lower()).inc()

    def refused(self, policy: str) -> None:
        """Count one call that a limit refused."""
        self._refused.labels(policy).inc()

    def answered(self, service: str, method: str, status: int, seconds: float) -> None:
        """Count one request. Status 499 means that the client left first."""
        if method not in _METHODS:
            method = "other"
        self._answers.add(service, method, status, seconds)
