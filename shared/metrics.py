"""The chassis' Prometheus metrics; names follow OpenTelemetry's semantic conventions where one exists."""

from prometheus_client import Histogram

REQUEST_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "Time from the request's arrival at a service to the end of its answer",
    ["service", "method", "status_class"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
