"""The tables events live in: four in each service's schema, four in the schema ``bus``.

All are *system* tables: reached only through this package, without row-level security, the organisation
as a column. ``system_tables_ddl`` is called by a service's first migration, ``bus_ddl`` and ``bus_grants``
by ``guardian migrate`` as the owner; all of it is idempotent.

On ``bus`` a service's role reads the log (a consumer may follow any topic) and keeps its cursors by plain
grants, but writes the log only through ``bus.append`` and ``bus.prune``: SECURITY DEFINER functions that
accept nothing but the topic of the caller's own name.
"""

import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files

import asyncpg

SYSTEM_TABLES = ("outbox", "inbox", "dead_letters", "leases")
BUS_TABLES = ("log", "head", "cursor", "member")
_REASONS = "reason IN ('failed', 'invalid', 'parked', 'unsupported')"
_NAME = re.compile(r"^[a-z_][a-z0-9_]*$")


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is not a plain identifier")
    return name


def system_tables_ddl(schema: str) -> list[str]:
    """Statements that create a service's outbox, inbox, dead letters and leases, granted to ``svc_<schema>``."""
    s = _checked(schema)
    return [
        f"""CREATE TABLE IF NOT EXISTS {s}.outbox (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id uuid NOT NULL,
  organization_id uuid NOT NULL,
  type text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  envelope json NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)""",
        f"""CREATE TABLE IF NOT EXISTS {s}.inbox (
  consumer text COLLATE "C" NOT NULL,
  event_id uuid NOT NULL,
  organization_id uuid NOT NULL,
  processed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (consumer, event_id)
)""",
        f"CREATE INDEX IF NOT EXISTS inbox_processed_at_idx ON {s}.inbox USING brin (processed_at)",
        *_dead_letters_ddl(s),
        f"""CREATE TABLE IF NOT EXISTS {s}.leases (
  name text COLLATE "C" PRIMARY KEY,
  owner uuid,
  epoch bigint NOT NULL DEFAULT 0,
  lease_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50)""",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(f'{s}.{t}' for t in SYSTEM_TABLES)} TO svc_{s}",
    ]


def _dead_letters_ddl(s: str) -> list[str]:
    return [
        f"""CREATE TABLE IF NOT EXISTS {s}.dead_letters (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  consumer text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  organization_id uuid NOT NULL,
  event_id uuid,
  event_type text COLLATE "C",
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  position bigint NOT NULL,
  reason text NOT NULL CHECK ({_REASONS}),
  error text,
  attempts integer NOT NULL DEFAULT 0,
  trace_id text,
  body bytea NOT NULL,
  requested_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
)""",
        f"CREATE INDEX IF NOT EXISTS dead_letters_key_idx ON {s}.dead_letters (consumer, key, id)",
        f"""CREATE INDEX IF NOT EXISTS dead_letters_requested_idx ON {s}.dead_letters (consumer, key)
  WHERE requested_at IS NOT NULL""",
    ]


def dead_letter_reasons_ddl(schema: str) -> list[str]:
    """Statements that let the dead letters of an earlier release hold every reason there is by now."""
    table = f"{_checked(schema)}.dead_letters"
    return [
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS dead_letters_reason_check",
        f"ALTER TABLE {table} ADD CONSTRAINT dead_letters_reason_check CHECK ({_REASONS}) NOT VALID",
        f"ALTER TABLE {table} VALIDATE CONSTRAINT dead_letters_reason_check",
    ]


def bus_ddl() -> str:
    """The script that creates or updates the schema ``bus`` (see ``bus.sql``); run it as its owner."""
    return files("shared.events").joinpath("bus.sql").read_text()


def bus_grants(service: str) -> list[str]:
    """Statements that let a service's role use the bus; the roles exist already."""
    role = f"svc_{_checked(service)}"
    return [
        f"GRANT USAGE ON SCHEMA bus TO {role}",
        f"GRANT SELECT ON bus.log, bus.head TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON bus.cursor, bus.member TO {role}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bus TO {role}",
    ]


def bus_version() -> str:
    """What names this version of ``bus.sql``; the schema's comment holds the one that was applied."""
    return hashlib.sha256(bus_ddl().encode()).hexdigest()[:12]


async def applied_bus_version(dsn: str) -> str | None:
    """The version of the schema ``bus`` in a database, or None where there is none."""
    connection = await asyncpg.connect(dsn)
    try:
        version: str | None = await connection.fetchval(
            "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'bus'"
        )
        return version
    finally:
        await connection.close()


async def migrate_bus(dsn: str, services: Iterable[str]) -> None:
    """Bring the schema ``bus`` to this version and let the services use it. ``dsn`` is the owner's."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('guardian bus'))")
            grants = [grant for service in services for grant in bus_grants(service)]
            for statement in [bus_ddl(), *grants, f"COMMENT ON SCHEMA bus IS '{bus_version()}'"]:
                await connection.execute(statement)
    finally:
        await connection.close()
