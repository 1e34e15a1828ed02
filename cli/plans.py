"""``guardian plans``: which plans there are, and which one an organisation is on. For whoever runs the platform."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.administration import OrganizationArgument, Refused, answer, find_organization

if TYPE_CHECKING:
    from cli.administration import Connection
    from shared.settings import Settings

plans = typer.Typer(help="List the plans and their limits, or put an organisation on one of them.")

_POLICIES = """
SELECT p.name AS plan, l.name, l.quota, l.unit, l."window", l.per, l.mode, l.on_failure
FROM ratelimit.plans p LEFT JOIN ratelimit.plan_policies l ON l.plan = p.name AND l.enabled
ORDER BY p.position, p.name, l.name
"""


@plans.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        answer(_listed)


@plans.command("set")
def _set(
    organization: OrganizationArgument,
    plan: Annotated[str, typer.Argument(help="The plan's name, such as pro.")],
) -> None:
    """Put an organisation on a plan; its limits change within a second."""
    answer(lambda connection, settings: _given(connection, settings, organization, plan))


async def _listed(connection: "Connection", settings: "Settings") -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    heads = ("Plan", "Limit", "Quota", "Window", "Per", "Mode", "Without\ndatabase")
    table = Table(*heads, box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0))  # it fits a terminal of 80
    table.columns[2].justify = "right"
    last = None
    for row in await connection.fetch(_POLICIES):
        if row["plan"] != last and last is not None:
            table.add_section()
        shown = row["plan"] if row["plan"] != last else ""
        if row["name"] is None:
            table.add_row(shown, "none")
        else:
            per, quota = ", ".join(row["per"]), f"{row['quota']:,}"
            table.add_row(shown, row["name"], quota, row["window"] or "at once", per, row["mode"], row["on_failure"])
        last = row["plan"]
    Console().print(table)
    print(f"Organisations that were given none are on {settings.default_plan}.")


async def _given(connection: "Connection", settings: "Settings", organization: str, plan: str) -> None:
    import asyncpg

    found = await find_organization(connection, organization)
    try:
        await connection.execute("SELECT ratelimit.set_plan($1, $2)", found["id"], plan)
    except asyncpg.ForeignKeyViolationError:
        names = ", ".join(
            [row["name"] for row in await connection.fetch("SELECT name FROM ratelimit.plans ORDER BY position")]
        )
        raise Refused(f"there is no plan '{plan}'; there is: {names}") from None
    before = found["plan"] or f"{settings.default_plan}, the default"
    print(f"{found['name']} is on the plan {plan} now (before: {before}).")
