"""Walks PostgreSQL's catalogue: every table of every service keeps the rules of tenancy, or is on the written list."""

import re
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import MetaData

from shared.db import Tenancy
from shared.db.database import service_dsn
from shared.db.migrations import provision
from shared.events.schema import SYSTEM_TABLES
from shared.ids import new_id
from shared.settings import Settings

GLOBAL = {
    # Asked before the organisation is known: who signs in, with what, and where to.
    "identity": {"roles", "organizations", "users", "memberships", "sessions", "invitations", "one_time_tokens", "api_keys",
                 "mail_outbox", "request_nonces", "request_nonces_ahead", "request_nonces_spent",
                 "nonce_memory"},
    # The platform's own, the same for every organisation; which processes are alive, and how far things have come.
    "ratelimit": {"plans", "plan_policies", "replicas", "usage_batches", "audit_watermark"},
}  # fmt: skip
MIGRATIONS = {"alembic_version"}
PREDICATE = r"organization_id = \(?NULLIF\(current_setting\('app\.organization_id'::text, true\), ''::text\)\)?::uuid"

TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relrowsecurity AS enabled,
       c.relforcerowsecurity AS forced, c.relispartition AS leaf, c.relacl::text[] AS grants,
       pg_get_userbyid(c.relowner) AS owner, pg_get_viewdef(c.oid) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, 2
"""
KEYS = """
SELECT n.nspname AS schema, c.relname AS name, k.name AS key, k.kind,
  (SELECT array_agg(a.attname ORDER BY u.nth) FROM unnest(k.columns) WITH ORDINALITY u (number, nth)
   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.number) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN LATERAL (
  SELECT i.indexrelid::regclass::text AS name, CASE WHEN i.indisprimary THEN 'primary key' ELSE 'unique key' END AS kind,
         i.indkey::int2[] AS columns
  FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
  UNION ALL
  SELECT f.conname, 'foreign key', f.conkey FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
) k ON true
WHERE n.nspname = ANY ($1)
"""
POLICIES = "SELECT schemaname AS schema, tablename AS name, permissive, cmd, qual, with_check FROM pg_policies"
FUNCTIONS = """
SELECT n.nspname || '.' || p.proname AS name, p.proconfig AS settings, p.proacl::text[] AS grants
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY ($1) AND p.prosecdef
"""


class Catalogue:
    """What the catalogue says about the services' schemas."""

    def __init__(self, services: list[str]) -> None:
        self.services = services
        self.tables: list[Any] = []
        self.keys: list[Any] = []
        self.policies: list[Any] = []
        self.functions: list[Any] = []

    def tenant(self) -> list[Any]:
        """Every table, leaf and partitioned table that is not on the written list."""
        return [
            each
            for each in self.tables
            if each["kind"] in "rpf"
            and each["name"] not in {*SYSTEM_TABLES, *MIGRATIONS, *GLOBAL.get(each["schema"], ())}
        ]


@pytest_asyncio.fixture
async def catalogue(postgres: str, services: list[str]) -> AsyncIterator[Catalogue]:
    found = Catalogue(services)
    connection = await asyncpg.connect(postgres)
    try:
        found.tables = await connection.fetch(TABLES, services)
        found.keys = await connection.fetch(KEYS, services)
        found.policies = await connection.fetch(POLICIES)
        found.functions = await connection.fetch(FUNCTIONS, [*services, "bus"])
    finally:
        await connection.close()
    yield found


def place(row: Any) -> tuple[str, str]:
    return row["schema"], row["name"]


def test_there_is_something_to_walk(catalogue: Catalogue) -> None:
    assert "crm" in catalogue.services
    assert len([each for each in catalogue.tenant() if each["schema"] == "crm" and each["leaf"]]) == 4 * 64


def test_tables_of_tenants_force_row_level_security(catalogue: Catalogue) -> None:
    assert [place(each) for each in catalogue.tenant() if not (each["enabled"] and each["forced"])] == []


def test_their_policies_are_the_organisations_predicate(catalogue: Catalogue) -> None:
    guarded = {place(each) for each in catalogue.tenant() if not each["leaf"]}
    policies = [each for each in catalogue.policies if each["schema"] in catalogue.services]
    assert {place(each) for each in policies} == guarded
    assert len(policies) == len(guarded)
    for each in policies:
        assert (each["permissive"], each["cmd"]) == ("PERMISSIVE", "ALL"), place(each)
        assert re.fullmatch(rf"\({PREDICATE}\)", each["qual"]), each["qual"]
        assert each["with_check"] == each["qual"]


def test_their_keys_begin_with_the_organisation(catalogue: Catalogue) -> None:
    tenant = {place(each) for each in catalogue.tenant()}
    keys = [each for each in catalogue.keys if place(each) in tenant]
    assert {place(each) for each in keys if each["kind"] == "primary key"} == tenant
    assert [(*place(each), each["key"]) for each in keys if each["columns"][0] != "organization_id"] == []


def test_nobody_was_granted_a_leaf(catalogue: Catalogue) -> None:
    leaves = [each for each in catalogue.tables if each["leaf"]]
    for each in leaves:
        assert not [grant for grant in each["grants"] or [] if not grant.startswith(f"{each['owner']}=")], place(each)


