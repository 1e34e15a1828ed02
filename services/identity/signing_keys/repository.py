"""Storage of signing keys, and the memory of what was signed with them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, bindparam, func, or_, select

from services.identity import rows
from services.identity.models import signing_keys as table
from shared.db import Record, Session, columns

_READ = (
    "id", "api_key_id", "algorithm", "material", "rotated_from", "created_by", "expires_at", "revoked_at", "version",
    "created_at", "updated_at",
)  # fmt: skip
_NOW = bindparam("now", type_=DateTime(timezone=True))
_ALL = select(*columns(table, _READ)).where(
    table.c.organization_id == bindparam("organization_id"), table.c.api_key_id == bindparam("api_key_id")
)
_ONE = _ALL.where(table.c.id == bindparam("signing_key_id"))
_ALIVE = _ALL.where(
    table.c.revoked_at.is_(None), or_(table.c.expires_at.is_(None), table.c.expires_at > _NOW)
).order_by(table.c.created_at, table.c.id)
_PAGE = rows.Listing(_ALL, table)
_FORGET_NONCES = select(func.identity.forget_nonces())


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new key."""
    await rows.add(session, table, row)


async def get(session: Session, organization_id: UUID, api_key_id: UUID, signing_key_id: UUID) -> Record | None:
    """A key of an API key. Whoever is about to change it holds the API key's lock."""
    return await session.fetch_one(
        _ONE, organization_id=organization_id, api_key_id=api_key_id, signing_key_id=signing_key_id
    )


async def alive(session: Session, organization_id: UUID, api_key_id: UUID, now: datetime) -> list[Record]:
    """The keys of an API key that are neither revoked nor expired, oldest first."""
    return await session.fetch(_ALIVE, organization_id=organization_id, api_key_id=api_key_id, now=now)


async def change(session: Session, organization_id: UUID, signing_key_id: UUID, changed: Mapping[str, Any]) -> Record:
    """Change a key whose API key is locked."""
    key = {"organization_id": organization_id, "id": signing_key_id}
    return await rows.change(session, table, key, changed, _READ)


async def page(
    session: Session, organization_id: UUID, api_key_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """Keys of an API key in the order they were made, revoked ones among them."""
    return await _PAGE.fetch(session, after, limit, organization_id=organization_id, api_key_id=api_key_id)


async def forget_nonces(session: Session) -> None:
    """Forget the nonces whose signatures have expired, by the database's clock."""
    await session.fetch_value(_FORGET_NONCES)
