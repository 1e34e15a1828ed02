"""``guardian limits``: an organisation's limits, and the way out for one that has shut itself out. For whoever runs the
platform.

The service's own use cases are called, in its role: the history and the event say that ``system operator`` did it, and
every process hears of it as of any other change.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli.administration import OrganizationArgument, Refused, answer, find_organization

if TYPE_CHECKING:
    from uuid import UUID

    from cli.administration import Connection
    from services.ratelimit.policies.domain import Editor
    from shared.db import Session
    from shared.limits.policies import Policy
    from shared.settings import Settings

limits = typer.Typer(
    help="List an organisation's limits, or delete one that nobody of it can delete any more.", no_args_is_help=True
)

OPERATOR = "operator"


@limits.command("list")
def _list(organization: OrganizationArgument) -> None:
    """The limits in effect, those of the plan first."""
    answer(lambda connection, settings: _listed(connection, settings, organization))


@limits.command("delete")
def _delete(
    organization: OrganizationArgument,
    limit: Annotated[str, typer.Argument(help="The limit's name, or its id.")],
    *,
    override: Annotated[str | None, typer.Option(metavar="PATTERN", help="Delete only its override with this.")] = None,
) -> None:
    """Delete a limit and its overrides, or one override; it is gone everywhere within a second."""
    answer(lambda connection, settings: _deleted(connection, settings, organization, limit, override))


async def _listed(connection: "Connection", settings: "Settings", organization: str) -> None:
    from services.ratelimit.limits import repository

    found = await find_organization(connection, organization)
    async with _service(settings, found["id"]) as session:
        policies = await repository.effective(session, found["id"], settings.default_plan)
    policies.sort(key=lambda each: (each.plan is None, each.name))
    print(f"{found['name']} ({found['id']}), on the plan {found['plan'] or settings.default_plan}:")
    for policy in policies:
        print(f"  {policy.name}: {_described(policy)}")
        for each in policy.overrides:
            print(f"    override {each.pattern}: {each.quota:,}")


def _described(policy: "Policy") -> str:
    from services.ratelimit.policies.domain import PERIODS

    said = f"{policy.quota:,} {PERIODS[policy.window] if policy.window else 'at the same time'}"
    said += f" per {', '.join(policy.per)}"
    if policy.routes:
        said += f", for {', '.join(policy.routes)}"
    if policy.shadow:
        said += ", in shadow"
    return said + (f" (plan {policy.plan})" if policy.plan else "")


async def _deleted(
    connection: "Connection", settings: "Settings", organization: str, limit: str, pattern: str | None
) -> None:
    from services.ratelimit.limits import repository
    from services.ratelimit.policies import repository as stored
    from services.ratelimit.policies import service
    from services.ratelimit.policies.domain import Editor
    from shared.auth import Principal

    found = await find_organization(connection, organization)
    principal = Principal(found["id"], "system", OPERATOR)
    async with _service(settings, found["id"]) as session:
        await stored.hold(session, found["id"])
        policies = await repository.effective(session, found["id"], settings.default_plan)
        policy = _chosen(policies, found["name"], limit)
        if pattern is not None:
            await _delete_override(session, Editor(principal, (), settings.default_plan), policy, pattern)
        elif policy.plan is None:
            await service.delete(
                session, principal, await service.get(session, principal, policy.id, settings.default_plan)
            )
        else:
            raise Refused(
                f"'{policy.name}' comes with the plan {policy.plan}: 'guardian plans set' gives {found['name']} another "
                "plan, and --override deletes an override"
            )
    what = f"The limit {policy.name}" if pattern is None else f"The override {pattern} of the limit {policy.name}"
    print(f"{what} of {found['name']} is deleted.")


def _chosen(policies: "Sequence[Policy]", organization: str, text: str) -> "Policy":
    """The one with this name or id; raises ``Refused``. A plan's comes second to an organisation's own."""
    for policy in sorted(policies, key=lambda each: each.plan is not None):
        if text in {policy.name, str(policy.id)}:
            return policy
    names = ", ".join(sorted(each.name for each in policies)) or "none"
    raise Refused(f"{organization} has no limit '{text}' in effect; there is: {names}")


async def _delete_override(session: "Session", editor: "Editor", policy: "Policy", pattern: str) -> None:
    from services.ratelimit.overrides import repository, service
    from services.ratelimit.policies.service import get

    organization_id = policy.organization_id
    override_id = await repository.having(session, organization_id, policy.id, pattern)
    if override_id is None:
        names = ", ".join(each.pattern for each in policy.overrides) or "none"
        raise Refused(f"the limit '{policy.name}' has no override '{pattern}'; there is: {names}")
    row = await get(session, editor.principal, policy.id, editor.default_plan)
    before = await service.get(session, editor.principal, row, override_id)
    await service.delete(session, editor, row, before, force=True)


@asynccontextmanager
async def _service(settings: "Settings", organization_id: "UUID") -> "AsyncIterator[Session]":
    """A transaction of the service, on one organisation."""
    from shared.db import Database

    database = Database.for_service(settings, "ratelimit")
    await database.open()
    try:
        async with database.transaction(organization_id) as session:
            yield session
    finally:
        await database.close()
