"""Spans of the event path: for sampled events alone, children of what caused them, around the handler."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import telemetry
from shared.db import Database, Session
from shared.events import Bus, CloudEvent, Relay, Retry, publish
from shared.events import tracing as module
from shared.events.memory import MemoryBus
from shared.events.postgres import PostgresBus
from shared.ids import new_id
from shared.logs import request_context
from tests.shared.events.support import (
    GROUP,
    TOPIC,
    TRACEPARENT,
    ThingChanged,
    consumer_of,
    count,
    failing,
    make_event,
    received,
    record,
    system,
)

ProcessFactory = Callable[..., Awaitable[Database]]
SPAN_ID = TRACEPARENT[36:52]
UNSAMPLED = TRACEPARENT[:-2] + "00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Callable[[Database], InMemorySpanExporter]:
    """Where the spans of a database's service go; the other tests' providers are left alone."""
    monkeypatch.setattr(telemetry, "_providers", {})

    def keep(database: Database) -> InMemorySpanExporter:
        exporter = InMemorySpanExporter()
        provider = telemetry.provider(database.service, database.settings)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return exporter

    return keep


Keep = Callable[[Database], InMemorySpanExporter]


@pytest.fixture(params=["memory", "postgres"])
async def bus(request: pytest.FixtureRequest, process: ProcessFactory) -> Bus:
    return MemoryBus() if request.param == "memory" else PostgresBus(await process())


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def publish_traced(database: Database, *traceparents: str | None, **data: Any) -> None:
    organization = new_id()
    for traceparent in traceparents:
        with request_context(system(organization), traceparent):
            async with database.transaction(organization) as session:
                payload, who = ThingChanged(**data), system(organization)
                publish(session, payload, subject=new_id(), sequence=1, principal=who)


async def test_the_relay_makes_a_send_span_for_each_sampled_event(
    process: ProcessFactory, bus: Bus, spans: Keep
) -> None:
    database = await process()
    exporter = spans(database)
    await publish_traced(database, TRACEPARENT, UNSAMPLED, None, TRACEPARENT)
    # What a payload says is no trace context, however much it looks like one.
    await publish_traced(database, UNSAMPLED, name=f'"traceparent":"{TRACEPARENT}"')
    assert await Relay(database, bus).drain_once() == 5
    made = exporter.get_finished_spans()
    assert [span.name for span in made] == ["send guardian.alpha.events"] * 2
    assert [parent_of(span) for span in made] == [TRACEPARENT[3:52]] * 2
    assert {span.kind for span in made} == {trace.SpanKind.PRODUCER}
    assert attributes_of(made[0]) == {
        "messaging.system": bus.features.name,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "guardian.alpha.events",
    }
    assert (made[0].end_time or 0) > (made[0].start_time or 0)


async def test_nothing_is_made_when_nobody_keeps_spans(process: ProcessFactory, bus: Bus, spans: Keep) -> None:
    database = await process()
    tracer = telemetry.provider("alpha", database.settings)
    assert not tracer.exports
    await publish_traced(database, TRACEPARENT)
    relay = Relay(database, bus)
    exporter = InMemorySpanExporter()
    consumer = consumer_of(await process("beta"), record)
    assert await relay.drain_once() == 1
    await consumer.process(received([make_event(traceparent=TRACEPARENT)]))
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    await publish_traced(database, UNSAMPLED)
    assert await relay.drain_once() == 1
    assert exporter.get_finished_spans() == ()


async def test_the_process_span_encloses_the_handler(process: ProcessFactory, spans: Keep) -> None:
    database, inside = await process("beta"), []
    exporter = spans(database)

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)
        assert exporter.get_finished_spans() == ()
        await asyncio.sleep(0.002)
        with telemetry.provider("beta", database.settings).get_tracer("test").start_as_current_span("query"):
            """A database span of the handler."""

    organization, other = new_id(), TRACEPARENT.replace("4bf9", "abcd")
    first, second = (
        make_event(1, organization=organization, traceparent=TRACEPARENT),
        make_event(2, organization=organization, traceparent=other),
    )
    plain = make_event(0, organization=organization, traceparent=UNSAMPLED)
    await consumer_of(database, handler).process(received([plain, first, second]))
    made = {attributes_of(span).get("messaging.message.id", span.name): span for span in exporter.get_finished_spans()}
    assert set(made) == {str(first.id), str(second.id), "query"}
    span = made[str(first.id)]
    assert (span.name, span.kind) == (f"process {TOPIC}", trace.SpanKind.CONSUMER)
    assert [parent_of(span), parent_of(made[str(second.id)])] == [TRACEPARENT[3:52], other[3:52]]
    assert inside == [span.context.span_id], "the first sampled event's span is current"
    assert parent_of(made["query"]) == f"{span.context.trace_id:032x}-{span.context.span_id:016x}"
    assert (span.end_time or 0) - (span.start_time or 0) >= 2_000_000
    assert attributes_of(span) == {
        "messaging.system": "memory",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": GROUP,
        "messaging.message.id": str(first.id),
        "messaging.batch.message_count": 3,
        "guardian.event.type": "thing.changed",
    }


async def test_on_kafka_the_offset_is_told(process: ProcessFactory, spans: Keep) -> None:
    database = await process("beta")
    exporter = spans(database)
    (entry,) = received([make_event(traceparent=TRACEPARENT)])
    with module.Spans(database, "kafka").processing(GROUP, [entry]):
        pass
    assert attributes_of(exporter.get_finished_spans()[0])["messaging.kafka.offset"] == entry.position


async def test_a_failing_handler_leaves_its_error_on_every_span(process: ProcessFactory, spans: Keep) -> None:
    database = await process("beta")
    exporter = spans(database)
    await consumer_of(database, failing(lambda _: True, ValueError("poison"))).process(
        received([make_event(traceparent=TRACEPARENT)])
    )
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "ValueError"
    assert [event.name for event in span.events] == ["exception"]


async def test_each_attempt_has_its_span(process: ProcessFactory, spans: Keep) -> None:
    database, attempts = await process("beta"), []
    exporter = spans(database)

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise Retry("not yet")

    await consumer_of(database, handler).process(received([make_event(traceparent=TRACEPARENT)]))
    assert [span.status.is_ok for span in exporter.get_finished_spans()] == [False, False, True]


async def test_what_a_handler_publishes_is_a_child_of_its_span(process: ProcessFactory, spans: Keep) -> None:
    database = await process("beta")
    told: list[str | None] = []
    exporter = spans(database)

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        for cause in (*events, None):
            made = publish(
                session, ThingChanged(), subject=new_id(), sequence=1, principal=system(organization), cause=cause
            )
            told.append(made.traceparent)

    organization, other = new_id(), TRACEPARENT.replace("4bf9", "abcd")
    batch = [make_event(organization=organization, traceparent=each) for each in (TRACEPARENT, other)]
    await consumer_of(database, handler).process(received(batch))
    first = next(s for s in exporter.get_finished_spans() if parent_of(s) == TRACEPARENT[3:52])
    here = f"00-{first.context.trace_id:032x}-{first.context.span_id:016x}-01"
    assert told == [here, other, here], "the second event's trace is not the current one: it goes on from the event"
    assert await count(database, "outbox") == 3


@pytest.mark.parametrize("malformed", ["-01", "00-zz-00-01", "00-" + "0" * 32 + f"-{SPAN_ID}-01", "é-01"])
async def test_a_malformed_trace_context_is_no_trace(process: ProcessFactory, spans: Keep, malformed: str) -> None:
    database = await process("beta")
    exporter = spans(database)
    await consumer_of(database, record).process(received([make_event(traceparent=malformed)]))
    assert exporter.get_finished_spans() == ()
    assert await count(database) == 1
