"""Everything a database needs before services can run, in order; repeatable. ``guardian migrate`` runs it."""

from collections.abc import Sequence

from shared.db.migrations import Progress, migrate, provision
from shared.db.versions import owner_dsn
from shared.events.schema import migrate_bus
from shared.settings import Settings


async def migrate_all(
    settings: Settings, services: Sequence[str], *, roles: Sequence[str] = (), progress: Progress | None = None
) -> None:
    """Roles and schemas as the administrator, then the bus and every service's tables as the owner.

    ``roles`` own no schema: whoever is only granted something by a service (the gateway).
    """
    await provision(settings, services, roles)
    await migrate_bus(owner_dsn(settings), services)
    await migrate(settings, services, progress)
