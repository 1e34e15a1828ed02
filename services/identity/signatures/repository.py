"""Signing keys as they were at some time."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, bindparam, or_, select

from services.identity.models import signing_keys as table
from shared.db import Record, Session, columns

_MOST = 20
"""An API key has five that work at a time; of those that worked at some time the newest will do."""
_READ = ("id", "api_key_id", "algorithm", "material", "expires_at", "revoked_at", "rotated_from")
_AT = bindparam("at", type_=DateTime(timezone=True))
_MINE = select(*columns(table, _READ)).where(table.c.organization_id == bindparam("organization_id"))
_GOOD = (
    _MINE.where(
        table.c.api_key_id == bindparam("api_key_id"),
        or_(table.c.revoked_at.is_(None), table.c.revoked_at > _AT),
        or_(table.c.expires_at.is_(None), table.c.expires_at > _AT),
    )
    .order_by(table.c.created_at.desc(), table.c.id.desc())
    .limit(_MOST)
)
_ENDED = (
    _MINE.where(
        table.c.api_key_id == bindparam("api_key_id"), or_(table.c.revoked_at <= _AT, table.c.expires_at <= _AT)
    )
    .order_by(table.c.created_at.desc(), table.c.id.desc())
    .limit(_MOST)
)
_NAMED = _MINE.where(table.c.id == bindparam("signing_key_id"))


async def good(session: Session, organization_id: UUID, api_key_id: UUID, at: datetime) -> Sequence[Record]:
    """The keys of an API key that could be used at that time (or before they were made), newest first."""
    return await session.fetch(_GOOD, organization_id=organization_id, api_key_id=api_key_id, at=at)


async def ended(session: Session, organization_id: UUID, api_key_id: UUID, at: datetime) -> Sequence[Record]:
    """The keys of an API key that could not be used any more at that time, newest first."""
    return await session.fetch(_ENDED, organization_id=organization_id, api_key_id=api_key_id, at=at)


async def named(session: Session, organization_id: UUID, signing_key_id: UUID) -> Record | None:
    """A key of the organisation, whichever API key it belongs to."""
    return await session.fetch_one(_NAMED, organization_id=organization_id, signing_key_id=signing_key_id)
