"""``make bench-tenancy``: what the isolation of organisations costs on a million contacts.

A database with the real migrations on a real disk, 200 organisations with a Zipf spread. The list
statement is the one the service runs; PostgreSQL times it (plan + execute, ``EXPLAIN ANALYZE``) as the
service's role behind row-level security and, interleaved, as a role that row-level security does not
bind. Full-text search is timed from the client, through the service's own repository.
"""

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import orjson
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql

from cli.home import changed, with_secret
from cli.migrate import migrate
from cli.postgres import EmbeddedPostgres
from cli.progress import step
from services.crm.contacts.repository import CONTACTS
from services.crm.records import repository
from shared.db import Database
from shared.db.database import service_dsn
from shared.db.migrations import owner_dsn
from shared.ids import NIL
from shared.settings import Settings
from tests.bench.report import Report

ORGANIZATIONS = 200
CONTACTS_IN_ALL = 1_000_000
ROUNDS = 400
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


def _list_sql(organization_id: UUID) -> str:
    """The service's own list statement, with its parameters written out."""
    shape = repository.Shape(
        "created_at", descending=True, filters=frozenset(), after=False, deleted=False, source="table"
    )
    statement = repository._list_statement(CONTACTS, shape).limit(LIMIT).params(organization_id=organization_id)
    return str(statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))


async def _explain(connection: "asyncpg.Connection[Any]", sql: str) -> dict[str, Any]:
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}")
    plan: dict[str, Any] = orjson.loads(text)[0]
    return plan


def _relations(node: dict[str, Any]) -> set[str]:
    found = {node["Relation Name"]} if "Relation Name" in node else set()
    return found.union(*(_relations(child) for child in node.get("Plans", [])))


async def _measure_lists(settings: Settings, report: Report) -> None:
    bound = await asyncpg.connect(service_dsn(settings, "crm"), server_settings={"jit": "off"})
    free = await asyncpg.connect(owner_dsn(settings), server_settings={"jit": "off"})
    for size, rank in SIZES.items():
        organization_id = organization(rank)
        sql = _list_sql(organization_id)
        for connection in (bound, free):
            await connection.execute("SELECT set_config('app.organization_id', $1, false)", str(organization_id))
            for _ in range(30):
                plan = await _explain(connection, sql)
        with_rls: list[float] = []
        without: list[float] = []
        for _ in range(ROUNDS):
            for connection, times in ((bound, with_rls), (free, without)):
                plan = await _explain(connection, sql)
                times.append(plan["Planning Time"] + plan["Execution Time"])
        plan = await _explain(bound, sql)
        report.bar(
            f"list_{size}_rls_ratio",
            statistics.median(with_rls) / statistics.median(without),
            1.10,
            better="lower",
            unit="ratio",
            n=ROUNDS,
            spread=_spread([a / b for a, b in zip(with_rls, without, strict=True)]),
            peer="the same query without row-level security (ms)",
            peer_value=statistics.median(without),
        )
        report.bar(f"list_{size}_partitions", len(_relations(plan["Plan"])), 1, better="lower", unit="partitions", n=1)
    await bound.close()
    await free.close()


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


async def _run(settings: Settings) -> int:
    await migrate(settings)
    connection = await asyncpg.connect(owner_dsn(settings))
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if await connection.fetchval(f"SHOW {name}") != "on":
            raise SystemExit(f"{name} is off; figures from such a server say nothing")
    await connection.close()
    await _fill(settings)
    report = Report("tenancy")
    await _measure_lists(settings, report)
    await _measure_search(settings, report)
    return report.finish()


def main() -> int:
    """Run the bench; 1 when a bar does not hold."""
    with tempfile.TemporaryDirectory(prefix="guardian-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "home") as postgres:
            settings = with_secret(Settings(environment="test", home=Path(folder) / "home"))
            return asyncio.run(_run(changed(settings, database_url=SecretStr(postgres.dsn))))


if __name__ == "__main__":
    raise SystemExit(main())
