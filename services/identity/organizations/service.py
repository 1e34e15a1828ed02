"""Use cases of organisations."""

from typing import Any
from uuid import UUID

from services.identity.events import MemberAdded, OrganizationCreated, OrganizationUpdated
from services.identity.members import repository as members
from services.identity.organizations import repository
from services.identity.organizations.schemas import OrganizationChange, OrganizationCreate
from services.identity.people import as_user
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Conflict, NotFound
from shared.events import publish
from shared.http.pagination import PageParams, decode_moment_cursor
from shared.ids import new_id

SORT = "created_at"


async def create(session: Session, principal: Principal, owner_id: UUID, body: OrganizationCreate) -> dict[str, Any]:
    """Store an organisation and make a person its owner."""
    now = clock.now()
    row: dict[str, Any] = {"id": new_id(), **body.model_dump(), "version": 1, "created_at": now, "updated_at": now}
    await repository.add(session, row)
    actor = as_user(principal, owner_id, row["id"])
    event = OrganizationCreated(name=row["name"], data_region=row["data_region"])
    publish(
        session, event, subject=row["id"], sequence=1, principal=actor, organization_id=row["id"],
        dataregion=row["data_region"],
    )  # fmt: skip
    await add_member(session, actor, row["id"], owner_id, "owner")
    return row


async def add_member(
    session: Session, principal: Principal, organization_id: UUID, user_id: UUID, role: str
) -> dict[str, Any]:
    """Let a person belong to an organisation; raises ``UniqueViolationError`` for a member."""
    now = clock.now()
    row: dict[str, Any] = {"id": new_id(), "organization_id": organization_id, "user_id": user_id, "role": role, "version": 1,
           "created_at": now, "updated_at": now}  # fmt: skip
    await members.add(session, row)
    event = MemberAdded(user_id=user_id, role=role)
    publish(session, event, subject=row["id"], sequence=1, principal=principal, organization_id=organization_id)
    return row


async def get(session: Session, principal: Principal, *, lock: bool = False) -> Record:
    """The caller's organisation; raises ``NotFound`` for a caller without one."""
    row = await repository.get(session, principal.organization_id, lock=lock)
    if row is None:
        raise NotFound("You are in no organisation; choose one with POST /v1/sessions/current/organization.")
    return row


async def change(session: Session, principal: Principal, before: Record, body: OrganizationChange) -> Record:
    """Change the caller's locked organisation."""
    wanted = body.model_dump(exclude_unset=True)
    if wanted.pop("data_region", before["data_region"]) != before["data_region"]:
        raise Conflict(
            f"The organisation's data is kept in '{before['data_region']}', and moving it is not possible yet.",
            code="data_region_fixed",
            errors=[{"field": "/data_region", "code": "data_region_fixed", "message": "cannot be changed yet"}],
        )
    changed = {name: value for name, value in wanted.items() if before[name] != value}
    if not changed:
        return before
    row = await repository.change(session, before["id"], {**changed, "updated_at": clock.now()})
    changes = {name: {"before": before[name], "after": value} for name, value in changed.items()}
    event = OrganizationUpdated.model_validate({"changes": changes})
    publish(
        session, event, subject=row["id"], sequence=row["version"], principal=principal, dataregion=row["data_region"]
    )
    return row


async def page(session: Session, principal: Principal, query: PageParams) -> list[Record]:
    """One of the caller's organisations more than the page holds."""
    assert principal.user_id is not None, "asked for by the operation"
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    return await repository.of_user(session, principal.user_id, after, query.limit + 1)
