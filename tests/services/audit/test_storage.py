"""What the database itself holds to: who may do what to the audit log, and which index answers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from services.audit import jobs, repository, service
from services.audit.repository import Shape
from shared.clock import FixedClock
from shared.db import Database
from shared.db.statements import compiled
from shared.ids import new_id
from tests.services.audit.support import make_event, record

MONTH = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit.audit_logs_enhanced SET risk_level = 'low'",
        "DELETE FROM audit.audit_logs_enhanced",
        "TRUNCATE audit.audit_logs_enhanced",
        "UPDATE audit.audit_logs_enhanced_search SET risk_level = 'low'",
        "DELETE FROM audit.audit_logs_enhanced_search",
        "DELETE FROM audit.audit_logs_enhanced_default",
        "SELECT FROM audit.audit_logs_enhanced_default",
        "ALTER TABLE audit.audit_logs_enhanced DISABLE ROW LEVEL SECURITY",
        "DROP TABLE audit.audit_logs_enhanced_default",
    ],
)
async def test_the_service_may_not_change_what_is_recorded(audit: Database, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with audit.transaction(new_id()) as session:
            await session.connection.execute(statement)


async def test_row_level_security_is_forced_on_the_table_and_every_leaf(audit: Database, postgres: str) -> None:
    event = make_event(new_id())
    await record(audit, event)
    admin = await asyncpg.connect(postgres)
    try:
        rows = await admin.fetch(
            "SELECT relname, relrowsecurity AND relforcerowsecurity AS guarded FROM pg_class"
            " WHERE relname LIKE 'audit_logs_enhanced%' AND relkind IN ('r', 'p')"
        )
    finally:
        await admin.close()
    assert len(rows) >= 3
    assert [row["relname"] for row in rows if not row["guarded"]] == []


async def test_what_tells_of_no_act_makes_no_entry(audit: Database) -> None:
    organization_id = new_id()
    usage = make_event(organization_id, "usage.recorded", source="/guardian/ratelimit")
    changed = make_event(organization_id, "limit_policy.updated", source="/guardian/ratelimit")
    await record(audit, usage)
    await record(audit, usage, changed)
    async with audit.transaction(organization_id) as session:
        actions = await session.connection.fetch("SELECT action, risk_level FROM audit_logs_enhanced")
    assert [tuple(each) for each in actions] == [("limit_policy.updated", "medium")]


async def test_no_entry_is_seen_or_added_outside_its_organisation(audit: Database) -> None:
    event = make_event(new_id())
    await record(audit, event)
    for organization in (None, new_id()):
        async with audit.transaction(organization) as session:
            for name in ("audit_logs_enhanced", "audit_logs_enhanced_search"):
                assert await session.connection.fetchval(f"SELECT count(*) FROM {name}") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with audit.transaction(new_id()) as session:
            await repository.add(session, event.organization_id, [service.entry_of(event, event.time)])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crowd(audit: Database, postgres: str) -> UUID:
    """An organisation with thousands of entries in two months, a few of which are worth looking for."""
    organization = new_id()
    events = [
        make_event(
            organization,
            "contact.created" if n % 400 == 0 else f"deal.{'updated' if n % 2 else 'stage_changed'}",
            time=MONTH + timedelta(minutes=20 * n),
            authid=f"actor-{n % 500}",
            data={"name": f"word{n}"},
        )
        for n in range(4000)
    ]
    await record(audit, *events)
    admin = await asyncpg.connect(postgres)
    try:
        # Also empties the index's list of pending entries, as autovacuum does outside tests.
        await admin.execute("VACUUM (ANALYZE) audit.audit_logs_enhanced")
    finally:
        await admin.close()
    return organization


async def plan(audit: Database, organization_id: UUID, source: str, **params: Any) -> str:
    """The leaves with rows, and how the service's role reads them."""
    query = compiled(repository._page_statement(Shape(frozenset(params), after=False, source=source)))
    arguments = query.arguments({**params, "organization_id": organization_id, "limit": 51, "window": 2000})
    async with audit.transaction(organization_id) as session:
        rows = await session.connection.fetch(f"EXPLAIN {query.sql}", *arguments)
    return "\n".join(row[0] for row in rows)


def conditions(text: str) -> list[str]:
    return [line for line in text.splitlines() if "Index Cond" in line]


@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ({}, "organization_id = "),
        ({"target_id": new_id()}, "target_id = "),
        ({"actor_id": "actor-7"}, "actor_id = "),
        ({"action": "contact.created"}, "action = "),
        ({"action_from": "contact.", "action_below": "contact/"}, "action >= "),
    ],
    ids=["none", "target_id", "actor_id", "action", "prefix"],
)
async def test_filters_are_answered_by_an_index_behind_row_level_security(
    audit: Database, crowd: UUID, filters: dict[str, Any], condition: str
) -> None:
    bounds = {"occurred_after": MONTH, "occurred_before": MONTH + timedelta(days=60)}
    text = await plan(audit, crowd, "table", **filters, **bounds)
    assert len(conditions(text)) == 2, text
    assert all("organization_id = " in line and condition in line for line in conditions(text)), text
    assert "Seq Scan" not in text


async def test_words_are_found_by_the_full_text_index(audit: Database, crowd: UUID) -> None:
    text = await plan(audit, crowd, "index", q="'word77':*", occurred_before=MONTH + timedelta(days=60))
    assert any("organization_id = " in line and "search @@" in line for line in conditions(text)), text
    assert "Seq Scan on audit_logs_enhanced_202403" not in text


async def test_bounds_in_time_leave_other_months_alone(audit: Database, crowd: UUID) -> None:
    bounds = {"occurred_after": MONTH, "occurred_before": MONTH + timedelta(days=1)}
    text = await plan(audit, crowd, "table", **bounds)
    assert "audit_logs_enhanced_202403" in text
    assert "audit_logs_enhanced_202404" not in text
    assert "audit_logs_enhanced_default" not in text


async def test_the_job_keeps_months_ahead_and_counts_what_has_none(
    audit: Database, frozen_clock: FixedClock, postgres: str
) -> None:
    frozen_clock.moment = datetime(2031, 5, 31, 23, 30, tzinfo=UTC)
    await jobs.partitions(audit).run()
    before = jobs.UNPARTITIONED._value.get()
    await record(audit, make_event(new_id(), time=datetime(1980, 1, 1, tzinfo=UTC)))
    await jobs.partitions(audit).run()
    assert jobs.UNPARTITIONED._value.get() == before + 1
    admin = await asyncpg.connect(postgres)
    try:
        leaves = await admin.fetch("SELECT relname FROM pg_class WHERE relname LIKE 'audit_logs_enhanced_2031__'")
        bounds = await admin.fetchval(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'audit_logs_enhanced_203106'"
        )
    finally:
        await admin.close()
    assert sorted(row["relname"][-6:] for row in leaves) == ["203105", "203106", "203107"]
    assert "2031-06-01 00:00:00+00" in bounds
