"""Storage of organisations and of who belongs to them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select

from services.identity import rows
from services.identity.models import memberships, organizations
from services.identity.organizations.schemas import Organization
from shared.db import Record, Session, columns

_SHOWN = tuple(Organization.model_fields)
_COLUMNS = columns(organizations, _SHOWN)
_THIS = organizations.c.id == bindparam("organization_id")

_ONE = select(*_COLUMNS).where(_THIS)
# Not FOR UPDATE: a new row that refers to the organisation need not wait.
_LOCK = _ONE.with_for_update(key_share=True)
_OF_USER = (
    select(*_COLUMNS, memberships.c.role)
    .join(memberships, memberships.c.organization_id == organizations.c.id)
    .where(memberships.c.user_id == bindparam("user_id"))
)
_PAGE = rows.Listing(_OF_USER, organizations)


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new organisation."""
    await rows.add(session, organizations, row)


async def get(session: Session, organization_id: UUID, *, lock: bool = False) -> Record | None:
    """An organisation; ``lock`` holds it until the transaction ends."""
    return await session.fetch_one(_LOCK if lock else _ONE, organization_id=organization_id)


async def change(session: Session, organization_id: UUID, changed: Mapping[str, Any]) -> Record:
    """Change a locked organisation."""
    return await rows.change(session, organizations, {"id": organization_id}, changed, _SHOWN)


async def of_user(session: Session, user_id: UUID, after: tuple[datetime, UUID] | None, limit: int) -> list[Record]:
    """The organisations a user belongs to, with their role, oldest first."""
    return await _PAGE.fetch(session, after, limit, user_id=user_id)
