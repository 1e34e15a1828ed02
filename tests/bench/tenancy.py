"""``make bench-tenancy``: what the isolation of organisations costs on a million contacts.

A database with the real migrations on a real disk, 200 organisations with a Zipf spread. The list
statement is the one the service runs; PostgreSQL times it (plan + execute, ``pg_stat_statements``) as the
service's role behind row-level security and, interleaved, as a role that row-level security does not
bind. Full-text search is timed from the client, through the service's own repository.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import orjson
from pydantic import SecretStr

from cli.home import changed, with_secret
from cli.migrate import migrate
from cli.postgres import EmbeddedPostgres
from cli.progress import step
from services.crm.contacts.repository import CONTACTS
from services.crm.records import repository
from shared.db import Database
from shared.db.database import service_dsn
from shared.db.statements import compiled
from shared.db.versions import OWNER, owner_dsn
from shared.ids import NIL
from shared.settings import Settings
from tests.bench.report import Report

ORGANIZATIONS = 200
CONTACTS_IN_ALL = 1_000_000
BLOCKS = 100
BLOCK = 25
WARM_UP = 3
SEARCHES = 60
LIMIT = 51
SIZES = {"largest": 1, "middle": 20, "smallest": ORGANIZATIONS}
SEARCHED = {"frequent": "ada", "middling": "name77", "rare": "name7777"}
"""One in ten contacts, about one in two hundred, and about one in twenty thousand."""

_FILL = """
INSERT INTO crm.contacts (organization_id, id, first_name, last_name, email, phone, job_title, company_id, owner_id,
  tags, custom_fields, version, created_at, updated_at)
SELECT $1, uuidv7(), (ARRAY['Ada','Bob','Cem','Dora','Eve','Finn','Gil','Hana','Ivo','Jon'])[1 + i % 10],
  'Name' || (hashint4(i + $3) & 65535) % 20000, 'p' || i || '@example.com', '+44 20 7946 ' || lpad((i % 10000)::text, 4, '0'),
  'Buyer', NULL, NULL, ARRAY['import'], '{"segment": "smb"}', 1, moment, moment
FROM generate_series(1, $2) AS i, LATERAL (SELECT now() - (hashint4(i) & 65535) * interval '8 minutes' AS moment) t
"""
_COUNTED = """
SELECT r.rolname AS role, (s.total_plan_time + s.total_exec_time) / s.calls AS milliseconds
FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
WHERE s.query LIKE '%FROM crm.contacts%LIMIT%' AND s.calls >= 10
"""


def organization(rank: int) -> UUID:
    """The id of the organisation with this rank by size, from 1."""
    return uuid5(NIL, f"bench-{rank}")


async def _fill(settings: Settings) -> None:
    weights = [1 / rank for rank in range(1, ORGANIZATIONS + 1)]
    connection = await asyncpg.connect(owner_dsn(settings))
    with step("Filling a million contacts") as progress:
        done = 0
        for rank, weight in enumerate(weights, start=1):
            count = round(CONTACTS_IN_ALL * weight / sum(weights))
            await connection.execute(_FILL, organization(rank), count, rank)
            done += count
            progress.update(done, CONTACTS_IN_ALL)
        await connection.execute("VACUUM (ANALYZE) crm.contacts")
    await connection.close()


def _list_query() -> tuple[str, Callable[[UUID], list[Any]]]:
    """The service's own list statement as it sends it, and its arguments for an organisation."""
    shape = repository.Shape(
        "created_at", descending=True, filters=frozenset(), after=False, deleted=False, source="table"
    )
    query = compiled(repository._list_statement(CONTACTS, shape))
    return query.sql, lambda organization_id: query.arguments({"organization_id": organization_id, "limit": LIMIT})


async def _partitions(connection: "asyncpg.Connection[Any]", organization_id: UUID) -> int:
    """How many partitions the plan of the list query touches."""
    sql, arguments = _list_query()
    types = ["uuid" if "::UUID" in part else "int" for part in sql.split("$")[1:]]
    await connection.execute(f"DEALLOCATE ALL; PREPARE listing ({', '.join(types)}) AS {sql}")
    values = ", ".join(f"'{value}'" for value in arguments(organization_id))
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE listing ({values})")
    return len(_relations(orjson.loads(text)[0]["Plan"]))


def _relations(node: dict[str, Any]) -> set[str]:
    found = {node["Relation Name"]} if "Relation Name" in node else set()
    return found.union(*(_relations(child) for child in node.get("Plans", [])))


