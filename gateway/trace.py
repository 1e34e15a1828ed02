"""Request ids and W3C trace context, and the gateway's own span of the requests that are sampled.

A client's trace id is continued, its sampling flag is not believed: what spans cost is ours to decide.
Spans are made only when a collector is set; every other request gets random ids and nothing else.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

if TYPE_CHECKING:
    from shared.settings import Settings

_random = random.Random()  # noqa: S311 (identifiers, not secrets; its own, so that nobody else's seed makes them repeat)
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}")
_TRACESTATE_LIMIT = 512


def request_id_of(header: bytes | None) -> str:
    """The client's request id when it is sane, else a fresh one of 32 hexadecimal digits."""
    if header is not None and _REQUEST_ID.fullmatch(header):
        return header.decode("ascii")
    return _random.randbytes(16).hex()


def parse_traceparent(header: bytes | None) -> tuple[str, str] | None:
    """``(trace id, parent span id)`` of a valid header, by the rules of W3C Trace Context §3.2."""
    match = None if header is None else _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, _, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    return trace_id.decode(), span_id.decode()


class Trace:
    """One request's trace context, as the service receives it."""

    __slots__ = ("span", "traceparent", "tracestate")

    def __init__(self, traceparent: bytes, tracestate: bytes | None, span: Span | None) -> None:
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.span = span

    def finish(self, status: int, route: str, method: str) -> None:
        """Complete the span, when there is one."""
        if self.span is None:
            return
        self.span.update_name(f"{method} {route}")
        self.span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= 500:
            self.span.set_status(otel.StatusCode.ERROR)
        self.span.end()


class Tracing:
    """Decides what is sampled and makes the gateway's spans."""

    def __init__(self, settings: Settings, processor: SpanProcessor | None = None) -> None:
        if processor is None and settings.otlp_endpoint:
            # The exporter brings an HTTP client: not imported unless it is used.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

            processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint}/v1/traces"))
        self._ratio = settings.trace_sample_ratio if processor is not None else 0.0
        self._provider: TracerProvider | None = None
        if processor is not None:
            resource = Resource.create({"service.name": "gateway", "service.namespace": "guardian"})
            self._provider = TracerProvider(resource=resource)
            self._provider.add_span_processor(processor)
            self._tracer = self._provider.get_tracer("guardian.gateway")

    def begin(self, traceparent: bytes | None, tracestate: bytes | None) -> Trace:
        """The context to send to the service: the client's trace continued, or a new one."""
        parent = parse_traceparent(traceparent)
        if parent is None or (tracestate is not None and len(tracestate) > _TRACESTATE_LIMIT):
            tracestate = None
        if self._ratio and _random.random() < self._ratio:
            return self._sampled(parent, tracestate)
        made = _random.randbytes(24).hex()  # all zeros would be invalid, and comes once in 2^64
        return Trace(f"00-{parent[0] if parent else made[:32]}-{made[32:]}-00".encode(), tracestate, None)

    def close(self) -> None:
        """Send the spans that are left and stop."""
        if self._provider is not None:
            self._provider.shutdown()

    def _sampled(self, parent: tuple[str, str] | None, tracestate: bytes | None) -> Trace:
        context = None
        if parent is not None:
            remote = SpanContext(int(parent[0], 16), int(parent[1], 16), True, TraceFlags(TraceFlags.SAMPLED))
            context = otel.set_span_in_context(NonRecordingSpan(remote))
        span = self._tracer.start_span("request", context=context, kind=SpanKind.SERVER)
        made = span.get_span_context()
        return Trace(f"00-{made.trace_id:032x}-{made.span_id:016x}-01".encode(), tracestate, span)
