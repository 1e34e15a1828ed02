"""Roles, schemas and migrations. Run by ``guardian migrate`` with the administrator's DSN, never by a service.

Each service has a schema and a login role of its own (``svc_<service>``: NOBYPASSRLS, owns nothing) and
its own Alembic history in that schema. Migrations run as ``guardian_owner``, who owns every schema and
bypasses row-level security, because a backfill under FORCE would touch no row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from shared.db.versions import OWNER, migrations, owner_dsn
from shared.settings import Settings

EXTENSIONS = ("btree_gin", "pg_trgm")
_ADVISORY_LOCK = 0x6775617264  # "guard"
Progress = Callable[[str], None]


def _role_sql(role: str, password: str, attributes: str) -> str:
    # Names and passwords come from our own code and derivation (hex), never from a caller.
    return f"""DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF;
  EXECUTE 'ALTER ROLE {role} LOGIN PASSWORD ''{password}'' {attributes}';
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$"""


async def provision(settings: Settings, services: Sequence[str], roles: Sequence[str] = ()) -> None:
    """Create what migrations need: the owner, a role and a schema for each service, extensions.

    ``roles`` are those who own no schema and are only granted something by a service's migration.

    Repeatable. Raises ``asyncpg.InsufficientPrivilegeError`` when the DSN's user may not create roles.
    """
    connection = await asyncpg.connect(_admin_dsn(settings))
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK)
        await connection.execute(_role_sql(OWNER, settings.service_password(OWNER), "NOSUPERUSER BYPASSRLS"))
        await connection.execute("CREATE SCHEMA IF NOT EXISTS extensions")
        await connection.execute(
            "GRANT USAGE ON SCHEMA extensions TO public; REVOKE CREATE ON SCHEMA public FROM public"
        )
        for extension in EXTENSIONS:
            await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA extensions")
        for name in (*services, *roles):
            role = f"svc_{name}"
            await connection.execute(_role_sql(role, settings.service_password(role), "NOSUPERUSER NOBYPASSRLS"))
        for service in services:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {OWNER}")
            await connection.execute(f"GRANT USAGE ON SCHEMA {service} TO svc_{service}")
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"GRANT CREATE ON DATABASE {database} TO {OWNER}")
        # Nobody needs temporary tables, and one could stand in front of a table that an owner's function names.
        await connection.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM public")
    finally:
        await connection.close()


def _admin_dsn(settings: Settings) -> str:
    if settings.database_url is None:
        raise RuntimeError("DATABASE_URL is not set; 'guardian up' sets it to the embedded PostgreSQL")
    return settings.database_url.get_secret_value()


def _config(service: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations(service)))
    config.set_main_option("path_separator", "os")
    return config


async def migrate(settings: Settings, services: Sequence[str], progress: Progress | None = None) -> None:
    """Bring every service's schema to its newest version; one runner at a time."""
    engine = create_async_engine(make_url(owner_dsn(settings)).set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await connection.commit()
            for service in services:
                if progress:
                    progress(service)
                await connection.run_sync(_upgrade, service)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, service: str) -> None:
    script = ScriptDirectory.from_config(_config(service))
    with EnvironmentContext(
        _config(service),
        script,
        fn=lambda rev, _context: script._upgrade_revs("head", rev),  # noqa: SLF001 (as Alembic's own command)
        destination_rev="head",
    ) as environment:
        environment.configure(
            connection=connection,
            version_table_schema=service,
            transaction_per_migration=True,
            include_schemas=True,
        )
        # A waiting ACCESS EXCLUSIVE lock queues every reader behind it, so migrations give up early.
        connection.execute(text("SET lock_timeout = '2s'"))
        connection.execute(text(f"SET search_path = {service}, extensions, public"))
        connection.commit()
        with environment.begin_transaction():
            environment.run_migrations()
        # A running service says which version it finds, beside the one its code was written for.
        connection.execute(text(f"GRANT SELECT ON {service}.alembic_version TO svc_{service}"))
        connection.commit()
