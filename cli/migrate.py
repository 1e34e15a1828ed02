"""``guardian migrate``: bring every schema to its newest version, or say where each stands."""

import asyncio
from collections.abc import Callable

import asyncpg

from cli.home import NoPlatform, connected_settings
from cli.system import GATEWAY_ROLE, SCHEMAS
from shared.db.migrations import Migration, status
from shared.migrate import migrate_all
from shared.settings import Settings


async def migrate(settings: Settings, progress: Callable[[str], None] | None = None) -> None:
    """Roles, schemas, the bus and every service's tables."""
    await migrate_all(settings, SCHEMAS, roles=(GATEWAY_ROLE,), progress=progress)


async def behind(settings: Settings) -> list[Migration]:
    """The services whose schema is not at its newest version; all of them for an empty database."""
    try:
        return [each for each in await status(settings, SCHEMAS) if each.current != each.head]
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError):
        return [Migration(service, None, None) for service in SCHEMAS]


def command(*, check: bool, say: Callable[[str], None]) -> bool:
    """Run ``guardian migrate``; whether everything is at its newest version at the end."""
    try:
        settings = connected_settings()
    except NoPlatform as error:
        say(f"guardian: {error}")
        return False
    late = asyncio.run(behind(settings))
    for each in late:
        say(f"{each.service}: at {each.current or 'nothing'}, newest is {each.head or 'unknown'}")
    if not late:
        say("Every schema is at its newest version.")
        return True
    if check:
        return False
    asyncio.run(migrate(settings, lambda service: say(f"migrating {service}")))
    return True
