"""``guardian migrate``: bring every schema to its newest version, or say where each stands."""

import asyncio
from collections.abc import Callable

import asyncpg

from cli.home import NoPlatform, connected_settings
from cli.system import GATEWAY_ROLE, SCHEMAS
from shared.db.database import UNAVAILABLE
from shared.db.versions import Migration, knows, owner_dsn, status
from shared.events.schema import applied_bus_version, bus_version
from shared.settings import InvalidSettings, Settings

UNREACHABLE = (*UNAVAILABLE, asyncpg.PostgresError)
"""What a database that is away, wrong or not ours to migrate raises."""


async def migrate(settings: Settings, progress: Callable[[str], None] | None = None) -> None:
    """Roles, schemas, the bus and every service's tables."""
    from shared.migrate import migrate_all  # brings Alembic, which a start that has nothing to do does without

    await migrate_all(settings, SCHEMAS, roles=(GATEWAY_ROLE,), progress=progress)


class NewerSchema(Exception):
    """The database was migrated by a newer release than this one, which must not touch it."""


async def behind(settings: Settings) -> list[Migration]:
    """The schemas that are not at their newest version; all of them for an empty database.

    Raises ``NewerSchema`` when a schema is at a version this code does not know.
    """
    try:
        found = await status(settings, SCHEMAS)
        bus = Migration("bus", await applied_bus_version(owner_dsn(settings)), bus_version())
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError):
        return [Migration(service, None, None) for service in SCHEMAS]  # the owner's role is not there yet
    for each in found:
        if each.current is not None and not knows(each.service, each.current):
            raise NewerSchema(
                f"The database was written by a newer release: its schema {each.service} is at {each.current}, and "
                f"this code knows {each.head}. Update the code, or use another database (GUARDIAN_HOME)."
            )
    return [each for each in (*found, bus) if each.current != each.head]


def command(*, check: bool, say: Callable[[str], None]) -> bool:
    """Run ``guardian migrate``; whether everything is at its newest version at the end."""
    try:
        settings = connected_settings()
    except (InvalidSettings, NoPlatform) as error:
        say(f"guardian: {error}")
        return False
    try:
        late = asyncio.run(behind(settings))
    except (NewerSchema, *UNREACHABLE) as error:
        say(f"guardian: {error}")
        return False
    for each in late:
        say(f"{each.service}: at {each.current or 'nothing'}, newest is {each.head or 'unknown'}")
    if not late:
        say("Every schema is at its newest version.")
        return True
    if check:
        return False
    asyncio.run(migrate(settings, lambda service: say(f"migrating {service}")))
    return True
