"""Storage of sessions. A session belongs to a user; the organisation is what they look at just now."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, null, select, update

from services.identity import rows
from services.identity.models import sessions as table
from shared.db import Record, Session

_SHOWN = ("id", "organization_id", "user_agent", "client_address", "created_at", "last_seen_at", "expires_at")
_COLUMNS = [table.c[name] for name in (*_SHOWN, "token_sha256")]
_MINE = table.c.user_id == bindparam("user_id")
_MOMENT = bindparam("moment", type_=table.c.expires_at.type)

_BY_TOKEN = select(*_COLUMNS).where(
    _MINE, table.c.token_sha256 == bindparam("token_sha256"), table.c.expires_at > _MOMENT
)
_SWITCH = (
    update(table)
    .where(_MINE, table.c.id == bindparam("session_id"))
    .values(organization_id=bindparam("organization_id"))
    .returning(*_COLUMNS)
)
_END = delete(table).where(_MINE, table.c.id == bindparam("session_id")).returning(table.c.id, table.c.organization_id)
_END_ALL = delete(table).where(_MINE, table.c.token_sha256 != bindparam("kept")).returning(table.c.id)
_LEAVE = update(table).where(_MINE, table.c.organization_id == bindparam("left_id")).values(organization_id=null())
_PURGE = delete(table).where(table.c.expires_at <= _MOMENT)
_PAGE = rows.Listing(select(*_COLUMNS).where(_MINE, table.c.expires_at > _MOMENT), table)


async def add(session: Session, row: Mapping[str, Any]) -> None:
    """Store a new session."""
    await rows.add(session, table, row)


async def by_token(session: Session, user_id: UUID, token_sha256: bytes, moment: datetime) -> Record | None:
    """The user's session with this token, unless it has expired by ``moment``."""
    return await session.fetch_one(_BY_TOKEN, user_id=user_id, token_sha256=token_sha256, moment=moment)


async def switch(session: Session, user_id: UUID, session_id: UUID, organization_id: UUID) -> Record | None:
    """Let a session look at another organisation."""
    return await session.fetch_one(_SWITCH, user_id=user_id, session_id=session_id, organization_id=organization_id)


async def end(session: Session, user_id: UUID, session_id: UUID) -> Record | None:
    """Remove one of the user's sessions: its id and organisation."""
    return await session.fetch_one(_END, user_id=user_id, session_id=session_id)


async def end_all(session: Session, user_id: UUID, kept: bytes = b"") -> int:
    """Remove the user's sessions, all but the one whose token hashes to ``kept``; how many."""
    return len(await session.fetch(_END_ALL, user_id=user_id, kept=kept))


async def leave(session: Session, user_id: UUID, organization_id: UUID) -> None:
    """Let the user's sessions look at this organisation no more."""
    await session.execute(_LEAVE, user_id=user_id, left_id=organization_id)


async def purge(session: Session, moment: datetime) -> None:
    """Forget the sessions that have expired by ``moment``."""
    await session.execute(_PURGE, moment=moment)


async def page(
    session: Session, user_id: UUID, moment: datetime, after: tuple[datetime, UUID] | None, limit: int
) -> list[Record]:
    """The user's sessions that are alive at ``moment``, oldest first."""
    return await _PAGE.fetch(session, after, limit, user_id=user_id, moment=moment)
