"""Storage of memberships, shown together with the person."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, func, select

from services.identity import rows
from services.identity.models import memberships as table
from services.identity.models import users
from shared.db import Record, Session

_SHOWN = ("id", "organization_id", "user_id", "role", "version", "created_at", "updated_at")
_COLUMNS = [*(table.c[name] for name in _SHOWN), users.c.name, users.c.email]
_MINE = table.c.organization_id == bindparam("organization_id")
_THIS = table.c.id == bindparam("member_id")
_THEIRS = table.c.user_id == bindparam("user_id")

_PEOPLE = select(*_COLUMNS).join(users, users.c.id == table.c.user_id).where(_MINE)
_ONE = _PEOPLE.where(_THIS)
_LOCK = _ONE.with_for_update(of=table)
_OF_USER = _PEOPLE.where(_THEIRS)
_ROLE = select(table.c.role).where(_MINE, _THEIRS)
_OWNERS = select(func.count()).select_from(table).where(_MINE, table.c.role == "owner")
_ORGANIZATIONS = select(table.c.organization_id).where(_THEIRS).order_by(table.c.created_at, table.c.id)
_REMOVE = delete(table).where(_MINE, _THIS)
_PAGE = rows.Listing(_PEOPLE, table)


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a membership; raises ``UniqueViolationError`` for a member."""
    await rows.add(session, table, row)


async def get(session: Session, organization_id: UUID, member_id: UUID, *, lock: bool = False) -> Record | None:
    """A member; ``lock`` holds the membership until the transaction ends."""
    return await session.fetch_one(_LOCK if lock else _ONE, organization_id=organization_id, member_id=member_id)


async def of_user(session: Session, organization_id: UUID, user_id: UUID) -> Record | None:
    """A user's membership in an organisation."""
    return await session.fetch_one(_OF_USER, organization_id=organization_id, user_id=user_id)


async def role_of(session: Session, organization_id: UUID, user_id: UUID) -> str | None:
    """A user's role in an organisation."""
    role: str | None = await session.fetch_value(_ROLE, organization_id=organization_id, user_id=user_id)
    return role


async def owners(session: Session, organization_id: UUID) -> int:
    """How many owners there are; exact while the organisation's row is locked."""
    count: int = await session.fetch_value(_OWNERS, organization_id=organization_id)
    return count


async def organizations_of(session: Session, user_id: UUID) -> list[UUID]:
    """Where a user is a member, the oldest membership first."""
    return [row["organization_id"] for row in await session.fetch(_ORGANIZATIONS, user_id=user_id)]


async def change(session: Session, organization_id: UUID, member_id: UUID, changed: Mapping[str, Any]) -> Record:
    """Change a locked membership; the columns of the membership alone."""
    return await rows.change(session, table, {"organization_id": organization_id, "id": member_id}, changed, _SHOWN)


async def remove(session: Session, organization_id: UUID, member_id: UUID) -> None:
    """End a membership."""
    await session.execute(_REMOVE, organization_id=organization_id, member_id=member_id)


async def page(
    session: Session, organization_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """Members in the order they joined."""
    return await _PAGE.fetch(session, after, limit, organization_id=organization_id)
