"""Row-level security, and plans as the service's own role makes them."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio
from sqlalchemy import Executable

from services.crm.activities.repository import ACTIVITIES
from services.crm.companies.repository import COMPANIES
from services.crm.contacts.repository import CONTACTS
from services.crm.deals.repository import DEALS
from services.crm.records.repository import RecordTable, Shape, _get_statement, _list_statement, prefix_query
from shared.db import Database, Session
from shared.db.statements import compiled
from shared.ids import NIL, new_id
from shared.testing.plugin import DatabaseFactory
from tests.services.crm.support import KINDS, Kind, made

TABLES = {"contacts": CONTACTS, "companies": COMPANIES, "deals": DEALS, "activities": ACTIVITIES}
TENANT_TABLES = [
    *TABLES,
    *(f"{name}_search" for name in TABLES),
    "pipelines",
    "stages",
    "custom_fields",
    "idempotency_keys",
]


@pytest_asyncio.fixture
async def crm_database(database: DatabaseFactory) -> Database:
    return await database("crm")


@pytest_asyncio.fixture
async def full(crm: httpx.AsyncClient, organization_id: UUID) -> UUID:
    """An organisation that has rows in every table."""
    for kind in KINDS:
        await made(crm, kind.path, **kind.body)
    await made(crm, "/v1/custom-fields", record_type="contact", key="key", label="Key", type="text")
    await crm.post("/v1/contacts", json={"first_name": "Ada"}, headers={"idempotency-key": "key"})
    return organization_id


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_rows_show_in_their_own_context_only(crm_database: Database, full: UUID, table: str) -> None:
    for context, seen in ((full, True), (new_id(), False), (NIL, False), (None, False)):
        async with crm_database.transaction(context) as session:
            count = await session.connection.fetchval(f"SELECT count(*) FROM crm.{table}")
            mine = await session.connection.fetchval(
                f"SELECT count(*) FROM crm.{table} WHERE organization_id = $1", full
            )
        assert (count > 0) is seen, context
        assert (mine > 0) is seen, context


@pytest.mark.parametrize(
    "table", ["contacts", "companies", "deals", "activities", "pipelines", "stages", "custom_fields"]
)
async def test_rows_of_others_cannot_be_written(crm_database: Database, full: UUID, table: str) -> None:
    other = new_id()
    async with crm_database.transaction(other) as session:
        assert (
            await session.connection.execute(f"UPDATE crm.{table} SET id = id WHERE organization_id = '{full}'")
            == "UPDATE 0"
        )
        assert await session.connection.execute(f"DELETE FROM crm.{table}") == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with crm_database.transaction(full) as session:
            await session.connection.execute(f"UPDATE crm.{table} SET organization_id = '{other}'")


@pytest.mark.parametrize("table", ["contacts", "companies", "deals", "activities"])
@pytest.mark.parametrize("action", ["SELECT FROM", "DELETE FROM"])
async def test_leaves_are_out_of_reach(crm_database: Database, full: UUID, table: str, action: str) -> None:
    for leaf in ("p00", "p63"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with crm_database.transaction(full) as session:
                await session.connection.execute(f"{action} crm.{table}_{leaf}")


async def test_a_connection_forgets_the_context_with_the_transaction(crm_database: Database, full: UUID) -> None:
    """On one connection, whatever the transaction before it did."""
    connection = await crm_database.connect()
    try:
        for end in ("COMMIT", "ROLLBACK"):
            await connection.execute(f"BEGIN; SELECT set_config('app.organization_id', '{full}', true)")
            assert await connection.fetchval("SELECT count(*) FROM crm.contacts") > 0
            await connection.execute(end)
            assert await connection.fetchval("SELECT count(*) FROM crm.contacts") == 0
    finally:
        await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def explain(session: Session, statement: Executable, **params: Any) -> list[dict[str, Any]]:
    query = compiled(statement)
    (row,) = await session.connection.fetch(f"EXPLAIN (FORMAT JSON) {query.sql}", *query.arguments(params))
    return list(nodes(row[0][0]["Plan"]))


def relations(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Relation Name"] for node in plan if "Relation Name" in node}


@pytest_asyncio.fixture
async def planning(crm_database: Database, organization_id: UUID) -> AsyncIterator[Session]:
    """A transaction as ``svc_crm`` whose planner uses what indexes there are, however few the rows."""
    async with crm_database.transaction(organization_id) as session:
        for setting in ("enable_seqscan", "enable_sort", "enable_bitmapscan"):
            await session.connection.execute(f"SET LOCAL {setting} = off")
        yield session


SORTS = {
    "contacts": ("created_at", "updated_at", "sort_name"),
    "companies": ("created_at", "updated_at", "sort_name"),
    "deals": ("created_at", "updated_at", "sort_name", "amount_minor"),
    "activities": ("occurred_at", "created_at", "updated_at"),
}
CASES = [(plural, sort, down) for plural, sorts in SORTS.items() for sort in sorts for down in (False, True)]
VALUES: dict[str, Any] = {"sort_name": "x", "amount_minor": 1}


def after(sort: str) -> dict[str, Any]:
    return {"after_value": VALUES.get(sort, datetime(2026, 1, 1, tzinfo=UTC)), "after_id": new_id()}


@pytest.mark.parametrize(("plural", "sort", "descending"), CASES)
async def test_a_list_walks_an_index_of_one_partition(
    planning: Session, organization_id: UUID, plural: str, sort: str, descending: bool
) -> None:
    for cursor in (False, True):
        shape = Shape(sort, descending, frozenset(), cursor, False, "table")
        params = {"organization_id": organization_id, "limit": 51, **(after(sort) if cursor else {})}
        plan = await explain(planning, _list_statement(TABLES[plural], shape), **params)
        assert len(relations(plan)) == 1, relations(plan)
        assert {node["Node Type"] for node in plan} <= {"Limit", "Result", "Index Scan"}, plan
        condition = plan[-1]["Index Cond"]
        assert "organization_id" in condition
        assert ("ROW(" in condition) is cursor


LOOKUPS = [
    ("contacts", "company_id"),
    ("contacts", "email"),
    ("companies", "domain"),
    ("deals", "stage_id"),
    ("deals", "contact_id"),
    ("deals", "company_id"),
    ("activities", "contact_id"),
    ("activities", "company_id"),
    ("activities", "deal_id"),
]


@pytest.mark.parametrize(("plural", "name"), LOOKUPS)
async def test_a_lookup_walks_its_own_index(planning: Session, organization_id: UUID, plural: str, name: str) -> None:
    shape = Shape(SORTS[plural][0], True, frozenset({name}), False, False, "table")
    value = new_id() if name.endswith("_id") else "x.example"
    params = {"organization_id": organization_id, "limit": 51, name: value}
    plan = await explain(planning, _list_statement(TABLES[plural], shape), **params)
    assert len(relations(plan)) == 1
    assert "Sort" not in {node["Node Type"] for node in plan}
    assert name in plan[-1]["Index Cond"]


async def test_one_record_is_one_look_into_one_partition(planning: Session, organization_id: UUID, kind: Kind) -> None:
    for lock in (False, True):
        statement = _get_statement(TABLES[kind.plural], False, lock)
        plan = await explain(planning, statement, organization_id=organization_id, id=new_id())
        assert len(relations(plan)) == 1
        assert "(id = " in plan[-1]["Index Cond"]


@pytest_asyncio.fixture
async def many(crm: httpx.AsyncClient, postgres: str, organization_id: UUID) -> UUID:
    """An organisation with twenty thousand contacts, one of them rare, and statistics about them."""
    await made(crm, "/v1/contacts", first_name="Grace", tags=["rare"])
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(
            """INSERT INTO crm.contacts (organization_id, id, first_name, last_name, email, tags, custom_fields,
                                         version, created_at, updated_at)
            SELECT $1, gen_random_uuid(), 'Ada', 'L' || n, n || '@example.com', '{}', '{}', 1, now(), now()
            FROM generate_series(1, 20000) AS n""",
            organization_id,
        )
        await connection.execute("VACUUM ANALYZE crm.contacts")
    finally:
        await connection.close()
    return organization_id


def search(table: RecordTable, name: str, source: str) -> Executable:
    return _list_statement(table, Shape("created_at", True, frozenset({name}), False, False, source))


@pytest.mark.parametrize(
    ("name", "value", "column"), [("q", prefix_query("grac"), "search"), ("tag", ["rare"], "tags")]
)
async def test_search_uses_the_full_text_index(
    crm_database: Database, many: UUID, name: str, value: Any, column: str
) -> None:
    params = {"organization_id": many, "limit": 51, name: value}
    async with crm_database.transaction(many) as session:
        plan = await explain(session, search(CONTACTS, name, "index"), **params)
        behind_security = await explain(session, search(CONTACTS, name, "table"), **params)
        found = await session.fetch(search(CONTACTS, name, "index"), **params)
        elsewhere = await session.fetch(search(CONTACTS, name, "index"), **{**params, "organization_id": new_id()})
    leaves = {node["Relation Name"] for node in plan if node.get("Relation Name", "").startswith("contacts_p")}
    assert len(leaves) == 1
    (index,) = [node for node in plan if node["Node Type"] == "Bitmap Index Scan"]
    assert column in index["Index Cond"]
    assert not any(column in node.get("Index Cond", "") for node in behind_security), "then the view is not needed"
    assert [row["first_name"] for row in found] == ["Grace"]
    assert elsewhere == []


async def test_search_through_the_newest_touches_one_partition(planning: Session, organization_id: UUID) -> None:
    params = {"organization_id": organization_id, "limit": 51, "window": 2000, "q": prefix_query("grace")}
    plan = await explain(planning, search(CONTACTS, "q", "recent"), **params)
    assert len(relations(plan)) == 1
    assert "Sort" not in {node["Node Type"] for node in plan}
