"""Storage of invitations."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, update

from services.identity import rows
from services.identity.models import invitations as table
from shared.db import Record, Session

_COLUMNS = [column for column in table.c if column.name != "token_sha256"]
_MINE = table.c.organization_id == bindparam("organization_id")
_OPEN = (table.c.accepted_at.is_(None), table.c.revoked_at.is_(None))

_ALL = select(*_COLUMNS).where(_MINE)
_ONE = _ALL.where(table.c.id == bindparam("invitation_id"))
_LOCK = _ONE.with_for_update()
_OPEN_FOR = _ALL.where(table.c.email == bindparam("email"), *_OPEN).with_for_update()
# Whoever has the token speaks for the invited address, in whatever organisation it is for.
_BY_TOKEN = select(*_COLUMNS).where(
    table.c.token_sha256 == bindparam("token_sha256"),
    table.c.expires_at > bindparam("moment", type_=table.c.expires_at.type),
    *_OPEN,
)
_LOCK_BY_TOKEN = _BY_TOKEN.with_for_update()
_THIS = (table.c.organization_id == bindparam("key_organization_id"), table.c.id == bindparam("key_id"))
_REVOKE = update(table).where(*_THIS).values(revoked_at=bindparam("revoked_at"))
_ACCEPT = update(table).where(*_THIS).values(accepted_at=bindparam("accepted_at"), accepted_by=bindparam("accepted_by"))
_PAGE = rows.Listing(_ALL, table)


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new invitation."""
    await rows.add(session, table, row)


async def get(session: Session, organization_id: UUID, invitation_id: UUID, *, lock: bool = False) -> Record | None:
    """An invitation; ``lock`` holds it until the transaction ends."""
    return await session.fetch_one(
        _LOCK if lock else _ONE, organization_id=organization_id, invitation_id=invitation_id
    )


async def open_for(session: Session, organization_id: UUID, email: str) -> Record | None:
    """The invitation of an address that is neither accepted nor revoked, held until the transaction ends."""
    return await session.fetch_one(_OPEN_FOR, organization_id=organization_id, email=email)


async def by_token(session: Session, token_sha256: bytes, moment: datetime, *, lock: bool = False) -> Record | None:
    """The invitation a token accepts at ``moment``."""
    return await session.fetch_one(_LOCK_BY_TOKEN if lock else _BY_TOKEN, token_sha256=token_sha256, moment=moment)


async def revoke(session: Session, organization_id: UUID, invitation_id: UUID, moment: datetime) -> None:
    """Make an invitation worthless."""
    await session.execute(_REVOKE, key_organization_id=organization_id, key_id=invitation_id, revoked_at=moment)


async def accept(session: Session, organization_id: UUID, invitation_id: UUID, moment: datetime, user_id: UUID) -> None:
    """Note who accepted an invitation."""
    await session.execute(
        _ACCEPT, key_organization_id=organization_id, key_id=invitation_id, accepted_at=moment, accepted_by=user_id
    )


async def page(
    session: Session, organization_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """Invitations in the order they were made."""
    return await _PAGE.fetch(session, after, limit, organization_id=organization_id)