async def _connect(settings: Settings, role: str, organization_id: UUID) -> "asyncpg.Connection[Any]":
    dsn = service_dsn(settings, "crm") if role == "svc_crm" else owner_dsn(settings)
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    await connection.execute("SELECT set_config('app.organization_id', $1, false)", str(organization_id))
    return connection


async def _measure_lists(settings: Settings, report: Report) -> None:
    monitor = await asyncpg.connect(settings.database_url.get_secret_value())  # type: ignore[union-attr]
    for size, rank in SIZES.items():
        connections = {role: await _connect(settings, role, organization(rank)) for role in ("svc_crm", OWNER)}
        times = await _interleaved(monitor, connections, organization(rank))
        ratios = [bound / free for bound, free in zip(times["svc_crm"], times[OWNER], strict=True)]
        report.bar(
            f"list_{size}_rls_ratio",
            statistics.median(ratios),
            1.10,
            better="lower",
            unit="ratio",
            n=BLOCKS * BLOCK,
            spread=_spread(ratios),
            peer="the same query without row-level security (ms)",
            peer_value=statistics.median(times[OWNER]),
        )
        touched = await _partitions(connections["svc_crm"], organization(rank))
        report.bar(f"list_{size}_partitions", touched, 1, better="lower", unit="partitions", n=1)
        for connection in connections.values():
            await connection.close()
    await monitor.close()


async def _interleaved(
    monitor: "asyncpg.Connection[Any]", connections: dict[str, Any], organization_id: UUID
) -> dict[str, list[float]]:
    """Plan and execution time per call as PostgreSQL counts it, in milliseconds: a mean for each block and role."""
    sql, arguments = _list_query()
    values, times = arguments(organization_id), {role: list[float]() for role in connections}
    for block in range(WARM_UP + BLOCKS):
        await monitor.execute("SELECT pg_stat_statements_reset()")
        for number in range(BLOCK):
            for role in connections if number % 2 else reversed(connections):
                await connections[role].fetch(sql, *values)
        rows = await monitor.fetch(_COUNTED)
        for row in rows if block >= WARM_UP else ():
            times[row["role"]].append(row["milliseconds"])
    return times


async def _measure_search(settings: Settings, report: Report) -> None:
    database = Database.for_service(settings, "crm")
    await database.open()
    for name, text in SEARCHED.items():
        times: list[float] = []
        for size in random.Random(7).choices(list(SIZES.values()), [3, 2, 1], k=SEARCHES):
            async with database.transaction(organization(size)) as session:
                started = time.perf_counter()
                await repository.list_records(
                    session, CONTACTS, organization(size), sort="-created_at", filters={"q": text}, after=None,
                    deleted=False, limit=LIMIT,
                )  # fmt: skip
                times.append((time.perf_counter() - started) * 1000)
        report.bar(
            f"search_{name}_p95", statistics.quantiles(times, n=20)[18], 25, better="lower", unit="ms", n=SEARCHES,
            spread=_spread(times),
        )  # fmt: skip
    await database.close()


def _spread(values: list[float]) -> list[float]:
    quartiles = statistics.quantiles(values, n=4)
    return [round(quartiles[0], 4), round(quartiles[2], 4)]


async def _create_statistics(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url.get_secret_value())  # type: ignore[union-attr]
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    await connection.close()


async def _run(settings: Settings) -> int:
    await migrate(settings)
    connection = await asyncpg.connect(owner_dsn(settings))
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if await connection.fetchval(f"SHOW {name}") != "on":
            raise SystemExit(f"{name} is off; figures from such a server say nothing")
    await connection.close()
    await _fill(settings)
    await _create_statistics(settings)
    report = Report("tenancy")
    await _measure_lists(settings, report)
    await _measure_search(settings, report)
    return report.finish()


def main() -> int:
    """Run the bench; 1 when a bar does not hold."""
    with tempfile.TemporaryDirectory(prefix="guardian-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "home"
        with EmbeddedPostgres(home) as postgres:
            asyncio.run(_count_statements(postgres.dsn))
        with EmbeddedPostgres(home) as postgres:
            settings = with_secret(Settings(environment="test", home=home))
            return asyncio.run(_run(changed(settings, database_url=SecretStr(postgres.dsn))))


async def _count_statements(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    await connection.execute("ALTER SYSTEM SET pg_stat_statements.track_planning = 'on'")
    await connection.close()


if __name__ == "__main__":
    raise SystemExit(main())
