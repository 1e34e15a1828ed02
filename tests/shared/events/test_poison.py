"""Events that harm: unreadable, unknown, too new, too large, slow to fail, and many of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from shared.db import Session
from shared.events import MAX_EVENT_BYTES, Circuit, CloudEvent, InvalidEvent, Received, Retry, Tuning, publish
from shared.events.deadletters import DeadLetter, dead, redrive, redrive_understood
from shared.events.envelope import schema_uri
from shared.events.failures import CircuitOpen
from shared.events.memory import MemoryBus
from shared.ids import new_id
from tests.shared.events.support import (
    GROUP,
    TOPIC,
    TRACEPARENT,
    Poison,
    ProcessFactory,
    ThingChanged,
    consumer_of,
    count,
    effects,
    failing,
    make_event,
    received,
    record,
    system,
    until,
)

KNOWN = {"thing.changed": 1}


def unreadable(body: bytes, key: str, position: int = 0, traceparent: str | None = None) -> Received:
    """An entry as a bus hands it over when its body is no event."""
    with pytest.raises(InvalidEvent) as caught:
        CloudEvent.from_json(body)
    return Received(TOPIC, 3, position, key, None, body, str(caught.value), traceparent=traceparent)


def newer(n: int, version: int = 2, **fields: Any) -> CloudEvent:
    return make_event(n, **fields, dataschema=schema_uri("thing.changed", version))


def whole(letter: DeadLetter) -> tuple[str, str | None, int, int]:
    return letter.reason, letter.trace_id, letter.partition, letter.position


TRACE = TRACEPARENT[3:35]


@pytest.mark.parametrize(
    "body, error",
    [
        (b"{bad", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"specversion": "0.3"}', "specversion is"),
        (b'{"data": {}, "specversion": "1.0", "subject": "x"}', "id is missing"),
        (b'{"pad": "' + b"x" * 1_048_576 + b'"}', "bytes, more than 524288"),
    ],
    ids=["bad JSON", "no object", "wrong version", "no CloudEvent", "1 MB"],
)
async def test_what_cannot_be_read_is_kept_whole_and_delays_nobody(
    process: ProcessFactory, body: bytes, error: str
) -> None:
    database, organization, entity = await process("beta"), new_id(), new_id()
    key = f"{organization}/{entity}"
    others = received([make_event(n, organization=organization) for n in range(499)])
    behind = received([make_event(1, organization=organization, entity=entity)])
    bad = unreadable(body, key, 7, TRACEPARENT)
    await consumer_of(database, record, tuning=Tuning(run_size=500)).process(
        [*others[:250], bad, *behind, *others[250:]]
    )
    assert await count(database) == 499
    letter, parked = await dead(database, GROUP)
    assert whole(letter) == ("invalid", TRACE, 3, 7)
    assert (letter.body, letter.attempts) == (body, 1)
    assert error in (letter.error or "")
    assert (parked.reason, parked.key) == ("parked", key)
    # What is delivered again is not put aside again.
    await consumer_of(database, record).process([bad])
    assert await count(database, "dead_letters") == 2


async def test_the_trace_is_found_in_a_body_that_is_no_event(process: ProcessFactory) -> None:
    database = await process("beta")
    body = b'{"specversion": "1.0", "traceparent": "%s"}' % TRACEPARENT.encode()
    await consumer_of(database, record).process([unreadable(body, "x")])
    assert [whole(each) for each in await dead(database, GROUP)] == [("invalid", TRACE, 3, 0)]


async def test_a_newer_version_waits_for_a_newer_consumer(process: ProcessFactory) -> None:
    database, bus, organization, entity = await process("beta"), MemoryBus(), new_id(), new_id()
    key = f"{organization}/{entity}"
    events = [
        make_event(0, organization=organization, entity=entity),
        newer(1, organization=organization, entity=entity, data={"note": "what PostgreSQL reads as no JSON: \0"}),
    ]
    await consumer_of(database, record, understands=KNOWN).process(
        received([*events, make_event(2, organization=organization, entity=entity), make_event(9)])
    )
    letter, parked = await dead(database, GROUP)
    assert (letter.reason, parked.reason) == ("unsupported", "parked")
    assert letter.error == (
        "thing.changed has version 2, and beta.test reads versions up to 1. Where a newer release of beta reads it, deploy "
        "that: it then handles it by itself. Where none does, it is a mistake of its publisher: mend that, and drop this "
        "event."
    )
    # Asking the old one again changes nothing; the release that understands it needs nobody to ask.
    old = consumer_of(database, record, understands=KNOWN)
    await redrive(database, GROUP)
    assert await old.redrive_requested() == 0
    assert [(each.reason, each.attempts) for each in await dead(database, GROUP)] == [("unsupported", 2), ("parked", 0)]
    new = consumer_of(database, record, bus=bus, understands={"thing.changed": 2})
    task = asyncio.create_task(new.run_redrives())

    async def done() -> bool:
        return await count(database, "dead_letters") == 0

    await until(done)
    task.cancel()
    assert (await effects(database))[key] == [0, 1, 2]


async def test_what_was_not_too_large_as_it_came_is_not_too_large_to_be_tried_again(process: ProcessFactory) -> None:
    database = await process("beta")
    large = make_event(1, data={"x": "x" * (MAX_EVENT_BYTES - 10)})
    assert len(large.to_json()) > MAX_EVENT_BYTES
    await consumer_of(database, Poison(1)).process(received([large]))
    consumer = consumer_of(database, record)
    await redrive(database, GROUP)
    assert await consumer.redrive_requested() == 1
    assert await count(database, "dead_letters") == 0


async def test_starting_asks_for_nothing_that_is_still_too_new_or_failed(process: ProcessFactory) -> None:
    database = await process("beta")
    poisoned = make_event(5)
    consumer = consumer_of(database, Poison(5), understands=KNOWN)
    await consumer.process(received([newer(1, 3), poisoned, make_event(1, type="thing.gone")]))
    await consumer.process([unreadable(b"\xff", "x")])
    again = consumer_of(database, record, understands={"thing.changed": 2})
    task = asyncio.create_task(again.run_redrives())
    await asyncio.sleep(0.3)
    task.cancel()
    assert Counter((each.reason, each.attempts) for each in await dead(database, GROUP)) == {
        ("unsupported", 1): 2, ("failed", 1): 1, ("invalid", 1): 1,
    }  # fmt: skip


async def test_an_unknown_type_is_unsupported_unless_it_has_a_handler_of_its_own(process: ProcessFactory) -> None:
    database, organization = await process("beta"), new_id()
    batch = received(
        [make_event(n, organization=organization, type=t) for n, t in enumerate(["thing.odd", "thing.own"])]
    )
    await consumer_of(database, {"thing.own": record, "*": record}, understands=KNOWN).process(batch)
    (letter,) = await dead(database, GROUP)
    assert letter.event_type == "thing.odd"
    assert (letter.error or "").startswith(
        "thing.odd is a type that beta.test does not know. Where a newer release of beta"
    )
    assert await count(database) == 1


async def test_one_poisoned_event_of_a_large_run_costs_few_transactions(process: ProcessFactory) -> None:
    database, organization, calls = await process("beta"), new_id(), 0
    inner = failing(lambda e: e.sequence == 250, ValueError("poison"))

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        nonlocal calls
        calls += 1
        await inner(session, events)

    batch = received([make_event(n, organization=organization) for n in range(500)])
    await consumer_of(database, handler, tuning=Tuning(run_size=500)).process(batch)
    assert calls < 30
    assert await count(database) == 499


async def test_what_never_passes_delays_the_rest_of_its_partition_by_no_more_than_two_seconds(
    process: ProcessFactory,
) -> None:
    database, organization = await process("beta"), new_id()
    batch = received([make_event(n, organization=organization) for n in range(500)])
    consumer = consumer_of(
        database, failing(lambda e: e.sequence % 100 == 50, Retry("never")), tuning=Tuning(run_size=500)
    )
    began = time.monotonic()
    await consumer.process(batch)
    assert time.monotonic() - began < 2
    assert (await count(database), await count(database, "dead_letters")) == (495, 5)


async def test_a_handler_that_hangs_is_ended(process: ProcessFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.events.effects._HANDLER_SECONDS", 0.05)
    database = await process("beta")

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        if events[0].sequence == 1:
            await asyncio.sleep(60)
        await record(session, events)

    consumer = consumer_of(database, handler, tuning=Tuning(attempts=2, first_delay=0.001))
    await consumer.process(received([make_event(n) for n in range(3)]))
    (letter,) = await dead(database, GROUP)
    assert (letter.reason, letter.error, letter.attempts) == ("failed", "Hung('not done after 0.05 s')", 1)
    assert await count(database) == 2


async def test_a_handler_that_hangs_has_its_whole_time_once(
    process: ProcessFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.events.effects._HANDLER_SECONDS", 4.0)
    database, organization, given = await process("beta"), new_id(), []
    hanging = {3, 50, 99, 150}

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        if any(each.sequence in hanging for each in events):
            began = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(60)
            finally:
                given.append(asyncio.get_running_loop().time() - began)
        await record(session, events)

    consumer = consumer_of(database, handler, tuning=Tuning(suspect_seconds=2.0))
    await consumer.process(received([make_event(n, organization=organization) for n in range(200)]))
    letters = await dead(database, GROUP)
    assert {(each.reason, each.attempts) for each in letters} == {("failed", 1)}
    assert {CloudEvent.from_json(each.body).sequence for each in letters} == hanging
    assert await count(database) == 196
    assert sum(each > 3 for each in given) == 1
    assert len(given) == 6  # two runs of 100 that hung, and each event once
    await consumer.process(received([make_event(n, organization=organization) for n in range(200)]))
    assert sum(each > 3 for each in given) == 1  # nor is it forgotten with the batch


async def test_an_event_that_cannot_be_written_is_put_aside_as_it_can(process: ProcessFactory) -> None:
    """A bus refuses such events; should one get through, it must not stop all others for ever."""
    database = await process("beta")
    endless: dict[str, object] = {}
    for _ in range(400):
        endless = {"x": endless}
    unwritable = [
        make_event(1, data=endless),
        make_event(2, data=endless, dataschema=schema_uri("thing.changed", 9)),
        make_event(3),
    ]
    consumer = consumer_of(database, failing(lambda e: e.sequence == 1, ValueError("poison")), understands=KNOWN)
    await consumer.process(received(unwritable))
    assert (await count(database), [each.reason for each in await dead(database, GROUP)]) == (1, ["invalid"] * 2)
    assert all(b"CloudEvent(" in each.body for each in await dead(database, GROUP))
    await redrive_understood(database, GROUP, {"thing.changed": 9})
    await redrive(database, GROUP)
    assert await consumer.redrive_requested() == 0


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError("a webhook"), ExceptionGroup("two", [OSError(), ConnectionResetError("a webhook")])],
    ids=["alone", "in a group"],
)
async def test_a_connection_to_something_else_that_fails_is_no_outage_of_the_database(
    process: ProcessFactory, error: Exception
) -> None:
    database = await process("beta")
    consumer = consumer_of(database, failing(lambda e: e.sequence == 1, error))
    await consumer.process(received([make_event(n) for n in range(5)]))
    (letter,) = await dead(database, GROUP)
    assert (letter.reason, letter.attempts) == ("failed", 5)
    assert "a webhook" in (letter.error or "")
    assert await count(database) == 4


async def test_an_error_that_quotes_what_no_text_can_hold_is_kept(process: ProcessFactory) -> None:
    class Odd(Exception):
        def __repr__(self) -> str:
            return "a\0b\ud800" + "x" * 100_000

    database = await process("beta")
    await consumer_of(database, failing(lambda e: True, Odd())).process(received([make_event(1)]))
    (letter,) = await dead(database, GROUP)
    assert (letter.error or "").startswith("a\ufffdb?xxx")
    assert len(letter.error or "") == 4000


async def test_a_flood_of_garbage_is_put_aside_at_once_and_stops_nobody(process: ProcessFactory) -> None:
    database, organization = await process("beta"), new_id()
    garbage = [Received(TOPIC, 0, n, f"{organization}/{n}", None, b"%d" % n, "not JSON") for n in range(2000)]
    consumer = consumer_of(database, record, tuning=Tuning(run_size=500))
    await consumer.process([*garbage, *received([make_event(n) for n in range(10)])])
    assert (await count(database), await count(database, "dead_letters")) == (10, 2000)
    assert consumer.circuit.state == "closed"


async def test_an_organisation_whose_every_event_fails_stops_nobody_else(process: ProcessFactory) -> None:
    database, harmful, healthy = await process("beta"), new_id(), new_id()
    consumer = consumer_of(database, failing(lambda e: e.organization_id == harmful, ValueError("poison")))
    batch = [make_event(n, organization=harmful) for n in range(300)]
    batch += [make_event(n, organization=healthy) for n in range(300)]
    await consumer.process(received(batch))
    assert (await count(database), await count(database, "dead_letters")) == (300, 300)


async def test_a_circuit_that_some_organisations_opened_is_closed_by_those_that_are_well(
    process: ProcessFactory,
) -> None:
    database, harmful = await process("beta"), [new_id() for _ in range(3)]
    batch = [make_event(n, organization=each) for each in harmful for n in range(50)]
    batch += [make_event(n) for n in range(20)]
    consumer = consumer_of(database, failing(lambda e: e.organization_id in harmful, ValueError("poison")))
    await consumer.process(received(batch))
    assert (await count(database), await count(database, "dead_letters")) == (20, 150)


async def test_a_common_fault_puts_few_events_aside_and_all_others_wait(process: ProcessFactory) -> None:
    database, broken = await process("beta"), True
    handled = failing(lambda e: broken, Retry("what all need is away"))
    organizations = [new_id() for _ in range(6)]
    batch = received([make_event(n, organization=each) for n in range(50) for each in organizations])
    consumer = consumer_of(database, handled, circuit=Circuit(pause=0.001, longest_pause=0.001))
    for _ in range(10):
        with pytest.raises(CircuitOpen):
            await consumer.process(batch)
        consumer.circuit.probe()
    dead_ones = await count(database, "dead_letters")
    assert dead_ones < 25
    broken = False
    await consumer.process(batch)
    assert consumer.circuit.state == "closed"
    await redrive(database, GROUP)
    await consumer.redrive_requested()
    assert await count(database) == 300
    assert await count(database, "dead_letters") == 0


async def test_a_rehearsal_tells_what_would_happen_and_keeps_nothing(process: ProcessFactory) -> None:
    database, organization = await process("beta"), new_id()
    committed: list[int] = []

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        await record(session, events)
        session.after_commit(lambda: committed.append(1))
        publish(session, ThingChanged(n=1), subject=new_id(), sequence=1, principal=system(organization))
        if any(each.sequence == 2 for each in events):
            await session.connection.execute("SELECT 1 / 0")

    consumer = consumer_of(database, handler, understands=KNOWN)
    run = received([make_event(n, organization=organization) for n in range(4)])
    run.append(received([newer(9, organization=organization)])[0])
    good, also_good, bad, still_good, unsupported = await consumer.rehearse(run)
    assert (good, also_good, still_good) == (None, None, None)
    assert "division by zero" in (bad or "")
    assert "has version 2" in (unsupported or "")
    assert await consumer.rehearse(run[:2]) == [None, None]
    for table in ("effects", "inbox", "outbox", "dead_letters"):
        assert await count(database, table) == 0
    assert committed == []
