"""What the commands of whoever runs the platform share: the owner's connection, and finding an organisation."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncpg

    from shared.settings import Settings

    Connection = asyncpg.Connection[asyncpg.Record]

OrganizationArgument = Annotated[
    str, typer.Argument(metavar="ORGANIZATION", help="The organisation's id, or its name.")
]

_FIND = """
SELECT o.id, o.name, p.plan FROM identity.organizations o
LEFT JOIN ratelimit.organization_plans p ON p.organization_id = o.id
WHERE o.id::text = lower($1) OR o.name = $1 ORDER BY o.id
"""
_SOME = "SELECT id, name, count(*) OVER () AS of FROM identity.organizations ORDER BY id LIMIT 5"


class Refused(Exception):
    """Why nothing was done."""


async def find_organization(connection: "Connection", text: str) -> "asyncpg.Record":
    """``{id, name, plan}`` of the organisation with this id or name, ``plan`` None for the default; raises ``Refused``."""
    found = await connection.fetch(_FIND, text)
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"several organisations have the name '{text}', say which one: {_named(found)}")
    some = await connection.fetch(_SOME)
    if not some:
        raise Refused(f"there is no organisation '{text}', nor any other yet")
    more = f" and {some[0]['of'] - len(some)} more" if some[0]["of"] > len(some) else ""
    raise Refused(
        f"there is no organisation '{text}'; there is: {_named(some)}{more} (GET /v1/organization tells its members its id)"
    )


def _named(rows: "list[asyncpg.Record]") -> str:
    return ", ".join(f"{row['name']} ({row['id']})" for row in rows)


def answer(work: "Callable[[Connection, Settings], Awaitable[None]]") -> None:
    """Do it with a connection of the schemas' owner; end with 1 and a sentence where it cannot be done."""
    import asyncpg

    from cli.events.connections import sentence
    from cli.home import NoPlatform, connected_settings
    from shared.db.database import CONNECT_SECONDS, UNAVAILABLE
    from shared.db.versions import owner_dsn
    from shared.errors import ServiceUnavailable
    from shared.settings import InvalidSettings

    async def run() -> None:
        settings = connected_settings()
        connection = await asyncpg.connect(owner_dsn(settings), timeout=CONNECT_SECONDS)
        try:
            await work(connection, settings)
        finally:
            await connection.close()

    try:
        asyncio.run(run())
        return
    except (InvalidSettings, NoPlatform, Refused) as error:
        text = str(error)
    except (ServiceUnavailable, asyncpg.PostgresError, *UNAVAILABLE) as error:
        text = sentence(error)
    print(f"guardian: {text}", file=sys.stderr)
    raise typer.Exit(1)
