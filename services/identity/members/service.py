"""Use cases of members. Changes of roles wait for each other, so that an owner always remains."""

from collections.abc import Iterable
from uuid import UUID

from services.identity.api_keys import service as api_keys
from services.identity.domain import DESCRIPTIONS, ROLES, Role, exceeding, touches_ownership
from services.identity.events import MemberRemoved, MemberRoleChanged
from services.identity.members import repository
from services.identity.members.schemas import Member
from services.identity.organizations import repository as organizations
from services.identity.people import as_user
from services.identity.sessions import repository as sessions
from shared import clock
from shared.auth import Principal
from shared.db import Record, Session
from shared.errors import Conflict, Forbidden, NotFound
from shared.events import publish
from shared.http.pagination import PageParams, decode_moment_cursor

SORT = "created_at"


async def get(session: Session, principal: Principal, member_id: UUID) -> Record:
    """A member of the caller's organisation; raises ``NotFound``."""
    return _found(await repository.get(session, principal.organization_id, member_id))


async def lock(session: Session, principal: Principal, member_id: UUID) -> Record:
    """A member, held until the transaction ends, together with the right to change roles."""
    await organizations.get(session, principal.organization_id, lock=True)
    return _found(await repository.get(session, principal.organization_id, member_id, lock=True))


def _found(row: Record | None) -> Record:
    if row is None:
        raise NotFound("There is no member with this id.")
    return row


async def check_may_give(session: Session, principal: Principal, *roles: str) -> None:
    """Raise ``Forbidden`` unless the caller may give (and take) these roles."""
    if touches_ownership(*roles):
        user_id = principal.user_id
        role = await repository.role_of(session, principal.organization_id, user_id) if user_id else None
        if role != "owner":
            raise Forbidden("Only an owner who is signed in makes and unmakes owners.", code="owner_required")
    beyond = exceeding(_scopes_of(roles), principal.scopes)
    if beyond:
        raise Forbidden(
            f"You cannot give somebody what you may not do yourself: {', '.join(beyond)}.", code="role_exceeds_caller"
        )


def _scopes_of(roles: Iterable[str]) -> frozenset[str]:
    return frozenset(scope for name, scopes in ROLES.items() if name in roles for scope in scopes)


async def change_role(session: Session, principal: Principal, before: Record, role: Role) -> Record:
    """Give a locked member another role."""
    if before["role"] == role:
        return before
    await check_may_give(session, principal, before["role"], role)
    await _check_owner_remains(session, before)
    changed = {"role": role, "updated_at": clock.now()}
    row = await repository.change(session, before["organization_id"], before["id"], changed)
    event = MemberRoleChanged(user_id=row["user_id"], before=before["role"], after=role)
    publish(session, event, subject=row["id"], sequence=row["version"], principal=principal)
    return {**before, **row}


async def remove(session: Session, principal: Principal, before: Record) -> None:
    """End a locked membership, and revoke the API keys the person made."""
    if touches_ownership(before["role"]):
        await check_may_give(session, principal, before["role"])
    await _remove(session, principal, before, left=False)


async def leave(session: Session, principal: Principal, organization_id: UUID) -> None:
    """End the signed-in person's own membership; raises ``NotFound`` or ``Conflict`` (``last_owner``)."""
    assert principal.user_id is not None, "asked for by the operation"
    await organizations.get(session, organization_id, lock=True)
    row = await repository.of_user(session, organization_id, principal.user_id)
    if row is None:
        raise NotFound("You belong to no organisation with this id.")
    await _remove(session, as_user(principal, principal.user_id, organization_id), row, left=True)


async def _remove(session: Session, principal: Principal, row: Record, *, left: bool) -> None:
    await _check_owner_remains(session, row)
    await repository.remove(session, row["organization_id"], row["id"])
    await sessions.leave(session, row["user_id"], row["organization_id"])
    event = MemberRemoved(user_id=row["user_id"], role=row["role"], left=left)
    publish(
        session, event, subject=row["id"], sequence=row["version"] + 1, principal=principal,
        organization_id=row["organization_id"],
    )  # fmt: skip
    await api_keys.revoke_made_by(session, principal, row["user_id"])


async def _check_owner_remains(session: Session, before: Record) -> None:
    if before["role"] == "owner" and await repository.owners(session, before["organization_id"]) == 1:
        raise Conflict("An organisation keeps at least one owner; make somebody else one first.", code="last_owner")


async def page(session: Session, principal: Principal, query: PageParams) -> list[Record]:
    """One member more than the page holds."""
    after = decode_moment_cursor(query.cursor, SORT) if query.cursor else None
    return await repository.page(session, principal.organization_id, after, query.limit + 1)


def shown(row: Record) -> dict[str, object]:
    """A member as others see them."""
    return {name: row[name] for name in Member.model_fields}


def roles() -> list[dict[str, object]]:
    """Every role and its scopes."""
    return [{"name": n, "description": DESCRIPTIONS[n], "scopes": sorted(s)} for n, s in ROLES.items()]
