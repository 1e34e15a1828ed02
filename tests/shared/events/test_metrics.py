"""What the event path counts and times."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from prometheus_client import REGISTRY

from shared.db import Database, Session
from shared.events import Circuit, CloudEvent, Relay, Retry
from shared.events.failures import CircuitOpen
from shared.events.memory import MemoryBus
from shared.ids import new_id
from tests.shared.events.support import GROUP, TOPIC, consumer_of, failing, make_event, publish_all, received, until

ProcessFactory = Callable[..., Awaitable[Database]]


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_relay_times_its_batches(process: ProcessFactory) -> None:
    database = await process()
    name = "messaging_client_operation_duration_seconds_count"
    before = value(name, service="alpha")
    await publish_all(database, new_id(), new_id(), list(range(15)))
    relay = Relay(database, MemoryBus(), batch=10)
    assert [await relay.drain_once() for _ in range(3)] == [10, 5, 0]
    assert value(name, service="alpha") - before == 2, "an empty outbox is no batch"


async def test_a_consumer_counts_retries_and_times_its_runs(process: ProcessFactory) -> None:
    attempts = 0

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Retry("not yet")

    names = ("guardian_events_retries_total", "messaging_process_duration_seconds_count")
    before = [value(name, group=GROUP) for name in names]
    await consumer_of(await process("beta"), handler).process(received([make_event()]))
    assert [value(name, group=GROUP) - old for name, old in zip(names, before, strict=True)] == [2, 3]


async def test_dead_letters_are_counted_by_reason(process: ProcessFactory) -> None:
    name = "guardian_events_dead_lettered_total"
    before = value(name, group=GROUP, reason="failed")
    await consumer_of(await process("beta"), failing(lambda _: True, ValueError("x"))).process(received([make_event()]))
    assert value(name, group=GROUP, reason="failed") - before == 1


@pytest.mark.parametrize("opens", [True, False])
async def test_the_circuit_is_a_gauge(process: ProcessFactory, opens: bool) -> None:
    bus = MemoryBus()
    await bus.append(TOPIC, [make_event(n) for n in range(20)])
    handler = failing(lambda _: opens, ValueError("x"))
    consumer = consumer_of(await process("beta"), handler, bus=bus, circuit=Circuit(failures=2, pause=60))
    running = asyncio.create_task(consumer.run())
    wanted = "circuit_open" if opens else "running"
    await until(lambda: consumer.state == wanted)
    await until(lambda: value("guardian_events_circuit_open", group=GROUP) == opens)
    consumer.stop()
    await running
    assert CircuitOpen.__name__ in (consumer.last_error or "") or not opens
