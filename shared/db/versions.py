"""The version of every schema in the database and in the code, the latter read from the migrations' files.

Whoever only asks, as every process does when it starts, does without Alembic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import asyncpg

from shared.db.database import role_dsn
from shared.settings import Settings

OWNER = "guardian_owner"
_REVISION = re.compile(r'^(down_)?revision(?:: [^=]+)? = "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """Where a service's schema stands: the version in the database and the newest one in the code."""

    service: str
    current: str | None
    head: str | None


def owner_dsn(settings: Settings) -> str:
    """The DSN of the schemas' owner."""
    return role_dsn(settings, OWNER)


async def status(settings: Settings, services: Sequence[str]) -> list[Migration]:
    """The version of every service's schema beside the newest one."""
    connection = await asyncpg.connect(owner_dsn(settings))
    try:
        return [Migration(service, await _current(connection, service), head(service)) for service in services]
    finally:
        await connection.close()


async def _current(connection: asyncpg.Connection[asyncpg.Record], service: str) -> str | None:
    if await connection.fetchval("SELECT to_regclass($1)", f"{service}.alembic_version") is None:
        return None
    version: str | None = await connection.fetchval(f"SELECT version_num FROM {service}.alembic_version")  # noqa: S608
    return version


def migrations(service: str) -> Path:
    """The folder of a service's migrations."""
    return Path(import_module(f"services.{service}").__file__ or "").parent / "migrations"


@cache
def head(service: str) -> str | None:
    """The newest version of a service's schema in the code."""
    found = _revisions(service)
    followed = {version for down, version in found if down}
    return next((version for down, version in found if not down and version not in followed), None)


def knows(service: str, version: str) -> bool:
    """Whether the code has this version of a service's schema; it has none that a newer release made."""
    return any(not down and found == version for down, found in _revisions(service))


def _revisions(service: str) -> list[tuple[str, str]]:
    files = sorted((migrations(service) / "versions").glob("*.py"))
    return [found for path in files for found in _REVISION.findall(path.read_text())]