def test_services_own_nothing_and_are_granted_their_own_schema_only(catalogue: Catalogue) -> None:
    for each in catalogue.tables:
        assert each["owner"] == "guardian_owner", place(each)
        grantees = {grant.partition("=")[0] for grant in each["grants"] or []}
        assert grantees <= {"guardian_owner", f"svc_{each['schema']}"}, place(each)


def test_views_carry_the_predicate(catalogue: Catalogue) -> None:
    views = [each for each in catalogue.tables if each["kind"] in "vm"]
    assert {"contacts_search", "companies_search", "deals_search", "activities_search"} <= {
        each["name"] for each in views
    }
    for each in views:
        assert each["kind"] == "v", f"{place(each)}: a materialised view has no row-level security"
        assert re.search(rf"WHERE \({PREDICATE}\);$", each["definition"]), each["definition"]


def test_functions_that_run_as_the_owner_are_closed(catalogue: Catalogue) -> None:
    for each in catalogue.functions:
        # Without a written pg_temp PostgreSQL looks there first, and a caller's temporary table would stand in
        # front of the table the function names: its trigger would run as the owner.
        paths = [setting for setting in each["settings"] or [] if setting.startswith("search_path=pg_catalog")]
        assert [path for path in paths if path.endswith(", pg_temp")], each["name"]
        assert each["grants"] is not None, f"{each['name']} may be called by everybody"
        assert not [grant for grant in each["grants"] if grant.startswith("=")], each["name"]


def test_the_models_declare_the_same_classes(catalogue: Catalogue) -> None:
    real = {place(each) for each in catalogue.tables if each["kind"] in "rpf" and not each["leaf"]}
    declared: dict[tuple[str, str], Tenancy] = {}
    for service in catalogue.services:
        metadata: MetaData = import_module(f"services.{service}.models").metadata
        declared |= {(service, table.name): Tenancy(table.info["tenancy"]) for table in metadata.tables.values()}
    system = {(service, name) for service in catalogue.services for name in (*SYSTEM_TABLES, *MIGRATIONS)}
    assert set(declared) - real == set()
    assert real - set(declared) - system == set()
    listed = {(service, name) for service, names in GLOBAL.items() for name in names if service in catalogue.services}
    assert {name for name, tenancy in declared.items() if tenancy is Tenancy.GLOBAL} == listed


async def test_no_service_reads_the_schema_of_another(catalogue: Catalogue, settings: Settings) -> None:
    """For every pair of services and every table and view there is; 42501 is the refusal."""
    assert len(catalogue.services) > 1
    for service in catalogue.services:
        connection = await asyncpg.connect(service_dsn(settings, service))
        try:
            for each in catalogue.tables:
                if each["schema"] == service or (each["leaf"] and not each["name"].endswith("00")):
                    continue
                with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
                    await connection.fetchrow(f'SELECT * FROM {each["schema"]}."{each["name"]}" LIMIT 1')
                assert refused.value.sqlstate == "42501", (service, place(each))
        finally:
            await connection.close()


async def test_the_services_roles_have_no_powers(postgres: str, services: list[str]) -> None:
    connection = await asyncpg.connect(postgres)
    try:
        rows = await connection.fetch(
            "SELECT * FROM pg_roles WHERE rolname LIKE 'svc\\_%' OR rolname = 'guardian_owner'"
        )
        members = await connection.fetch("SELECT * FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
                                         " WHERE r.rolname LIKE 'svc\\_%'")  # fmt: skip
    finally:
        await connection.close()
    powers = {row["rolname"]: {name for name in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
                               if row[name]} for row in rows}  # fmt: skip
    assert powers.pop("guardian_owner") == {"rolbypassrls"}
    assert {f"svc_{service}" for service in services} <= set(powers)
    assert {name for name, held in powers.items() if held} == set()
    assert members == []


async def test_no_service_makes_temporary_tables(empty_database: str, settings: Settings) -> None:
    alone = settings.model_copy(update={"database_url": SecretStr(empty_database)})
    await provision(alone, ["crm"], roles=["gateway"])
    for service in ("crm", "gateway"):
        connection = await asyncpg.connect(service_dsn(alone, service))
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("CREATE TEMP TABLE api_keys (public_id text)")
        finally:
            await connection.close()


async def test_a_service_moves_the_cursors_of_its_own_groups_only(postgres: str, settings: Settings) -> None:
    admin = await asyncpg.connect(postgres)
    group = f"audit.{new_id()}"
    await admin.execute(
        "INSERT INTO bus.cursor (consumer_group, topic, partition, position) VALUES ($1, 'guardian.crm.events', 0, 7)",
        group,
    )
    try:
        for service, moved in (("crm", "UPDATE 0"), ("audit", "UPDATE 1")):
            connection = await asyncpg.connect(service_dsn(settings, service))
            tag = await connection.execute("UPDATE bus.cursor SET position = 8 WHERE consumer_group = $1", group)
            await connection.close()
            assert tag == moved
    finally:
        await admin.execute("DELETE FROM bus.cursor WHERE consumer_group = $1", group)
        await admin.close()
