"""Storage of mails that wait to be sent."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select, update

from services.identity.models import mail_outbox as table
from shared.db import Record, Session

_THIS = table.c.id == bindparam("mail_id")
_MOMENT = bindparam("moment", type_=table.c.created_at.type)

_INSERT = insert(table).values(
    {name: bindparam(name) for name in ("id", "kind", "sealed", "attempts", "next_attempt_at", "created_at")}
)
_DUE = (
    select(table.c.id)
    .where(table.c.failed_at.is_(None), table.c.next_attempt_at <= _MOMENT)
    .order_by(table.c.next_attempt_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    update(table)
    .where(table.c.id.in_(_DUE.scalar_subquery()))
    .values(attempts=table.c.attempts + 1, next_attempt_at=bindparam("lease_until"))
    .returning(table.c.id, table.c.kind, table.c.sealed, table.c.attempts, table.c.created_at)
)
_REPLACE = update(table).where(_THIS).values(kind="mail", sealed=bindparam("sealed"))
_REMOVE = delete(table).where(_THIS)
_POSTPONE = (
    update(table)
    .where(_THIS)
    .values({name: bindparam(name) for name in ("next_attempt_at", "failed_at", "last_error")})
)
_PURGE = delete(table).where(table.c.failed_at < _MOMENT)


async def add(session: Session, row: dict[str, Any]) -> None:
    """Queue a mail or an order for one."""
    await session.execute(_INSERT, **row)


async def claim(session: Session, moment: datetime, lease_until: datetime, limit: int) -> list[Record]:
    """Take mails that are due at ``moment`` and keep others off them until ``lease_until``."""
    return await session.fetch(_CLAIM, moment=moment, lease_until=lease_until, limit=limit)


async def replace(session: Session, mail_id: UUID, sealed: bytes) -> None:
    """Make a mail of an order."""
    await session.execute(_REPLACE, mail_id=mail_id, sealed=sealed)


async def remove(session: Session, mail_id: UUID) -> None:
    """Forget a mail that is sent."""
    await session.execute(_REMOVE, mail_id=mail_id)


async def postpone(
    session: Session, mail_id: UUID, *, next_attempt_at: datetime, failed_at: datetime | None, last_error: str
) -> None:
    """Try again later, or (``failed_at``) no more."""
    await session.execute(
        _POSTPONE, mail_id=mail_id, next_attempt_at=next_attempt_at, failed_at=failed_at, last_error=last_error
    )


async def purge(session: Session, moment: datetime) -> None:
    """Forget mails that were given up before ``moment``."""
    await session.execute(_PURGE, moment=moment)
