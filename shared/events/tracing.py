"""Spans of the event path, for sampled events alone: ``send`` by the relay, ``process`` around the handler.

An event carries the trace of the request that caused it. Both spans are its children, so that one trace
leads from the request through outbox, relay and bus into the consumer. An unsampled event costs the
comparison of its last three characters; where no collector is set, not even that.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeGuard

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import telemetry
from shared.db import Database
from shared.events.bus import Received
from shared.events.envelope import CloudEvent

_W3C = TraceContextTextMapPropagator()


def _is_sampled(traceparent: str | None) -> TypeGuard[str]:
    return traceparent is not None and traceparent.endswith("-01")


def innermost(traceparent: str | None) -> str | None:
    """The open span of the same trace, where there is one: what is published inside it is its child."""
    if _is_sampled(traceparent):
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        here = carrier.get("traceparent", "")
        if here[:35] == traceparent[:35]:
            return here
    return traceparent


def sampled(events: Iterable[CloudEvent]) -> list[str]:
    """The ``traceparent`` of those events whose trace is kept."""
    return [each.traceparent for each in events if _is_sampled(each.traceparent)]


class Spans:
    """Makes one service's spans, with its own tracer provider, for one bus (``system``)."""

    def __init__(self, database: Database, system: str) -> None:
        self._provider = telemetry.provider(database.service, database.settings)
        self._tracer = self._provider.get_tracer("guardian.events")
        self._system = system

    @property
    def kept(self) -> bool:
        """Whether spans go anywhere."""
        return self._provider.exports

    def sent(self, topic: str, traceparents: Sequence[str], began: int) -> None:
        """A ``send`` span for each event of a batch that has just arrived; ``began`` is in epoch nanoseconds."""
        attributes = self._attributes("send", topic)
        for traceparent in traceparents:
            self._tracer.start_span(
                f"send {topic}",
                context=_context(traceparent),
                kind=SpanKind.PRODUCER,
                attributes=attributes,
                start_time=began,
            ).end(time.time_ns())

    @contextmanager
    def processing(self, group: str, run: Sequence[Received]) -> Iterator[None]:
        """A ``process`` span for each sampled event of a run; the first one is current inside the block."""
        kept = self._provider.exports and [
            each for each in run if each.event is not None and _is_sampled(each.event.traceparent)
        ]
        if not kept:
            yield
            return
        with ExitStack() as stack:
            spans = [
                stack.enter_context(
                    self._tracer.start_as_current_span(
                        f"process {each.topic}",
                        context=_context(each.event.traceparent or "", each.event.tracestate),
                        kind=SpanKind.CONSUMER,
                        attributes=self._place(group, each, each.event, len(run)),
                    )
                )
                for each in reversed(kept)
                if each.event is not None
            ]
            try:
                yield
            except BaseException as error:
                for span in spans:
                    span.set_attribute("error.type", type(error).__qualname__)
                raise

    def _place(self, group: str, received: Received, event: CloudEvent, count: int) -> dict[str, str | int]:
        found = {
            **self._attributes("process", received.topic),
            "messaging.consumer.group.name": group,
            "messaging.destination.partition.id": str(received.partition),
            "messaging.message.id": str(event.id),
            "messaging.batch.message_count": count,
            "guardian.event.type": event.type,
        }
        if self._system == "kafka":
            found["messaging.kafka.offset"] = received.position
        return found

    def _attributes(self, operation: str, topic: str) -> dict[str, str | int]:
        return {
            "messaging.system": self._system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
        }


def _context(traceparent: str, tracestate: str | None = None) -> Context:
    carrier = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    return _W3C.extract(carrier, Context())
