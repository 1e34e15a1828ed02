"""Storage of API keys. Only the hash of a key's text is kept."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select

from services.identity import rows
from services.identity.api_keys.schemas import ApiKey
from services.identity.models import api_keys as table
from shared.db import Record, Session, columns

_SHOWN = tuple(ApiKey.model_fields)
_MINE = table.c.organization_id == bindparam("organization_id")
_ALL = select(*columns(table, _SHOWN)).where(_MINE)
_ONE = _ALL.where(table.c.id == bindparam("key_id"))
_LOCK = _ONE.with_for_update()
_MADE_BY = _ALL.where(table.c.created_by == bindparam("user_id"), table.c.revoked_at.is_(None)).with_for_update()
_PAGE = rows.Listing(_ALL, table)


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new key."""
    await rows.add(session, table, row)


async def get(session: Session, organization_id: UUID, key_id: UUID, *, lock: bool = False) -> Record | None:
    """A key; ``lock`` holds it until the transaction ends."""
    return await session.fetch_one(_LOCK if lock else _ONE, organization_id=organization_id, key_id=key_id)


async def made_by(session: Session, organization_id: UUID, user_id: UUID) -> list[Record]:
    """The keys of a person that are not revoked, held until the transaction ends."""
    return await session.fetch(_MADE_BY, organization_id=organization_id, user_id=user_id)


async def change(session: Session, organization_id: UUID, key_id: UUID, changed: Mapping[str, Any]) -> Record:
    """Change a locked key."""
    return await rows.change(session, table, {"organization_id": organization_id, "id": key_id}, changed, _SHOWN)


async def page(
    session: Session, organization_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """Keys in the order they were made, revoked ones among them."""
    return await _PAGE.fetch(session, after, limit, organization_id=organization_id)
