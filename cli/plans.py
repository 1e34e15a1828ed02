"""``guardian plans``: which plans there are, and which one an organisation is on. For whoever runs the platform."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

if TYPE_CHECKING:
    import asyncpg

    from shared.settings import Settings

    Connection = asyncpg.Connection[asyncpg.Record]

plans = typer.Typer(help="List the plans and their limits, or put an organisation on one of them.")

_POLICIES = """
SELECT p.name AS plan, l.name, l.quota, l.unit, l."window", l.per, l.mode, l.on_failure
FROM ratelimit.plans p LEFT JOIN ratelimit.plan_policies l ON l.plan = p.name AND l.enabled
ORDER BY p.position, p.name, l.name
"""
_ORGANIZATION = """
SELECT o.name, p.plan FROM identity.organizations o
LEFT JOIN ratelimit.organization_plans p ON p.organization_id = o.id WHERE o.id = $1
"""


@plans.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _answer(_listed)


@plans.command("set")
def _set(
    organization: Annotated[UUID, typer.Argument(metavar="ORGANIZATION-ID", help="The organisation's id.")],
    plan: Annotated[str, typer.Argument(help="The plan's name, such as pro.")],
) -> None:
    """Put an organisation on a plan; its limits change within a second."""
    _answer(lambda connection, settings: _given(connection, settings, organization, plan))


class _Refused(Exception):
    """Why nothing was done."""


async def _listed(connection: "Connection", settings: "Settings") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Plan", "Limit", "Quota", "Window", "Per", "Mode", "Without database")
    table.columns[2].justify = "right"
    last = None
    for row in await connection.fetch(_POLICIES):
        name = f"{row['plan']} (default)" if row["plan"] == settings.default_plan else row["plan"]
        if row["plan"] != last and last is not None:
            table.add_section()
        if row["name"] is None:
            table.add_row(name, "none")
        else:
            window = row["window"] or "at the same time"
            per, quota = ", ".join(row["per"]), f"{row['quota']:,}"
            shown = name if row["plan"] != last else ""
            table.add_row(shown, row["name"], quota, window, per, row["mode"], row["on_failure"])
        last = row["plan"]
    Console().print(table)


async def _given(connection: "Connection", settings: "Settings", organization: UUID, plan: str) -> None:
    import asyncpg

    found = await connection.fetchrow(_ORGANIZATION, organization)
    if found is None:
        raise _Refused(f"there is no organisation with the id {organization}")
    try:
        await connection.execute("SELECT ratelimit.set_plan($1, $2)", organization, plan)
    except asyncpg.ForeignKeyViolationError:
        names = ", ".join(
            [row["name"] for row in await connection.fetch("SELECT name FROM ratelimit.plans ORDER BY position")]
        )
        raise _Refused(f"there is no plan '{plan}'; there is: {names}") from None
    before = found["plan"] or f"{settings.default_plan}, the default"
    print(f"{found['name']} is on the plan {plan} now (before: {before}).")


def _answer(work: "Callable[[Connection, Settings], Awaitable[None]]") -> None:
    """Do it as the schemas' owner; end with 1 and a sentence where it cannot be done."""
    import asyncpg

    from cli.events.connections import sentence
    from cli.home import NoPlatform, connected_settings
    from shared.db.database import CONNECT_SECONDS, UNAVAILABLE
    from shared.db.versions import owner_dsn
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
    except (InvalidSettings, NoPlatform, _Refused) as error:
        text = str(error)
    except (asyncpg.PostgresError, *UNAVAILABLE) as error:
        text = sentence(error)
    print(f"guardian: {text}", file=sys.stderr)
    raise typer.Exit(1)
