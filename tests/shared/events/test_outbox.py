from collections.abc import Awaitable, Callable

import pytest

from shared.auth import Principal
from shared.auth.principal import ANONYMOUS
from shared.clock import FixedClock
from shared.db import Database
from shared.events import CloudEvent, publish, wakeups
from shared.events.outbox import outbox_signal
from shared.events.partition import partition_of
from shared.ids import new_id
from shared.logs import request_context
from tests.shared.events.support import TRACEPARENT, ThingChanged, count, make_event, publish_all, system

ProcessFactory = Callable[..., Awaitable[Database]]


async def stored(database: Database) -> list[CloudEvent]:
    rows = await database.pool.fetch("SELECT envelope::text AS envelope FROM outbox ORDER BY seq")
    return [CloudEvent.from_json(row["envelope"]) for row in rows]


async def test_an_event_is_committed_with_what_it_reports(process: ProcessFactory, frozen_clock: FixedClock) -> None:
    database, organization, entity = await process(), new_id(), new_id()
    caller = Principal(organization, "user", "u-1", request_id="req-9", traceparent=TRACEPARENT)
    async with database.transaction(organization) as session:
        made = publish(
            session, ThingChanged(name="Ada", n=2), subject=entity, sequence=4, principal=caller, dataregion="eu"
        )
    assert await stored(database) == [made]
    assert made.source == "/guardian/alpha"
    assert made.partitionkey == f"{organization}/{entity}"
    assert (made.type, made.sequence, made.data) == ("thing.changed", 4, {"name": "Ada", "n": 2})
    assert (made.authtype, made.authid, made.correlationid) == ("app_user", "u-1", "req-9")
    assert (made.traceparent, made.dataregion, made.time) == (TRACEPARENT, "eu", frozen_clock.now())
    row = await database.pool.fetchrow("SELECT * FROM outbox")
    assert row is not None
    assert row["id"] == made.id
    assert (row["organization_id"], row["key"]) == (organization, made.partitionkey)
    assert (row["type"], row["partition"]) == (made.type, partition_of(made.partitionkey))


async def test_a_rollback_publishes_nothing(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()

    async def fail_after_publishing() -> None:
        async with database.transaction(organization) as session:
            publish(session, ThingChanged(), subject=new_id(), sequence=1, principal=system(organization))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_publishing()
    assert await stored(database) == []


async def test_events_of_one_transaction_keep_their_order(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    ids = await publish_all(database, organization, new_id(), list(range(300)))
    assert [each.id for each in await stored(database)] == ids


async def test_what_is_published_while_flushing_is_flushed_too(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()

    async def late(session: object) -> None:
        publish(session, ThingChanged(n=2), subject=new_id(), sequence=2, principal=system(organization))  # type: ignore[arg-type]

    async with database.transaction(organization) as session:
        publish(session, ThingChanged(n=1), subject=new_id(), sequence=1, principal=system(organization))
        session.before_commit(late)
    assert [each.sequence for each in await stored(database)] == [1, 2]


async def test_the_relay_is_woken_after_the_commit_only(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    signal = wakeups.subscribe(outbox_signal("alpha"))
    async with database.transaction(organization) as session:
        publish(session, ThingChanged(), subject=new_id(), sequence=1, principal=system(organization))
        await session.run_before_commit()
        assert not signal._event.is_set()
        session._before_commit.clear()
    assert signal._event.is_set()


async def test_a_reaction_goes_on_from_its_cause(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    cause = make_event(organization=organization, correlationid="req-1", traceparent=TRACEPARENT, tracestate="a=b")
    async with database.transaction(organization) as session:
        made = publish(
            session, ThingChanged(), subject=new_id(), sequence=1, principal=system(organization), cause=cause
        )
    assert (made.correlationid, made.causationid) == ("req-1", str(cause.id))
    assert (made.traceparent, made.tracestate) == (TRACEPARENT, "a=b")


async def test_the_trace_of_the_request_is_taken_up(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    with request_context(system(organization), TRACEPARENT):
        async with database.transaction(organization) as session:
            made = publish(session, ThingChanged(), subject=new_id(), sequence=1, principal=system(organization))
    assert made.traceparent == TRACEPARENT


async def test_an_event_needs_an_organisation(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    async with database.transaction() as session:
        with pytest.raises(ValueError, match="no organisation"):
            publish(session, ThingChanged(), subject=new_id(), sequence=1, principal=ANONYMOUS)
        made = publish(
            session, ThingChanged(), subject=organization, sequence=1, principal=ANONYMOUS, organization_id=organization
        )
    assert (made.organization_id, made.authtype) == (organization, "unauthenticated")
    assert await count(database, "outbox") == 1


async def test_an_event_is_no_file(process: ProcessFactory) -> None:
    database, organization = await process(), new_id()
    async with database.transaction(organization) as session:
        with pytest.raises(ValueError, match="bytes, more than"):
            publish(
                session, ThingChanged(name="x" * 600_000), subject=new_id(), sequence=1, principal=system(organization)
            )
